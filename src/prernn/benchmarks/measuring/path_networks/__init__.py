"""Networks of paths that learn pictures: one training each, what they hold, and why they learn as they do."""
