"""Weights of few bits: bfloat16, or 8-bit integers with a scale for each row; sums and everything else in float32.

A step of a stream takes as long as its weights take to come from memory: half or a quarter of the bytes is what these
gain, by the C kernels on a CPU. With more rows they are widened first, which costs no more than float32.
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.ops.backends import kernels, learns, takes_native

TYPES = {"bfloat16": torch.bfloat16, "int8": torch.int8}

FEW = 16
"""Rows of a product up to which the kernels are faster than a float32 product (2048 x 8192, one thread of an AMD EPYC
with AVX-512, 2026-11-29: 1 row 2.85 ms in float32, 0.80 in bfloat16, 0.35 in 8 bits; 16 rows 9.7, 3.9, 3.0)."""


Segments = tuple[Tensor, Tensor, Tensor]
"""``begin`` int64, ``first`` and ``count`` int32 ``(R,)``: where an output's weights begin, the input that the first of
them meets, and how many there are."""


class NarrowWeight(nn.Module):
    """``scale * values``, in the place of a float32 weight ``(R, K)``.

    Example:
        >>> import torch
        >>> from prernn.ops.narrow import NarrowWeight
        >>> weight = torch.randn(8, 4)
        >>> narrow = NarrowWeight(weight, "int8")
        >>> bool((narrow.wide() - weight).abs().max() <= weight.abs().max() / 254 + 1e-6)
        True

    Args:
        weight: ``(R, K)``.
        kind: "bfloat16", or "int8": the row's largest weight is 127, others are rounded to the nearest. A row of
            multiples of one number up to 127 times it, as `prernn.quantize` makes them, is kept exactly.

    Attributes:
        values: in the narrow type.
        scale: ``(R,)`` float32, or None.

    Raises:
        ValueError: another kind, weights that are not finite.
    """

    values: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, kind: str):
        super().__init__()
        if kind not in TYPES:
            raise ValueError(f"expected precision to be one of {', '.join(TYPES)}, got {kind!r}")
        weight, scale = weight.detach().float(), None
        if not bool(weight.to(TYPES["bfloat16"]).isfinite().all()):
            raise ValueError("expected finite weights, got some that are infinite or not a number")
        if kind == "int8":
            scale = _scale(weight)
            weight = (weight / scale.unsqueeze(1)).round().clamp(-127, 127)
        self.register_buffer("values", weight.to(TYPES[kind]))
        self.register_buffer("scale", scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Takes them to another device, but not to another type."""
        kept = {name: value for name, value in self._buffers.items() if value is not None and not value.is_meta}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = value.to(moved.device)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of what it is multiplied with."""
        return torch.float32

    def wide(self) -> Tensor:
        """The weight in float32, ``(R, K)``."""
        values = self.values.float()
        return values if self.scale is None else values * self.scale.unsqueeze(1)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x W^T + b`` for ``x (..., K)``.

        Raises:
            ValueError: another width.
        """
        if x.shape[-1] != self.values.shape[1]:
            raise ValueError(f"expected an input (..., {self.values.shape[1]}), got shape {tuple(x.shape)}")
        rows = x.reshape(-1, x.shape[-1])
        if not fits(rows, bias):
            return F.linear(x, self.wide().to(x.dtype), bias)
        y: Tensor = kernels("native").narrow_product(rows, self.values, self.scale, bias)
        return y.view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return f"{tuple(self.values.shape)}, {str(self.values.dtype).removeprefix('torch.')}"


def _scale(weight: Tensor) -> Tensor:
    """What the 8-bit integers of each row are times, ``(R,)``."""
    size = weight.abs()
    if not size.numel():
        return weight.new_ones(len(weight))
    scale = size.amax(1) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    some = torch.where(size > 0, size, torch.inf)
    for unit in (some.amin(1), some.amin().expand(len(size))):  # of each row, of the matrix
        times = size / unit.unsqueeze(1)
        whole = ((times - times.round()).abs().amax(1) < 1e-3) & (times.amax(1) < 127.5) & unit.isfinite()
        scale = torch.where(whole, unit, scale)
    return scale


def fits(rows: Tensor, bias: Tensor | None = None) -> bool:
    """Whether the kernels take a product with ``rows (N, K)``, and sooner than a float32 product would be done."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):  # before anything fixes a symbolic batch size
        return False
    given = [rows] if bias is None else [rows, bias]
    plain = all(each.device.type == "cpu" and each.dtype == torch.float32 for each in given)
    if learns(rows, bias):
        return False
    return takes_native() and plain and 0 < len(rows) <= FEW


def refuse_narrow(module: nn.Module, instead: str) -> None:
    """NotImplementedError where a module has weights of few bits, with what to do instead."""
    if any(isinstance(part, NarrowWeight) for part in module.modules()):
        raise NotImplementedError(f"expected weights as they were trained, got some of few bits: {instead}")
