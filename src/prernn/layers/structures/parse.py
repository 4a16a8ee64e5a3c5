"""Hidden-to-hidden structures: which neurons feed which, stored compactly.

A structure knows its connectivity for any hidden size ``D``: the ``mask``, the number of weights a gate,
the shape of the compact weight, the product ``W_hh h`` and the dense matrix. Specification strings name
them everywhere: ``full``, ``diagonal``, ``band:21``, ``band:5%``, ``grouped:4``, ``sparse:0.1``, ``paths:8``, the last
two also as ``sparse:0.1+self`` and ``paths:8+self``, with a connection of every neuron to itself
(BandRNN talk; "Structural Sparsity" talk, structurally sparse RNNs).

The structures with a regular pattern are here, those without one in `prernn.layers.structures.irregular`. A new structure is one class
with the methods of `Structure` and one line in `STRUCTURES`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.layers.structures.irregular import SELF, Paths, SelfConnected, Sparse, check_size, dense_product, shortest

Product = Callable[[Tensor], Tensor]


class Structure(Protocol):
    """What every hidden-to-hidden structure offers. ``D`` is the hidden size, ``G`` the number of gates."""

    def check(self, size: int) -> None:
        """Raises ValueError where the structure makes no sense for ``size`` neurons."""

    def mask(self, size: int) -> Tensor:
        """Connectivity ``(D, D)`` bool, row = receiving neuron."""

    def weight_count(self, size: int) -> int:
        """Weights a gate, those outside the matrix not counted."""

    def fan_in(self, size: int) -> int:
        """Weights that a neuron away from the border receives."""

    def weight_shape(self, size: int) -> tuple[int, ...]:
        """Shape of one gate's compact weight."""

    def index(self, size: int) -> Tensor | None:
        """Constant positions that `product` and `matrix` need, or None."""

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        """A function ``h (N, D) -> W_hh h (N, G, D)``; what it needs of ``weight`` is prepared once."""

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        """Dense ``W_hh``, ``(G, D, D)``, differentiable in ``weight``."""

    def band(self, weight: Tensor) -> Tensor | None:
        """``weight`` as `prernn.ops.fused` takes it, ``(G, D, C)``, or None where its kernels don't fit."""


@dataclass(frozen=True)
class Full:
    """Every neuron feeds every neuron: ``D*D`` weights a gate, ``(D, D)``."""

    def __str__(self):
        return "full"

    def check(self, size):
        check_size(size)

    def mask(self, size):
        self.check(size)
        return torch.ones(size, size, dtype=torch.bool)

    def weight_count(self, size):
        self.check(size)
        return size * size

    def fan_in(self, size):
        return size

    def weight_shape(self, size):
        return (size, size)

    def index(self, size):
        return None

    def product(self, weight, index, size):
        return dense_product(weight, size)

    def matrix(self, weight, index, size):
        return weight

    def band(self, weight):
        return None


@dataclass(frozen=True)
class Diagonal:
    """Every neuron feeds itself alone: ``D`` weights a gate, ``(D,)`` (IndRNN's recurrence)."""

    def __str__(self):
        return "diagonal"

    def check(self, size):
        check_size(size)

    def mask(self, size):
        self.check(size)
        return torch.eye(size, dtype=torch.bool)

    def weight_count(self, size):
        self.check(size)
        return size

    def fan_in(self, size):
        return 1

    def weight_shape(self, size):
        return (size,)

    def index(self, size):
        return None

    def product(self, weight, index, size):
        return lambda h: h.unsqueeze(1) * weight

    def matrix(self, weight, index, size):
        return torch.diag_embed(weight)

    def band(self, weight):
        return weight.unsqueeze(2)


