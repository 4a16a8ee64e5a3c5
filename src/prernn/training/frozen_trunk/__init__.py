"""Training behind a frozen trunk, which runs only once over the videos."""
