"""Structures without a regular pattern: random and Sobol' connections, with or without self-connections.

They have the methods of `prernn.layers.structures.base.Structure`; ``I`` is ``D`` in a recurrence. Their connections
are functions of ``D``, ``I`` and one parameter (`prernn.ops.connections`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prernn.layers.arguments import real, whole
from prernn.layers.structures.base import Structure, dense_product, gathered_product, misfit, senders, shortest
from prernn.layers.structures.projection import by_rows, dense_projection, rows_projection
from prernn.ops import compressed_rows
from prernn.ops.connections import ENTRIES, random_count
from prernn.ops.reference import Product
from prernn.ops.sobol import path_sources

SELF = "+self"
"""Suffix of the specification string of `SelfConnected`."""


@dataclass(frozen=True)
class Sparse:
    """A fixed random mask keeps the share ``density`` of the matrix: ``round(density*D*I)`` weights per gate.

    For example, ``sparse:0.1`` keeps a tenth. The talk "Structural Sparsity" counts ``D D (1 - p)`` weights: its p is
    the share that is removed, so the density is ``1 - p``.

    The mask depends only on ``D``, ``I`` and ``density`` (`prernn.ops.connections`). Storage is linear in the number of
    weights, and so is the product on the CPU (compressed rows); on other devices and above the density `DENSE` it uses
    the dense matrix.
    """

    density: float

    def __post_init__(self) -> None:
        try:
            real("density", self.density, 0, 1, above=True)
        except ValueError as error:
            raise ValueError(f"{error}; it is the share of weights that is kept") from None

    def __str__(self) -> str:
        return f"sparse:{shortest(self.density)}"

    def check(self, size: int, inputs: int | None = None) -> None:
        senders(size, inputs)

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        mask = torch.zeros(size * senders(size, inputs), dtype=torch.bool)
        mask[self.index(size, inputs)] = True
        return mask.view(size, -1)

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        return random_count(size, senders(size, inputs), self.density)

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        return max(1, round(self.density * senders(size, inputs)))

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (self.weight_count(size, inputs),)

    def index(self, size: int, inputs: int | None = None) -> Tensor:
        return _positions("sparse", self.density, size, senders(size, inputs))

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return _product(weight, index, size, self.density, "sparse", self.density)

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        return _project(x, weight, index, size, bias, "sparse", self.density)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        return _matrix_of(weight, index, size, senders(size, inputs))

    def band(self, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class Paths:
    """Each neuron receives ``paths`` Sobol' connections: ``paths*D`` weights per gate, ``(D, paths)``.

    All connections are distinct. In a recurrence each neuron also sends exactly ``paths``; if ``I`` is not ``D``, all
    inputs send about equally many (see `prernn.ops.sobol`).
    """

    paths: int

    def __post_init__(self) -> None:
        whole("paths", self.paths)

    def __str__(self) -> str:
        return f"paths:{self.paths}"

    def check(self, size: int, inputs: int | None = None) -> None:
        if self.paths > senders(size, inputs):
            most = "D different sources" if inputs is None else "I different sources"
            raise misfit(self, f"a neuron has at most {most}", size, inputs)

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        self.check(size, inputs)
        mask = torch.zeros(size, senders(size, inputs), dtype=torch.bool)
        return mask.scatter(1, self.index(size, inputs), True)

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        self.check(size, inputs)
        return self.paths * size

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        return self.paths

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (size, self.paths)

    def index(self, size: int, inputs: int | None = None) -> Tensor:
        return path_sources(size, self.paths, inputs)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        if compressed_rows.usable(weight):
            flat = weight.flatten(1)
            return lambda h: compressed_rows.product(h, flat, "paths", self.paths)
        if torch.compiler.is_exporting():
            return gathered_product(weight, _drawn(index))
        return lambda h: torch.einsum("ndp,gdp->ngd", h[:, _drawn(index)], weight)

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        if by_rows(weight, self.paths / x.shape[1]):
            return rows_projection(x, weight.flatten(1), bias, "paths", self.paths, size)
        return dense_projection(x, self.matrix(weight, index, size, x.shape[1]), bias)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        gates, heard = weight.shape[0], senders(size, inputs)
        return weight.new_zeros(gates, size, heard).scatter(2, _drawn(index).expand(gates, -1, -1), weight)

    def band(self, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class SelfConnected:
    """The connections of ``base``, plus one from every neuron to itself, its memory ("Structural Sparsity" talk).

    ``(E,)`` weights per gate, ordered by receiver, then sender; a connection that ``base`` already has counts once. The
    structure can represent the identity, which RCN starts from. There must be as many inputs as neurons.
    """

    base: Structure

    def __str__(self) -> str:
        return f"{self.base}{SELF}"

    @property
    def _named(self) -> tuple[str, float] | None:
        """Name and amount of the connections in `prernn.ops.connections`; None if they are not listed there."""
        if isinstance(self.base, Sparse):
            return f"sparse{SELF}", self.base.density
        return (f"paths{SELF}", self.base.paths) if isinstance(self.base, Paths) else None

    def check(self, size: int, inputs: int | None = None) -> None:
        if senders(size, inputs) != size:
            raise misfit(self, "there must be as many inputs as units", size, inputs)
        self.base.check(size)

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        self.check(size, inputs)
        return self.base.mask(size) | torch.eye(size, dtype=torch.bool)

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        self.check(size, inputs)
        return len(self.index(size))

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        return min(self.base.fan_in(size) + 1, size)

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (self.weight_count(size),)

    def index(self, size: int, inputs: int | None = None) -> Tensor:
        if self._named is not None:
            return _positions(*self._named, size, size)
        return self.mask(size).flatten().nonzero().squeeze(1)  # by receiver, then sender

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        if self._named is None:
            return dense_product(_matrix_of(weight, index, size, size), size)
        return _product(weight, index, size, weight.shape[1] / size**2, *self._named)

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        if self._named is None:
            return dense_projection(x, _matrix_of(weight, index, size, size), bias)
        return _project(x, weight, index, size, bias, *self._named)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        return _matrix_of(weight, index, size, size)

    def band(self, weight: Tensor) -> None:
        return None


def _positions(kind: str, amount: float, size: int, inputs: int) -> Tensor:
    """Positions ``(E,)`` in the flat matrix ``(D, I)`` of the connections that ``kind`` and ``amount`` specify."""
    receiver, sender = ENTRIES[kind](size, inputs, amount)
    return receiver * inputs + sender


def _matrix_of(weight: Tensor, index: Tensor | None, size: int, inputs: int) -> Tensor:
    """The dense matrices ``(G, D, I)`` with weights ``(G, E)`` at the positions ``index (E,)``, 0 elsewhere."""
    flat = weight.new_zeros(weight.shape[0], size * inputs)
    matrix: Tensor = flat.index_copy(1, _drawn(index), weight).unflatten(1, (size, inputs))
    return matrix


def _drawn(index: Tensor | None) -> Tensor:
    """The positions, which are None only on the meta device, where nothing is computed."""
    if index is None:
        raise TypeError("expected the positions of the connections, got None: a layer on meta has none")
    return index


def _product(weight: Tensor, index: Tensor | None, size: int, share: float, kind: str, amount: float) -> Product:
    """``W_hh h`` for the weights ``(G, E)``: with compressed rows if they are few, otherwise with the dense matrix."""
    if by_rows(weight, share):
        return lambda h: compressed_rows.product(h, weight, kind, amount)
    return dense_product(_matrix_of(weight, index, size, size), size)


def _project(
    x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None, kind: str, amount: float
) -> Tensor:
    """``W_ih x + b``, computed in the same way as `_product`."""
    if by_rows(weight, weight.shape[1] / (size * x.shape[1])):
        return rows_projection(x, weight, bias, kind, amount, size)
    return dense_projection(x, _matrix_of(weight, index, size, x.shape[1]), bias)
