"""Sparsity for any network: Sobol' paths, quantization without retraining, sampling of activations at run time."""
