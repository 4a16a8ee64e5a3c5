"""Layers of paths whose weights stay: what was made of these, compressed rows or a dense matrix, is kept.

Along the paths each weight writes its output anew; in compressed rows, sorted by output, a sum is written once. Sorting
takes longer than a product, so it is done once, and its result is kept for the calls that follow. Nobody has to say
that weights have changed: each call compares them with those of which the rows were made, byte by byte, which takes
a fifth of a product with one row. torch's count of changes would take none, but does not see what ``Tensor.data``, an
array of numpy's or inference mode do to a weight.
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
"""Paths over all connections above which a dense matrix that is kept is faster than rows (``prernn bench paths``)."""


def can_keep(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a `KeptProduct` computes this: float32 on the CPU, nothing differentiated, traced or exported."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
        return False  # a tensor that is a tracer's has no values to compare
    return not learns(x, weight, bias) and usable(x, weight, bias)


@dataclass(frozen=True)
class Kept:
    """Paths and weights of a layer, as they were, ``(P,)`` and ``(P, ..)``, and what was made of them."""

    source: Tensor
    destination: Tensor
    weight: Tensor
    held: Tensor

    def follows(self, source: Tensor, destination: Tensor) -> bool:
        """Whether it was made of these very paths."""
        return self.source is source and self.destination is destination

    def has(self, weight: Tensor) -> bool:
        """Whether these are its weights, by their bytes."""
        same: bool = kernels("native").same(self.weight, weight)
        return same


@dataclass(frozen=True)
class KeptProduct(Kept):
    """Paths sorted by output and input; ``held``: their weights ``(1, P)``, or a dense matrix ``(outputs, inputs)``.

    Attributes:
        order: of the paths in the rows, ``(P,)``.
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
        """The rows of these paths, with weights ``(P,)``; dense, unless it is told, by their share."""
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
        """``(N, inputs)`` to ``(N, outputs)``."""
        if self.dense:
            return F.linear(x, self.held, bias)
        y: Tensor = kernels("native").rows_product(x, self.held, self.start, self.column, bias)
        return y.squeeze(1)
