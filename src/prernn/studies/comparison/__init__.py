"""Networks trained side by side, with the same data, budget and search."""
