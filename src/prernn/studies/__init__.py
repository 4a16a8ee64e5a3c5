"""Whole experiments with one command each: networks are compared, asked early, quantized and inspected."""
