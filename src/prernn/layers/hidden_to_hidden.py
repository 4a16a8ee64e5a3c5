"""The recurrent product ``W_hh h`` as a module, for vectors and feature maps."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from prernn.layers.arguments import real, whole
from prernn.layers.computed_weights import refresh
from prernn.layers.structures.base import Structure
from prernn.layers.structures.input_weights import InputWeights
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.reference import Product


@dataclass(frozen=True)
class RecurrentWeights:
    """What a sequence needs for ``W_hh h + b``: ``weight (G, *weight_shape)``, ``bias (G, D)`` or None.

    A full weight may be ``(G, D, P)``, for an h of P units (`prernn.LSTM`'s ``proj_size``). If ``narrow`` is given, the
    weight is its values, which have few bits.
    """

    structure: Structure
    size: int
    weight: Tensor
    index: Tensor | None
    bias: Tensor | None
    narrow: NarrowRecurrence | None = None

    @classmethod
    def of(
        cls,
        structure: Structure,
        size: int,
        weight: Tensor | NarrowRecurrence,
        index: Tensor | None,
        bias: Tensor | None,
    ) -> "RecurrentWeights":
        """From a weight of either kind."""
        if isinstance(weight, NarrowRecurrence):
            return cls(structure, size, weight.values, index, bias, weight)
        return cls(structure, size, weight, index, bias)

    def products(self, groups: tuple[tuple[int, int], ...]) -> list[Product]:
        """One function ``h (N, D) -> W_hh h + b (N, last-first, D)`` for each range ``(first, last)`` of gates."""
        return [self._product(first, last) for first, last in groups]

    def _product(self, first: int, last: int) -> Product:
        if self.narrow is not None:
            return self.narrow.product_of(first, last, self.index, self.bias)
        product = self.structure.product(_part(self.weight, first, last), self.index, self.size)
        if self.bias is None:
            return product
        offset = _part(self.bias, first, last)
        return lambda h: product(h) + offset

    def band(self) -> Tensor | None:
        """``W_hh`` in the form of `prernn.ops.fused`, ``(G, D, C)``, or None."""
        return None if self.narrow is not None else self.structure.band(self.weight)

    @property
    def columns(self) -> int:
        """Number of columns of the matrix."""
        return self.size

    def matrix(self) -> Tensor:
        """Dense ``W_hh``, ``(G, D, D)``."""
        weight = self.weight if self.narrow is None else self.narrow.compact()
        return self.structure.matrix(weight, self.index, self.size)


def _part(tensor: Tensor, first: int, last: int) -> Tensor:
    """The slice for some gates; a copy during export, because torch's scan can't take two views of one tensor."""
    part = tensor[first:last]
    return part.clone() if torch.compiler.is_exporting() else part


def draw_index(structure: Structure, size: int, weight: Tensor, inputs: int | None = None) -> Tensor | None:
    """The structure's constant positions, on the device of ``weight``; None on meta, where nothing is computed."""
    index = None if weight.is_meta else structure.index(size) if inputs is None else structure.index(size, inputs)
    return index if index is None else index.to(weight.device)


class HiddenToHidden(nn.Module):
    """The recurrent product ``W_hh h`` of ``gates`` gates in a structure; ``weight`` is compact.

    ``gates`` may be 0, for cells that are affine in their state and whose gates do not see it.

    ``W_hh`` is initialized uniformly in ``+-gain/sqrt(fan_in)``, so that the product of a sparse structure starts at
    the scale of the full one (the same as torch.nn if the structure is full and the gain is 1).

    Raises:
        ValueError: a structure that is impossible for ``size``, a gain below 0.
    """

    index: Tensor | None

    def __init__(
        self,
        size: int,
        gates: int,
        hidden: str | Structure = "full",
        *,
        gain: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.structure, self.gain = hidden_structure(hidden), real("gain", gain, 0)
        self.size, self.gates = whole("size", size), whole("gates", gates, 0)
        self.structure.check(self.size)
        shape = (self.gates, *self.structure.weight_shape(self.size))
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_buffer("index", draw_index(self.structure, self.size, self.weight), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes ``W_hh`` at random, uniform in ``+-gain/sqrt(fan_in)``."""
        if not self.gates:  # nothing to draw
            return
        bound = self.gain / math.sqrt(self.structure.fan_in(self.size))
        nn.init.uniform_(self.weight, -bound, bound)

    def weight_count(self) -> int:
        """Number of recurrent weights of all gates."""
        return self.gates * self.structure.weight_count(self.size)

    def positions(self) -> Tensor | None:
        """The structure's constant positions; a module built on meta computes them once it gets its weights."""
        return late_index(self, self.structure, self.size, self.weight)

    def weights(self, bias: Tensor | None = None) -> RecurrentWeights:
        """The product's weights, with ``bias (G, D)``."""
        refresh(self)  # pruning hooks run in forward passes, and this is the recurrence's
        return RecurrentWeights.of(self.structure, self.size, self.weight, self.positions(), bias)

    def matrix(self) -> Tensor:
        """Dense ``W_hh``, ``(G, D, D)``."""
        if not self.gates:
            return self.weight.new_zeros(0, self.size, self.size)
        return self.weights().matrix()

    @torch.no_grad()
    def zero_(self) -> None:
        """Sets ``W_hh = 0``."""
        self.weight.zero_()

    @torch.no_grad()
    def own_connections(self) -> Tensor:
        """Which of the compact weights connect a neuron to itself: booleans in the shape of ``weight``."""
        place = matrix_places(self.weights())
        return (place % self.size == place // self.size % self.size) & (place >= 0)

    @torch.no_grad()
    def identity_(self) -> None:
        """Sets ``W_hh`` to the identity.

        Raises:
            NotImplementedError: a structure in which a neuron is not connected to itself.
        """
        if self.weight.is_meta:
            return
        own = self.own_connections()
        if int(own.sum()) != self.gates * self.size:
            raise NotImplementedError(f"expected a structure that contains the identity, got {str(self.structure)!r}")
        self.weight.copy_(own)

    def forward(self, h: Tensor) -> Tensor:
        """``W_hh h``: ``h (B, D)`` gives ``(B, G, D)``; a feature map ``(B, D, H, W)`` gives ``(B, G, D, H, W)``."""
        (product,) = self.weights().products(((0, self.gates),))
        if h.ndim == 2:
            return product(h)
        rows = h.movedim(1, -1)  # (B, H, W, D)
        out: Tensor = product(rows.reshape(-1, self.size)).unflatten(0, rows.shape[:-1])  # (B, H, W, G, D)
        return out.movedim((-2, -1), (1, 2))  # (B, G, D, H, W)

    def extra_repr(self) -> str:
        return f"size={self.size}, gates={self.gates}, hidden={str(self.structure)!r}"


def matrix_places(weights: RecurrentWeights | InputWeights) -> Tensor:
    """Position ``g*D*I + i*I + j`` in ``W (G, D, I)`` of each compact weight, in its shape; -1 outside the matrix.

    The weight connects neuron or input ``j`` to neuron ``i`` of gate ``g``; with a projection, ``j`` is a unit of it.
    """
    if not weights.weight.numel():  # a cell whose gates do not see the state
        return torch.empty_like(weights.weight, dtype=torch.int64)
    # weights numbered from 1 show where each ends up in the matrix; float64 holds the numbers exactly
    count, device = weights.weight.numel(), weights.weight.device
    numbers = torch.arange(1, count + 1, dtype=torch.float64, device=device).view_as(weights.weight)
    matrix = replace(weights, weight=numbers, narrow=None).matrix()  # (G, D, I or P)
    matrix = F.pad(matrix, (0, weights.columns - matrix.shape[2]))  # (G, D, I)
    (inside,) = matrix.flatten().nonzero(as_tuple=True)
    found = torch.full((count,), -1, dtype=torch.int64, device=device)
    found[matrix.flatten()[inside].long() - 1] = inside
    return found.view_as(weights.weight)


def late_index(
    module: nn.Module, structure: Structure, size: int, weight: Tensor, inputs: int | None = None, name: str = "index"
) -> Tensor | None:
    """The positions stored in a module as ``name``; a module built on meta computes them once it gets its weights."""
    index: Tensor | None = getattr(module, name)
    if index is None:
        index = draw_index(structure, size, weight, inputs)
        if index is not None:  # torch.export would take setting None again for a change
            setattr(module, name, index)
    return index
