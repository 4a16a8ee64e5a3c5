"""Language modeling, word by word."""
