"""Language modelling, word by word."""
