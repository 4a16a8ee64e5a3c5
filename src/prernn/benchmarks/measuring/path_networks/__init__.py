"""Networks of paths that learn pictures: single trainings, their contents, and why they learn as they do."""
