"""Sparsity of any network: Sobol' paths, quantization without retraining, activations sampled while it runs."""
