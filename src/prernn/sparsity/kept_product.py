"""Path layers whose weights don't change: compressed rows or a dense matrix are computed once and cached.

Along the paths each weight updates its output in memory; in compressed rows, sorted by output, each sum is written only
once. Sorting takes longer than a product, so its result is cached. Changes of weights need not be announced: each call
compares the weights with the cached ones byte by byte, which takes a fifth of the time of a product with one row.
Comparing torch's version counter would be free, but it misses changes through ``Tensor.data``, numpy arrays and
inference mode.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.ops.backends import kernels, learns
from prernn.ops.compressed_rows import usable
from prernn.ops.paths import dense

KEPT_DENSE = 0.25
"""Paths, as a share of all connections, above which a cached dense matrix is faster than rows (``prernn bench
paths``)."""


def can_keep(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a `KeptProduct` can compute this: float32 on the CPU, without gradients, tracing or export."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
        return False  # a tracer's tensors have no values to compare
    return not learns(x, weight, bias) and usable(x, weight, bias)


@dataclass(frozen=True)
class Kept:
    """Copies of a layer's paths ``(P,)`` and weights ``(P, ..)``, and ``held``, what was computed from them."""

    source: Tensor
    destination: Tensor
    weight: Tensor
    held: Tensor

    def follows(self, source: Tensor, destination: Tensor) -> bool:
        """Whether it was computed from these same path tensors."""
        return self.source is source and self.destination is destination

    def has(self, weight: Tensor) -> bool:
        """Whether it was computed from these weights, comparing bytes."""
        same: bool = kernels("native").same(self.weight, weight)
        return same


@dataclass(frozen=True)
class KeptProduct(Kept):
    """Paths sorted by output and input; ``held`` is their weights ``(1, P)`` or a dense matrix ``(outputs, inputs)``.

    Attributes:
        order: order of the paths in the rows, ``(P,)``.
        start, column: the compressed rows, ``(outputs+1,)`` and ``(P,)``.
    """

    inputs: int
    order: Tensor
    start: Tensor
    column: Tensor
    dense: bool

    @classmethod
    def of(
        cls, source: Tensor, destination: Tensor, inputs: int, outputs: int, weight: Tensor, dense: bool | None = None
    ) -> "KeptProduct":
        """The product for these paths with weights ``(P,)``; by default their share decides whether it is dense."""
        order = (destination.long() * inputs + source).argsort(stable=True)
        counts = torch.bincount(destination.long(), minlength=outputs)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        dense = len(source) > KEPT_DENSE * inputs * outputs if dense is None else dense
        made = cls(source, destination, weight, weight, inputs, order, start, source[order], dense)
        return made.of_weights(weight)

    @torch.no_grad()
    def of_weights(self, weight: Tensor) -> "KeptProduct":
        """The same paths with other weights."""
        weight = weight.detach().clone()
        if self.dense:
            held = dense(weight, self.source, self.destination, self.inputs, len(self.start) - 1)
        else:
            held = weight[self.order].unsqueeze(0)
        return dataclasses.replace(self, weight=weight, held=held)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Maps ``(N, inputs)`` to ``(N, outputs)``."""
        if self.dense:
            return F.linear(x, self.held, bias)
        y: Tensor = kernels("native").rows_product(x, self.held, self.start, self.column, bias)
        return y.squeeze(1)
