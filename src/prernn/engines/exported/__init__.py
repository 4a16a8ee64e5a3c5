"""Writes a network as a file that runs without prernn."""
