"""Benchmarks, one file for each figure of speed: ``prernn bench NAME``."""
