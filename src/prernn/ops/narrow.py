"""Weights of few bits: bfloat16, or 8-bit integers with a scale for each row; sums and everything else in float32.

A step of a stream takes as long as it takes to load its weights from memory: with the C kernels on a CPU, weights of
half or a quarter of the bytes make it faster. With more rows the weights are converted to float32 first, so that it is
no slower than float32.

If the inputs have 8 bits too ("int8x8"), products and sums are computed in integers, of which a processor does many at
once (AVX-512 VNNI), so that several streams gain as much as one. They are exact: every instruction set, and torch if
there are no kernels, gives the same numbers, and a sequence gives the same as its single steps.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.ops.backends import kernels, learns, takes_native
from prernn.ops.reference import Product

TYPES = {"bfloat16": torch.bfloat16, "int8": torch.int8, "int8x8": torch.int8}
"""Types of the weights; with "int8x8" the inputs have 8 bits too."""

FEW = 16
"""Number of rows up to which the kernels are faster than a float32 product (2048 x 8192, one thread of an AMD EPYC
with AVX-512, 2026-11-29: 1 row 2.85 ms in float32, 0.80 in bfloat16, 0.35 in 8 bits; 16 rows 9.7, 3.9, 3.0)."""

MOST_INPUTS = 65536
"""Most inputs of an integer product, so that its sums fit in 32 bits: 65536 * 255 * 128 is below 2^31."""

Segments = tuple[Tensor, Tensor, Tensor]
"""``begin`` int64, ``first`` and ``count`` int32 ``(R,)``: where the weights of an output begin, the input that belongs
to the first of them, and how many there are."""

Integers = tuple[Tensor, Tensor]
"""Integers ``(R, K)`` and a scale for each row ``(R,)``, whose product is a quantized weight."""


class FewBits(nn.Module):
    """Narrow buffers and those that belong to them, which keep their types when a module is converted to another."""

    def __init__(self, **buffers: Tensor | None):
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the buffers to another device, but does not change their type."""
        kept = {name: value for name, value in self._buffers.items() if value is not None and not value.is_meta}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = value.to(moved.device)
        return self


