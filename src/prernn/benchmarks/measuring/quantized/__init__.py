"""Quantized networks: rounded to nearest for comparison, over samples and draws, and in each engine's files."""
