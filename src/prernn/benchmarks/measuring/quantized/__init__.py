"""Quantized networks: rounded to nearest for comparison, over samples and draws, in files of each engine."""
