"""Whether two ways to compute a network give the same."""

import torch
from torch import Tensor

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}
"""Largest difference of outputs that counts as the same, as a share of the largest output: rounding errors of
float32 stay below 1e-5 in the networks here, those of bfloat16, with 8 bits, below some hundredths."""


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value, where that is finite; infinite where shapes
    differ, or one is finite and the other not."""
    if got.shape != expected.shape:
        return float("inf")
    got, expected = got.double(), expected.double()
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(expected[finite].abs().max())
    apart = float((got - expected)[finite].abs().max())
    return apart / scale if scale else apart
