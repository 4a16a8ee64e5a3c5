"""A layer of paths whose weights stay: their product by compressed rows, or dense where there are many.

Along the paths each weight writes its output anew; in compressed rows, sorted by output, a sum is written once. Sorting
takes longer than a product, so it is done once, and its result is kept for the calls that follow. Nobody has to say
that weights have changed: each call compares them with those of which the rows were made, number by number, which takes
a fraction of the product, and is right however they came to be others.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
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
    floats = [x, weight] if bias is None else [x, weight, bias]
    return not learns(*floats) and all(usable(tensor) for tensor in floats)


@dataclass(frozen=True)
class KeptProduct:
    """Paths sorted by output and input, and the weights that were put there.

    Attributes:
        source, destination: of the paths, as the layer has them, ``(P,)``.
        order: of the paths in the rows, ``(P,)``.
        start, column: the compressed rows, ``(outputs+1,)`` and ``(P,)``.
        weight: of the layer, as it was, ``(P,)``.
        held: weights in the rows, ``(1, P)``, or, where it is dense, the matrix ``(outputs, inputs)``.
    """

    source: Tensor
    destination: Tensor
    inputs: int
    order: Tensor
    start: Tensor
    column: Tensor
    weight: Tensor
    held: Tensor
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
        return cls(source, destination, inputs, order, start, source[order], weight, weight, dense).of_weights(weight)

    def follows(self, source: Tensor, destination: Tensor) -> bool:
        """Whether it was made of these very paths."""
        return self.source is source and self.destination is destination

    def has(self, weight: Tensor) -> bool:
        """Whether these are its weights, by their values; by numpy, which takes a fifth of `torch.equal`'s time."""
        return np.array_equal(self.weight.numpy(), weight.detach().numpy())

    @torch.no_grad()
    def of_weights(self, weight: Tensor) -> "KeptProduct":
        """The same paths with other weights."""
        weight = weight.detach().clone()
        if self.dense:
            held = dense(weight, self.source, self.destination, self.inputs, len(self.start) - 1)
        else:
            held = weight[self.order].unsqueeze(0)
        return dataclasses.replace(self, weight=weight, held=held)

    def product(self, x: Tensor) -> Tensor:
        """``(N, inputs)`` to ``(N, outputs)``."""
        if self.dense:
            return F.linear(x, self.held)
        y: Tensor = kernels("native").rows_product(x, self.held, self.start, self.column)
        return y.squeeze(1)
