"""Pictures: curves, classes, gates, weights."""
