"""Hidden-to-hidden structures without a regular pattern: random and Sobol' connections, also with those to itself.

They have the methods of `prernn.layers.structures.base.Structure`. Their connections are functions of the hidden size
``D`` and one parameter (`prernn.ops.connections`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prernn.layers.arguments import real, whole
from prernn.layers.structures.base import Structure, check_size, dense_product, gathered_product, shortest
from prernn.ops import compressed_rows
from prernn.ops.connections import ENTRIES, random_count
from prernn.ops.reference import Product
from prernn.ops.sobol import path_sources

SELF = "+self"
"""End of the specification string of `SelfConnected`."""


DENSE = 0.2
"""Density above which a matrix product is faster than compressed rows (benchmarks/recurrence.py, --rows)."""


@dataclass(frozen=True)
class Sparse:
    """A fixed random mask keeps the share ``density`` of the matrix: ``round(density*D*D)`` weights a gate.

    So ``sparse:0.1`` keeps a tenth. The talk "Structural Sparsity" counts ``D D (1 - p)`` weights: its p is the share
    that is removed, and the density is ``1 - p``.

    The mask is a function of ``D`` and ``density`` alone (`prernn.ops.connections`). Storage is linear in the number of
    weights; so is the product on the CPU (compressed rows), elsewhere and above `DENSE` it passes through the
    dense matrix.
    """

    density: float

    def __post_init__(self) -> None:
        try:
            real("density", self.density, 0, 1, above=True)
        except ValueError as error:
            raise ValueError(f"{error}; it is the share of weights that is kept") from None

    def __str__(self) -> str:
        return f"sparse:{shortest(self.density)}"

    def check(self, size: int) -> None:
        check_size(size)

    def mask(self, size: int) -> Tensor:
        self.check(size)
        mask = torch.zeros(size * size, dtype=torch.bool)
        mask[self.index(size)] = True
        return mask.view(size, size)

    def weight_count(self, size: int) -> int:
        self.check(size)
        return random_count(size, self.density)

    def fan_in(self, size: int) -> int:
        return max(1, round(self.density * size))

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (self.weight_count(size),)

    def index(self, size: int) -> Tensor:
        return _positions("sparse", self.density, size)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return _product(weight, index, size, self.density < DENSE, "sparse", self.density)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        return _matrix_of(weight, index, size)

    def band(self, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class Paths:
    """Each neuron receives ``paths`` Sobol' connections: ``paths*D`` weights a gate, ``(D, paths)``.

    Each neuron also sends exactly ``paths``, and no connection comes twice (see `prernn.ops.sobol`).
    """

    paths: int

    def __post_init__(self) -> None:
        whole("paths", self.paths)

    def __str__(self) -> str:
        return f"paths:{self.paths}"

    def check(self, size: int) -> None:
        check_size(size)
        if self.paths > size:
            raise ValueError(f"hidden={str(self)!r}: a neuron has at most D different sources, got D={size}")

    def mask(self, size: int) -> Tensor:
        self.check(size)
        mask = torch.zeros(size, size, dtype=torch.bool)
        return mask.scatter(1, self.index(size), True)

    def weight_count(self, size: int) -> int:
        self.check(size)
        return self.paths * size

    def fan_in(self, size: int) -> int:
        return self.paths

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (size, self.paths)

    def index(self, size: int) -> Tensor:
        return path_sources(size, self.paths)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        if compressed_rows.usable(weight):
            flat = weight.flatten(1)
            return lambda h: compressed_rows.product(h, flat, "paths", self.paths)
        if torch.compiler.is_exporting():
            return gathered_product(weight, _drawn(index))
        return lambda h: torch.einsum("ndp,gdp->ngd", h[:, _drawn(index)], weight)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        gates = weight.shape[0]
        return weight.new_zeros(gates, size, size).scatter(2, _drawn(index).expand(gates, -1, -1), weight)

    def band(self, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class SelfConnected:
    """The connections of ``base`` and one of every neuron to itself, its memory ("Structural Sparsity" talk).

    ``(E,)`` weights a gate, by receiver, then sender; a connection that ``base`` has already counts once. The identity
    lies in this structure, as an RCN's start needs it.
    """

    base: Structure

    def __str__(self) -> str:
        return f"{self.base}{SELF}"

    @property
    def _named(self) -> tuple[str, float] | None:
        """Name and amount of the connections in `prernn.ops.connections`; None where they are not there."""
        if isinstance(self.base, Sparse):
            return f"sparse{SELF}", self.base.density
        return (f"paths{SELF}", self.base.paths) if isinstance(self.base, Paths) else None

    def check(self, size: int) -> None:
        self.base.check(size)

    def mask(self, size: int) -> Tensor:
        return self.base.mask(size) | torch.eye(size, dtype=torch.bool)

    def weight_count(self, size: int) -> int:
        self.check(size)
        return len(self.index(size))

    def fan_in(self, size: int) -> int:
        return min(self.base.fan_in(size) + 1, size)

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (self.weight_count(size),)

    def index(self, size: int) -> Tensor:
        if self._named is not None:
            return _positions(*self._named, size)
        return self.mask(size).flatten().nonzero().squeeze(1)  # by receiver, then sender

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        if self._named is None:
            return dense_product(_matrix_of(weight, index, size), size)
        few = weight.shape[1] < DENSE * size * size
        return _product(weight, index, size, few, *self._named)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        return _matrix_of(weight, index, size)

    def band(self, weight: Tensor) -> None:
        return None


def _positions(kind: str, amount: float, size: int) -> Tensor:
    """Places ``(E,)`` in the flat matrix of the connections that ``kind`` and ``amount`` name."""
    receiver, sender = ENTRIES[kind](size, amount)
    return receiver * size + sender


def _matrix_of(weight: Tensor, index: Tensor | None, size: int) -> Tensor:
    """Dense ``(G, D, D)`` of the weights ``(G, E)`` at the places ``index (E,)``, 0 elsewhere."""
    flat = weight.new_zeros(weight.shape[0], size * size)
    matrix: Tensor = flat.index_copy(1, _drawn(index), weight).unflatten(1, (size, size))
    return matrix


def _drawn(index: Tensor | None) -> Tensor:
    """The positions. They are None on the meta device alone, where nothing is computed."""
    if index is None:
        raise TypeError("expected the positions of the connections, got None: a layer on meta has none")
    return index


def _product(weight: Tensor, index: Tensor | None, size: int, few: bool, kind: str, amount: float) -> Product:
    """``W_hh h`` for the weights ``(G, E)``: by compressed rows where they are few, or else by the dense matrix."""
    if few and compressed_rows.usable(weight):
        return lambda h: compressed_rows.product(h, weight, kind, amount)
    return dense_product(_matrix_of(weight, index, size), size)
