"""Training behind a frozen trunk, which runs once over the videos."""
