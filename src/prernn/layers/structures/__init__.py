"""Structures of the hidden-to-hidden matrix: full, diagonal, band, grouped, sparse, paths."""
