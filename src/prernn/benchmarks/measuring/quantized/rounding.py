"""Weights rounded individually, for comparison with samples: to the nearest integer, or to three values."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prernn.sparsity.quantization.coding import coded_bits
from prernn.sparsity.quantization.weights import weights_of

Rounding = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From weights, one row per output, to integers and a scale for each row."""


def nearest(bits: int) -> Rounding:
    """``q = round(w / s)`` with ``s = max |w| / (2**(bits-1) - 1)``: symmetric, no data, no retraining."""

    def round_off(rows: Tensor) -> tuple[Tensor, Tensor]:
        scale = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-30)
        return (rows / scale).round(), scale

    return round_off


def ternary(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``q = sign(w)`` where ``|w|`` is above 0.7 times its mean, else 0; times the mean ``|w|`` where it is above."""
    size = rows.abs()
    chosen = size > 0.7 * size.mean(1, keepdim=True)
    scale = (size * chosen).sum(1, keepdim=True) / chosen.sum(1, keepdim=True).clamp(min=1)
    return rows.sign() * chosen, scale


def rounded_network(net: nn.Module, round_off: Rounding) -> tuple[nn.Module, list[Tensor]]:
    """A copy with rounded weights, and the integers of each."""
    net = copy.deepcopy(net)
    found = []
    with torch.no_grad():
        for weight in weights_of(net):
            leading = 2 if weight.values.ndim == 3 else 1  # gates and their units
            integers, scale = round_off(weight.values.flatten(0, leading - 1).flatten(1))
            weight.values.copy_((integers * scale).view_as(weight.values))
            found.append(integers.long())
    return net, found


def coded_and_nonzero(integers: list[Tensor]) -> tuple[float, float]:
    """Bits per integer in a file, and the share of non-zero ones, over all layers together."""
    count = sum(part.numel() for part in integers)
    coded = sum(coded_bits(part) * part.numel() for part in integers) / count
    return coded, sum(int(part.count_nonzero()) for part in integers) / count
