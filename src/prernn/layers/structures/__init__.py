"""Structures of hidden-to-hidden and input weights: full, diagonal, ring, band, grouped, sparse, paths."""