@dataclass(frozen=True)
class Band:
    """Every neuron feeds its ``C-1`` nearest neighbours and itself; nothing wraps.

    ``C*D - (C*C-1)/4`` weights a gate, stored as ``(D, C)``: entry ``[i, c]`` joins neuron ``i+c-(C-1)/2`` to
    neuron ``i``; entries that would reach outside the matrix are never used. ``percent`` gives the odd ``C``
    nearest to that share of ``D`` (the wider one when two are equally near).
    """

    width: int | None = None
    percent: float | None = None

    def __str__(self):
        return f"band:{self.width}" if self.percent is None else f"band:{shortest(self.percent)}%"

    def columns(self, size: int) -> int:
        """Width ``C`` of the band for ``size`` neurons."""
        if self.percent is None:
            assert self.width is not None  # one of the two is given
            return self.width
        nearest = 2 * math.floor((self.percent / 100 * size - 1) / 2 + 0.5) + 1
        return max(1, min(nearest, 2 * size - 1))

    def check(self, size):
        check_size(size)
        if self.columns(size) > 2 * size - 1:
            raise ValueError(f"hidden={str(self)!r}: the width must be at most 2*D-1, got D={size}")

    def mask(self, size):
        self.check(size)
        place = torch.arange(size)
        return (place[:, None] - place[None, :]).abs() <= self.columns(size) // 2

    def weight_count(self, size):
        self.check(size)
        columns = self.columns(size)
        return columns * size - (columns * columns - 1) // 4

    def fan_in(self, size):
        return min(self.columns(size), size)

    def weight_shape(self, size):
        return (size, self.columns(size))

    def index(self, size):
        return None

    def product(self, weight, index, size):
        columns, inside = weight.shape[2], self._only_inside(weight)

        def product(h):
            windows = F.pad(h, (columns // 2, columns // 2)).unfold(1, columns, 1)  # (N, D, C)
            return torch.einsum("ndc,gdc->ngd", windows, inside)

        return product

    def matrix(self, weight, index, size):
        gates, _, columns = weight.shape
        padded = weight.new_zeros(gates, size, size + columns - 1)
        neighbours = self._neighbours(weight).expand(gates, -1, -1)
        padded = padded.scatter(2, neighbours + columns // 2, self._only_inside(weight))
        return padded[:, :, columns // 2 : columns // 2 + size]

    def band(self, weight):
        return weight

    def _neighbours(self, weight: Tensor) -> Tensor:
        """Neuron that each entry reads, ``(D, C)``, negative or past ``D-1`` outside the matrix."""
        _, size, columns = weight.shape
        device = weight.device
        return torch.arange(size, device=device)[:, None] + torch.arange(columns, device=device) - columns // 2

    def _only_inside(self, weight: Tensor) -> Tensor:
        """The weights, 0 outside the matrix: whatever stands there (even NaN) can never be used."""
        neighbours = self._neighbours(weight)
        inside = (neighbours >= 0) & (neighbours < weight.shape[1])
        return torch.where(inside, weight, weight.new_zeros(()))


@dataclass(frozen=True)
class Grouped:
    """``groups`` independent groups of neighbours, full inside: ``D*D/groups`` weights a gate, ``(D, D/groups)``."""

    groups: int

    def __str__(self):
        return f"grouped:{self.groups}"

    def check(self, size):
        check_size(size)
        if size % self.groups:
            raise ValueError(f"hidden={str(self)!r}: the hidden size must be a multiple of the groups, got D={size}")

    def mask(self, size):
        self.check(size)
        group = torch.arange(size) // (size // self.groups)
        return group[:, None] == group[None, :]

    def weight_count(self, size):
        self.check(size)
        return size * size // self.groups

    def fan_in(self, size):
        return size // self.groups

    def weight_shape(self, size):
        return (size, size // self.groups)

    def index(self, size):
        return None

    def product(self, weight, index, size):
        gates, width = weight.shape[0], size // self.groups
        blocks = weight.reshape(-1, width, width).transpose(1, 2)  # (G*groups, d, d), the weights as they lie

        def product(h):
            parts = h.unflatten(1, (self.groups, width)).transpose(0, 1).repeat(gates, 1, 1)  # (G*groups, N, d)
            out = torch.bmm(parts, blocks).unflatten(0, (gates, self.groups))  # (G, groups, N, d)
            return out.permute(2, 0, 1, 3).flatten(2)  # (N, G, D)

        return product

    def matrix(self, weight, index, size):
        blocks = weight.unflatten(1, (self.groups, -1))  # (G, groups, d, d)
        return torch.stack([torch.block_diag(*gate.unbind(0)) for gate in blocks.unbind(0)])

    def band(self, weight):
        return None


def _parse_full(argument: str) -> Full:
    _require(argument == "", "takes no argument")
    return Full()


def _parse_diagonal(argument: str) -> Diagonal:
    _require(argument == "", "takes no argument")
    return Diagonal()


def _parse_band(argument: str) -> Band:
    if argument.endswith("%"):
        percent = _number(float, argument[:-1], "the share of D must be a percentage, as in 'band:5%'")
        _require(0 < percent <= 100, "the share of D must lie above 0% and at most at 100%")
        return Band(percent=percent)
    width = _number(int, argument, "the width must be an odd positive integer or a percentage of D")
    _require(width > 0 and width % 2 == 1, "the width must be an odd positive integer")
    return Band(width=width)


def _parse_grouped(argument: str) -> Grouped:
    groups = _number(int, argument, "the number of groups must be a positive integer")
    _require(groups > 0, "the number of groups must be a positive integer")
    return Grouped(groups)


def _parse_sparse(argument: str) -> Sparse:
    density = _number(float, argument, "the density must be a number above 0 and at most 1")
    _require(0 < density <= 1, "the density must be a number above 0 and at most 1")
    return Sparse(density)


def _parse_paths(argument: str) -> Paths:
    paths = _number(int, argument, "the number of paths must be a positive integer")
    _require(paths > 0, "the number of paths must be a positive integer")
    return Paths(paths)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def _number(kind: type, text: str, rule: str):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(rule) from None


STRUCTURES: dict[str, Callable[[str], Structure]] = {
    "full": _parse_full,
    "diagonal": _parse_diagonal,
    "band": _parse_band,
    "grouped": _parse_grouped,
    "sparse": _parse_sparse,
    "paths": _parse_paths,
}

EXAMPLES = "full, diagonal, band:21, band:5%, grouped:4, sparse:0.1, paths:8"


def self_connected(structure: Structure) -> Structure:
    """The structure, with every neuron's connection to itself where it might lack them."""
    return SelfConnected(structure) if isinstance(structure, (Sparse, Paths)) else structure


def hidden_structure(spec: str | Structure) -> Structure:
    """The structure that a specification string names; a structure passes through.

    Raises:
        ValueError: an unknown word or an argument that makes no sense, naming the spec and the rule.
    """
    if not isinstance(spec, str):
        if not hasattr(spec, "weight_shape"):
            raise ValueError(f"hidden={spec!r}: expected one of {EXAMPLES}")
        return spec
    plain, own = spec.strip().removesuffix(SELF), spec.strip().endswith(SELF)
    word, _, argument = plain.partition(":")
    if word not in STRUCTURES:
        raise ValueError(f"hidden={spec!r}: unknown structure, expected one of {EXAMPLES}")
    try:
        structure = STRUCTURES[word](argument.strip())
    except ValueError as error:
        raise ValueError(f"hidden={spec!r}: {error}") from None
    if own and self_connected(structure) is structure:
        raise ValueError(f"hidden={spec!r}: every neuron of {plain!r} is connected to itself already")
    return self_connected(structure) if own else structure
