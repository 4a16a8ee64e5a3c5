"""Integer weights for trained networks: sampling, correction, coding in files, integer inference."""
