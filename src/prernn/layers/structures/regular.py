"""Structures of ``W_hh`` with a regular pattern: full, diagonal, ring, band, grouped."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import real, whole
from prernn.layers.structures.base import check_size, dense_product, gathered_product, shortest
from prernn.ops.reference import Product


@dataclass(frozen=True)
class Full:
    """Every neuron feeds every neuron: ``D*D`` weights a gate, ``(D, D)``."""

    def __str__(self) -> str:
        return "full"

    def check(self, size: int) -> None:
        check_size(size)

    def mask(self, size: int) -> Tensor:
        self.check(size)
        return torch.ones(size, size, dtype=torch.bool)

    def weight_count(self, size: int) -> int:
        self.check(size)
        return size * size

    def fan_in(self, size: int) -> int:
        return size

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (size, size)

    def index(self, size: int) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return dense_product(weight, size)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        return weight

    def band(self, weight: Tensor) -> None:
        return None


class _OneEach:
    """A structure in which every neuron hears one other, or itself: ``D`` weights a gate, ``(D,)``."""

    def check(self, size: int) -> None:
        check_size(size)

    def weight_count(self, size: int) -> int:
        self.check(size)
        return size

    def fan_in(self, size: int) -> int:
        return 1

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (size,)

    def index(self, size: int) -> None:
        return None


@dataclass(frozen=True)
class Diagonal(_OneEach):
    """Every neuron feeds itself alone: ``D`` weights a gate, ``(D,)`` (IndRNN's recurrence)."""

    def __str__(self) -> str:
        return "diagonal"

    def mask(self, size: int) -> Tensor:
        self.check(size)
        return torch.eye(size, dtype=torch.bool)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return lambda h: h.unsqueeze(1) * weight

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        return torch.diag_embed(weight)

    def band(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(2)


@dataclass(frozen=True)
class Ring(_OneEach):
    """Every neuron hears the one before it alone, and the first the last: ``D`` weights a gate, ``(D,)``.

    What a neuron held comes back to it after ``D`` steps.
    """

    def __str__(self) -> str:
        return "ring"

    def mask(self, size: int) -> Tensor:
        self.check(size)
        return torch.eye(size, dtype=torch.bool).roll(1, dims=0)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return lambda h: h.roll(1, dims=1).unsqueeze(1) * weight

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        return torch.diag_embed(weight.roll(-1, dims=1)).roll(1, dims=1)

    def band(self, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class Band:
    """Every neuron feeds its ``C-1`` nearest neighbours and itself; nothing wraps.

    ``C*D - (C*C-1)/4`` weights a gate, stored as ``(D, C)``: entry ``[i, c]`` joins neuron ``i+c-(C-1)/2`` to
    neuron ``i``; entries that would reach outside the matrix are never used. ``percent`` gives the odd ``C``
    nearest to that share of ``D`` (the wider one when two are equally near).
    """

    width: int | None = None
    percent: float | None = None

    def __post_init__(self) -> None:
        if self.percent is not None:
            real("percent", self.percent, 0, 100, above=True)
        elif whole("width", self.width) % 2 == 0:
            raise ValueError(f"width: expected an odd number, got {self.width}")

    def __str__(self) -> str:
        return f"band:{self.width}" if self.percent is None else f"band:{shortest(self.percent)}%"

    def columns(self, size: int) -> int:
        """Width ``C`` of the band for ``size`` neurons."""
        if self.percent is None:
            assert self.width is not None  # one of the two is given
            return self.width
        nearest = 2 * math.floor((self.percent / 100 * size - 1) / 2 + 0.5) + 1
        return max(1, min(nearest, 2 * size - 1))

    def check(self, size: int) -> None:
        check_size(size)
        if self.columns(size) > 2 * size - 1:
            raise ValueError(f"hidden={str(self)!r}: the width must be at most 2*D-1, got D={size}")

    def mask(self, size: int) -> Tensor:
        self.check(size)
        place = torch.arange(size)
        return (place[:, None] - place[None, :]).abs() <= self.columns(size) // 2

    def weight_count(self, size: int) -> int:
        self.check(size)
        columns = self.columns(size)
        return columns * size - (columns * columns - 1) // 4

    def fan_in(self, size: int) -> int:
        return min(self.columns(size), size)

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (size, self.columns(size))

    def index(self, size: int) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        columns, inside = weight.shape[2], self._only_inside(weight)
        if torch.compiler.is_exporting():
            places = torch.arange(size, device=weight.device)[:, None] + torch.arange(columns, device=weight.device)
            return gathered_product(inside, places, columns // 2)

        def product(h: Tensor) -> Tensor:
            windows = F.pad(h, (columns // 2, columns // 2)).unfold(1, columns, 1)  # (N, D, C)
            return torch.einsum("ndc,gdc->ngd", windows, inside)

        return product

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        gates, _, columns = weight.shape
        padded = weight.new_zeros(gates, size, size + columns - 1)
        neighbours = self._neighbours(weight).expand(gates, -1, -1)
        padded = padded.scatter(2, neighbours + columns // 2, self._only_inside(weight))
        return padded[:, :, columns // 2 : columns // 2 + size]

    def band(self, weight: Tensor) -> Tensor:
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

    def __post_init__(self) -> None:
        whole("groups", self.groups)

    def __str__(self) -> str:
        return f"grouped:{self.groups}"

    def check(self, size: int) -> None:
        check_size(size)
        if size % self.groups:
            raise ValueError(f"hidden={str(self)!r}: the hidden size must be a multiple of the groups, got D={size}")

    def mask(self, size: int) -> Tensor:
        self.check(size)
        group = torch.arange(size) // (size // self.groups)
        return group[:, None] == group[None, :]

    def weight_count(self, size: int) -> int:
        self.check(size)
        return size * size // self.groups

    def fan_in(self, size: int) -> int:
        return size // self.groups

    def weight_shape(self, size: int) -> tuple[int, ...]:
        return (size, size // self.groups)

    def index(self, size: int) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        gates, width = weight.shape[0], size // self.groups
        blocks = weight.reshape(-1, width, width).transpose(1, 2)  # (G*groups, d, d), the weights as they lie

        def product(h: Tensor) -> Tensor:
            parts = h.unflatten(1, (self.groups, width)).transpose(0, 1).repeat(gates, 1, 1)  # (G*groups, N, d)
            out = torch.bmm(parts, blocks).unflatten(0, (gates, self.groups))  # (G, groups, N, d)
            turned: Tensor = out.permute(2, 0, 1, 3).flatten(2)  # (N, G, D)
            return turned

        return product

    def matrix(self, weight: Tensor, index: Tensor | None, size: int) -> Tensor:
        blocks = weight.unflatten(1, (self.groups, -1))  # (G, groups, d, d)
        return torch.stack([torch.block_diag(*gate.unbind(0)) for gate in blocks.unbind(0)])

    def band(self, weight: Tensor) -> None:
        return None
