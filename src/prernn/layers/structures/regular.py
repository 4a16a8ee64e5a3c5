"""Structures with a regular pattern: full, diagonal, ring, band, grouped.

They have the methods of `prernn.layers.structures.base.Structure`; ``I`` is ``D`` in a recurrence.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import real, whole
from prernn.layers.structures.base import dense_product, gathered_product, misfit, senders, shortest
from prernn.layers.structures.projection import by_rows, dense_projection, rows_projection
from prernn.ops.input_projection import blockwise
from prernn.ops.reference import Product


@dataclass(frozen=True)
class Full:
    """Every neuron receives all others and itself: ``D*I`` weights per gate, ``(D, I)``."""

    def __str__(self) -> str:
        return "full"

    def check(self, size: int, inputs: int | None = None) -> None:
        senders(size, inputs)

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        return torch.ones(size, senders(size, inputs), dtype=torch.bool)

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        return size * senders(size, inputs)

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        return senders(size, inputs)

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (size, senders(size, inputs))

    def index(self, size: int, inputs: int | None = None) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return dense_product(weight, size)

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        return dense_projection(x, weight, bias)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        return weight

    def band(self, weight: Tensor) -> None:
        return None


class _OneEach:
    """A structure in which every neuron receives a single one: ``D`` weights per gate, ``(D,)``; ``I`` is ``D``."""

    def check(self, size: int, inputs: int | None = None) -> None:
        if senders(size, inputs) != size:
            raise misfit(self, "there must be as many inputs as units", size, inputs)

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        self.check(size, inputs)
        return size

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        return 1

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (size,)

    def index(self, size: int, inputs: int | None = None) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        raise NotImplementedError

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        u = self.product(weight, index, size)(x)
        return u if bias is None else u + bias.view_as(weight)


@dataclass(frozen=True)
class Diagonal(_OneEach):
    """Every neuron receives only itself, or its own input: ``D`` weights per gate, ``(D,)`` (IndRNN's recurrence)."""

    def __str__(self) -> str:
        return "diagonal"

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        self.check(size, inputs)
        return torch.eye(size, dtype=torch.bool)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return lambda h: h.unsqueeze(1) * weight

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        return torch.diag_embed(weight)

    def band(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(2)


@dataclass(frozen=True)
class Ring(_OneEach):
    """Every neuron receives only the previous one, and the first the last: ``D`` weights per gate, ``(D,)``.

    A neuron's value returns to it after ``D`` steps.
    """

    def __str__(self) -> str:
        return "ring"

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        self.check(size, inputs)
        return torch.eye(size, dtype=torch.bool).roll(1, dims=0)

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        return lambda h: h.roll(1, dims=1).unsqueeze(1) * weight

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        return torch.diag_embed(weight.roll(-1, dims=1)).roll(1, dims=1)

    def band(self, weight: Tensor) -> None:
        return None


@dataclass(frozen=True)
class Band:
    """Every neuron receives itself and its ``C-1`` nearest neighbors, without wrap-around.

    Neuron ``i`` receives the ``C`` inputs around ``m_i = floor((i + 1/2) I / D)``, which is a diagonal stretched from
    corner to corner of the matrix; in a recurrence, and with as many inputs as units, ``m_i = i``.

    ``C*D - (C*C-1)/4`` weights per gate for ``I = D``, stored as ``(D, C)``: entry ``[i, c]`` connects input
    ``m_i+c-(C-1)/2`` to neuron ``i``; entries outside the matrix are never used. ``percent`` gives the odd ``C``
    nearest to that share of ``I`` (the wider one if two are equally near).
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

    def columns(self, inputs: int) -> int:
        """Width ``C`` of the band over ``inputs`` inputs."""
        if self.percent is None:
            assert self.width is not None  # one of the two is given
            return self.width
        nearest = 2 * math.floor((self.percent / 100 * inputs - 1) / 2 + 0.5) + 1
        return max(1, min(nearest, 2 * inputs - 1))

    def check(self, size: int, inputs: int | None = None) -> None:
        heard = senders(size, inputs)
        if self.columns(heard) > 2 * heard - 1:
            raise misfit(self, f"the width must be at most 2*{'D' if inputs is None else 'I'}-1", size, inputs)

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        self.check(size, inputs)
        heard = senders(size, inputs)
        middle = torch.tensor(list(middles(size, heard)))
        return (middle[:, None] - torch.arange(heard)).abs() <= self.columns(heard) // 2

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        self.check(size, inputs)
        heard = senders(size, inputs)
        half = self.columns(heard) // 2
        return sum(min(middle + half, heard - 1) - max(middle - half, 0) + 1 for middle in middles(size, heard))

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        heard = senders(size, inputs)
        return min(self.columns(heard), heard)

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (size, self.columns(senders(size, inputs)))

    def index(self, size: int, inputs: int | None = None) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        columns, inside = weight.shape[2], self._only_inside(weight, size)
        if torch.compiler.is_exporting():
            places = torch.arange(size, device=weight.device)[:, None] + torch.arange(columns, device=weight.device)
            return gathered_product(inside, places, columns // 2)

        def product(h: Tensor) -> Tensor:
            windows = F.pad(h, (columns // 2, columns // 2)).unfold(1, columns, 1)  # (N, D, C)
            return torch.einsum("ndc,gdc->ngd", windows, inside)

        return product

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        heard, columns = x.shape[1], weight.shape[2]
        if by_rows(weight, columns / heard):
            return rows_projection(x, self._only_inside(weight, heard).flatten(1), bias, "band", columns, size)
        return dense_projection(x, self.matrix(weight, index, size, heard), bias)

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        (gates, _, columns), heard = weight.shape, senders(size, inputs)
        padded = weight.new_zeros(gates, size, heard + columns - 1)
        neighbors = self._neighbors(weight, heard).expand(gates, -1, -1)
        padded = padded.scatter(2, neighbors + columns // 2, self._only_inside(weight, heard))
        return padded[:, :, columns // 2 : columns // 2 + heard]

    def band(self, weight: Tensor) -> Tensor:
        return weight

    def _neighbors(self, weight: Tensor, inputs: int) -> Tensor:
        """The input that each entry reads, ``(D, C)``, negative or past ``I-1`` outside the matrix."""
        _, size, columns = weight.shape
        device = weight.device
        middle = (2 * torch.arange(size, device=device) + 1) * inputs // (2 * size)
        return middle[:, None] + torch.arange(columns, device=device) - columns // 2

    def _only_inside(self, weight: Tensor, inputs: int) -> Tensor:
        """The weights, with 0 outside the matrix, so that entries there (even NaN) are never used."""
        neighbors = self._neighbors(weight, inputs)
        inside = (neighbors >= 0) & (neighbors < inputs)
        return torch.where(inside, weight, weight.new_zeros(()))


@dataclass(frozen=True)
class Grouped:
    """``groups`` independent groups of neighbors, each full: ``D*I/groups`` weights per gate, ``(D, I/groups)``.

    Both ``D`` and ``I`` are multiples of ``groups``; the k-th group of neurons receives the k-th group of inputs.
    """

    groups: int

    def __post_init__(self) -> None:
        whole("groups", self.groups)

    def __str__(self) -> str:
        return f"grouped:{self.groups}"

    def check(self, size: int, inputs: int | None = None) -> None:
        if senders(size, inputs) % self.groups or size % self.groups:
            sizes = "the hidden size must be a multiple" if inputs is None else "both sizes must be multiples"
            raise misfit(self, f"{sizes} of the groups", size, inputs)

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        self.check(size, inputs)
        heard = senders(size, inputs)
        receiver = torch.arange(size) // (size // self.groups)
        sender = torch.arange(heard) // (heard // self.groups)
        return receiver[:, None] == sender[None, :]

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        self.check(size, inputs)
        return size * senders(size, inputs) // self.groups

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        return senders(size, inputs) // self.groups

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        return (size, senders(size, inputs) // self.groups)

    def index(self, size: int, inputs: int | None = None) -> None:
        return None

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        gates, width = weight.shape[0], size // self.groups
        blocks = weight.reshape(-1, width, width).transpose(1, 2)  # (G*groups, d, d), without copying the weights

        def product(h: Tensor) -> Tensor:
            parts = h.unflatten(1, (self.groups, width)).transpose(0, 1).repeat(gates, 1, 1)  # (G*groups, N, d)
            out = torch.bmm(parts, blocks).unflatten(0, (gates, self.groups))  # (G, groups, N, d)
            turned: Tensor = out.permute(2, 0, 1, 3).flatten(2)  # (N, G, D)
            return turned

        return product

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        blocks = weight.reshape(-1, size // self.groups, weight.shape[2])  # (G*groups, D/groups, I/groups)
        u: Tensor = blockwise(x, blocks, bias).unflatten(1, (-1, size))
        return u

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        blocks = weight.unflatten(1, (self.groups, -1))  # (G, groups, D/groups, I/groups)
        return torch.stack([torch.block_diag(*gate.unbind(0)) for gate in blocks.unbind(0)])

    def band(self, weight: Tensor) -> None:
        return None


def middles(size: int, inputs: int) -> Iterator[int]:
    """For each neuron, the input on the diagonal of a ``(size, inputs)`` matrix, stretched from corner to corner."""
    return ((2 * neuron + 1) * inputs // (2 * size) for neuron in range(size))
