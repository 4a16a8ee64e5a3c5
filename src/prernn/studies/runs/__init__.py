"""What trained runs look like inside: gates, weights and curves on one page."""
