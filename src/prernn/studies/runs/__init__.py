"""The inside of trained runs: gates, weights and curves on one page."""