class NarrowWeight(FewBits):
    """``scale * values``, which replaces a float32 weight ``(R, K)``.

    Example:
        >>> import torch
        >>> from prernn.ops.narrow import NarrowWeight
        >>> weight = torch.randn(8, 4)
        >>> narrow = NarrowWeight(weight, "int8")
        >>> bool((narrow.wide() - weight).abs().max() <= weight.abs().max() / 254 + 1e-6)
        True

    Args:
        weight: ``(R, K)``.
        kind: "bfloat16", or "int8": each row's largest weight becomes 127, others are rounded to the nearest integer. A
            row whose weights are multiples of one number, up to 127 times, as `prernn.quantize` makes them, is stored
            exactly. "int8x8" is the same, with inputs in 8 bits (`in_8_bits`).
        integers: integers ``(R, K)`` up to 127 and a scale for each row ``(R,)`` whose product is the weight, as
            `prernn.quantize` left it: they are stored exactly. If the weight has changed since, they are ignored.

    Attributes:
        values: the integers or numbers, in the narrow type.
        scale: ``(R,)`` float32, or None.
        sums: sum of each row's values, ``(R,)`` int32, or None if inputs are floats.

    Raises:
        ValueError: another kind, weights that are not finite.
    """

    values: Tensor
    scale: Tensor | None
    sums: Tensor | None

    def __init__(self, weight: Tensor, kind: str, integers: Integers | None = None):
        if kind not in TYPES:
            raise ValueError(f"expected precision to be one of {', '.join(TYPES)}, got {kind!r}")
        weight, scale = weight.detach().float(), None
        if not bool(weight.to(torch.bfloat16).isfinite().all()):
            raise ValueError("expected finite weights, got some that are infinite or not a number")
        if TYPES[kind] == torch.int8:
            if integers is not None and is_product(weight, integers):
                weight, scale = integers
            else:
                scale = _scale(weight)
                weight = (weight / scale.unsqueeze(1)).round().clamp(-127, 127)
        values = weight.to(TYPES[kind])
        super().__init__(values=values, scale=None if scale is None else scale.clone())
        self.register_buffer("sums", values.sum(1, dtype=torch.int32) if kind == "int8x8" else None, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the inputs it is multiplied with."""
        return torch.float32

    def wide(self) -> Tensor:
        """The weight in float32, ``(R, K)``."""
        values = self.values.float()
        return values if self.scale is None else values * self.scale.unsqueeze(1)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x W^T + b`` for ``x (..., K)``.

        Raises:
            ValueError: an input of another width.
        """
        if x.shape[-1] != self.values.shape[1]:
            raise ValueError(f"expected an input (..., {self.values.shape[1]}), got shape {tuple(x.shape)}")
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 would say nothing of rows without a number
        y = self.by_kernel(rows, bias)
        if y is None:
            y = self.by_torch(lambda weight: lambda h: F.linear(h, weight))(rows)
            y = y if bias is None else y + bias.to(y.dtype)
        return y.view(*x.shape[:-1], y.shape[1])

    def by_kernel(
        self, x: Tensor, bias: Tensor | None, segments: Segments | None = None, part: slice = slice(None)
    ) -> Tensor | None:
        """``x W^T + b``, ``(N, R)``, for ``x (N, I)`` and some of the rows, with the C kernels.

        None if they do not support it, or if `by_torch` is faster. With ``segments`` each row multiplies only a part
        of x.
        """
        values = self.values if segments else self.values[part]
        scale = None if self.scale is None else self.scale[part]
        if self.sums is None:
            if not fits(x, bias):
                return None
            few: Tensor = kernels("native").narrow_product(x, values, scale, bias, segments)
            return few
        if not fits(x, bias, most=None) or x.shape[1] > MOST_INPUTS:
            return None
        whole: Tensor = kernels("native").integer_product(x, values, self.sums[part], scale, bias, segments)
        return whole

    def by_torch(self, make: Callable[[Tensor], Product], part: slice = slice(None)) -> Product:
        """A function ``x (N, K) -> x W^T (N, ...)`` for some of the rows, with torch's products of wider numbers.

        Args:
            make: makes such a function from a weight ``(R, K)``; it is called once for each type.
            part: the rows.
        """
        made: dict[tuple[bool, torch.dtype], Product] = {}

        def product(x: Tensor) -> Tensor:
            exact = self.sums is not None and not learns(x)
            key = (exact, x.dtype)
            if key not in made:
                made[key] = make(self.values[part].double() if exact else self.wide()[part].to(x.dtype))
            if not exact:
                return made[key](x if self.sums is None else _straight_through(x))
            assert self.scale is not None
            whole, step = in_8_bits(x)
            sums = made[key](whole.double()).float()  # float64 holds the integers
            scale = self.scale[part].view(sums.shape[1:])
            return (sums * step.view(-1, *[1] * (sums.ndim - 1)) * scale).to(x.dtype)

        return product

    def extra_repr(self) -> str:
        return f"{tuple(self.values.shape)}, {str(self.values.dtype).removeprefix('torch.')}"


def is_product(weight: Tensor, integers: Integers) -> bool:
    """Whether a weight ``(R, K)`` is the product of integers that fit in 8 bits and a scale."""
    counts, scale = integers
    return int(counts.long().abs().max()) <= 127 and torch.equal(counts * scale.unsqueeze(1), weight)


def _scale(weight: Tensor) -> Tensor:
    """The scale of the 8-bit integers in each row, ``(R,)``."""
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


def in_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers ``n`` and a step ``s`` for each row (one stream at one time), so that x is about ``s n``.

    A row's range, extended to include 0, is divided into 255 equal steps, and each number is rounded to the nearest:
    with ``q`` from 0 to 255

        s = (max(x, 0) - min(x, 0)) / 255,   n = q - z,   q = round(x / s) + z,   z = round(-min(x, 0) / s),

    so that ``|x - s n| <= s / 2`` and 0 stays 0. The error of a product with weights w is then at most
    ``s / 2 sum |w|``.

    Example:
        >>> import torch
        >>> n, s = in_8_bits(torch.tensor([[-1.0, 0.0, 0.5, 1.55]]))
        >>> n.tolist(), round(s.item(), 4)
        ([[-100.0, 0.0, 50.0, 155.0]], 0.01)

    Args:
        x: ``(N, K)``.

    Returns:
        ``n (N, K)``, from -255 to 255 in float32, and ``s (N, 1)``: 1 for a row of zeros or without a number, not a
        number where the row has infinite ones.
    """
    x = x.detach().float()
    if not x.shape[1]:  # a row without any number has no largest; as one of zeros it has the step 1
        return x, x.new_ones(len(x), 1)
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    step = high / 255 - low / 255
    step = torch.where(step == 0, 1.0, torch.where(step.isinf(), torch.nan, step))
    zero = (-low / step).round()
    return ((x / step).round() + zero).clamp(0, 255) - zero, step


def _straight_through(x: Tensor) -> Tensor:
    """``s n`` of `in_8_bits`, with the gradient of x (a straight-through estimator)."""
    whole, step = in_8_bits(x)
    return x + ((whole * step).to(x.dtype) - x.detach())


def fits(rows: Tensor, bias: Tensor | None = None, most: int | None = FEW) -> bool:
    """Whether the kernels support a product with ``rows (N, K)``, N up to ``most``.

    If only the weights have few bits, a float32 product is faster for more rows.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):  # the tests below would fix a symbolic batch
        return False
    given = [rows] if bias is None else [rows, bias]
    plain = all(each.device.type == "cpu" and each.dtype == torch.float32 for each in given)
    if learns(rows, bias):
        return False
    return takes_native() and plain and len(rows) > 0 and (most is None or len(rows) <= most)


def has_few_bits(module: nn.Module) -> bool:
    """Whether a module has weights of few bits."""
    return any(isinstance(part, FewBits) for part in module.modules())


def refuse_narrow(module: nn.Module, instead: str) -> None:
    """Raises NotImplementedError if a module has weights of few bits; the message says what to do instead."""
    if has_few_bits(module):
        raise NotImplementedError(f"expected weights as they were trained, got some of few bits: {instead}")
