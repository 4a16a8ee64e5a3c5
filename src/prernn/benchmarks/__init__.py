"""Benchmarks, one file per figure of speed: ``prernn bench NAME``."""
