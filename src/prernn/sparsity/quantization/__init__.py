"""Integer weights for trained networks: drawn, corrected, coded in files, multiplied."""
