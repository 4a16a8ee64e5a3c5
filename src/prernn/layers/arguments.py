"""Checks of numbers that a caller passes: a ValueError names the argument, what was expected and what was passed."""

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.types import Device

MOST = 2**31 - 1
"""Upper limit of any count, unless a different one is given."""
SEEDS = (-(2**63), 2**64 - 1)
"""The smallest and largest seed that torch's generators accept."""


def whole(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """``value`` as an int; ValueError for booleans, fractions and strings. Integers of numpy and torch are accepted."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):  # a tensor raises the latter
        number = None
    if number is None or not least <= number <= most:
        limit = f"at most {most}" if number is not None and number > most else f"at least {least}"
        raise ValueError(f"{name}: expected a whole number of {limit}, got {value!r}")
    return number


def real(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """``value`` as a finite float from ``low`` to ``high``; with ``above``, ``low`` itself is excluded."""
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        start = f"above {low:g}" if above else f"from {low:g} on" if high == math.inf else f"from {low:g}"
        limit = "" if high == math.inf else f", up to {high:g}" if above else f" to {high:g}"
        raise ValueError(f"{name}: expected a number {start}{limit}, got {value!r}")
    return number


def check_lengths(
    lengths: Tensor | Sequence[int] | None, steps: int, batch: int, device: Device, *, least: int = 0
) -> Tensor | None:
    """Lengths as a tensor ``(B,)``, or None if every row is as long as the batch. ValueError if they don't fit."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, device=device)
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    whole = whole or lengths.numel() == 0  # as_tensor([]) gives floats
    if lengths.shape != (batch,) or not whole or bool(((lengths < least) | (lengths > steps)).any()):
        raise ValueError(f"expected {batch} lengths between {least} and {steps}, integers, got {lengths.tolist()}")
    return lengths.long()
