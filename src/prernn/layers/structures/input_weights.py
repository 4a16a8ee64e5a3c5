"""The input projection ``W_ih x + b`` in a structure."""

import math
from dataclasses import dataclass

from torch import Tensor

from prernn.layers.structures.base import Structure
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence
from prernn.layers.structures.parse import input_structure


@dataclass(frozen=True)
class InputWeights:
    """What ``W_ih x + b`` needs: ``weight (G, *weight_shape)``, ``bias (G*D,)`` or None, for ``I`` inputs.

    If ``narrow`` is given, the weight is its values, which have few bits.
    """

    structure: Structure
    size: int
    inputs: int
    weight: Tensor
    index: Tensor | None
    bias: Tensor | None
    narrow: NarrowRecurrence | None = None

    @classmethod
    def of(
        cls,
        structure: Structure,
        size: int,
        inputs: int,
        weight: Tensor | NarrowRecurrence,
        index: Tensor | None,
        bias: Tensor | None,
    ) -> "InputWeights":
        """From a weight of either kind."""
        if isinstance(weight, NarrowRecurrence):
            return cls(structure, size, inputs, weight.values, index, bias, weight)
        return cls(structure, size, inputs, weight, index, bias)

    @property
    def columns(self) -> int:
        """Number of columns of the matrix."""
        return self.inputs

    def project(self, x: Tensor) -> Tensor:
        """Maps ``x (..., I)`` to gate inputs ``(..., G, D)``."""
        rows = x.flatten(0, -2)
        if self.narrow is None:
            u = self.structure.project(rows, self.weight, self.index, self.size, self.bias)
        else:
            bias = None if self.bias is None else self.bias.unflatten(0, (-1, self.size))
            u = self.narrow.product_of(0, len(self.weight), self.index, bias)(rows)
        out: Tensor = u.unflatten(0, x.shape[:-1])
        return out

    def matrix(self) -> Tensor:
        """Dense ``W_ih``, ``(G, D, I)``."""
        weight = self.weight if self.narrow is None else self.narrow.compact()
        return self.structure.matrix(weight, self.index, self.size, self.inputs)


def checked(inputs: str | Structure, size: int, *features: int) -> Structure:
    """The structure of ``W_ih``; ValueError if it does not fit ``size`` neurons and each layer's ``features``."""
    structure = input_structure(inputs)
    for each in features:
        structure.check(size, each)
    return structure


def start_bound(structure: Structure, size: int, inputs: int) -> float:
    """The bound within which ``W_ih`` is initialized, uniformly between plus and minus this value.

    torch.nn uses ``1 / sqrt(D)``. If neurons receive only n of I inputs, the bound is ``sqrt(I / n)`` times as large,
    so that gate inputs start at the scale of the full product, as products with ``W_hh`` do.
    """
    return math.sqrt(inputs / (structure.fan_in(size, inputs) * size))
