"""Plots: curves, classes, gates, weights."""
