"""``W_hh`` or ``W_ih`` with weights of few bits, for structures of contiguous neighbors and for irregular ones."""

import torch
from torch import Tensor, nn

from prernn.layers.structures.base import Structure
from prernn.ops.backends import kernels
from prernn.ops.narrow import FewBits, Integers, NarrowWeight, Segments, fits
from prernn.ops.reference import Product


class NarrowRecurrence(nn.Module):
    """The compact weight ``(G, *weight_shape)`` of ``W_hh``, or of ``W_ih``, in few bits (`prernn.ops.narrow`).

    Args:
        gates: number of gates G.
        size: number of units D.
        structure: structure of the weight.
        numbers: the stored weight: ``values`` in the narrow type, and their ``scale (G*D,)`` or None.
        projects: whether it is ``W_ih``, which is applied to the inputs of all steps at once.
    """

    def __init__(self, gates: int, size: int, structure: Structure, numbers: FewBits, projects: bool):
        super().__init__()
        self.gates, self.size, self.structure, self.projects = gates, size, structure, projects
        self.narrow = numbers

    @property
    def values(self) -> Tensor:
        """The numbers as they are stored, ``(G, *weight_shape)``."""
        raise NotImplementedError

    def compact(self) -> Tensor:
        """The weight in float32, ``(G, *weight_shape)``."""
        raise NotImplementedError

    def product_of(self, first: int, last: int, index: Tensor | None, bias: Tensor | None) -> Product:
        """A function ``h (N, D) -> W_hh h + b (N, last-first, D)`` for a range of gates."""
        raise NotImplementedError

    @property
    def is_meta(self) -> bool:
        """Whether it is on the meta device and has no numbers."""
        return self.values.is_meta

    @property
    def device(self) -> torch.device:
        """Device of the numbers."""
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the inputs it is multiplied with."""
        return torch.float32

    def new_zeros(self, *shape: int) -> Tensor:
        """Zeros on the same device, in the type of the product."""
        return torch.zeros(shape, device=self.device)

    def _wide(self, weight: Tensor, index: Tensor | None) -> Product:
        if self.projects:
            return lambda x: self.structure.project(x, weight.to(x.dtype), index, self.size)
        return self.structure.product(weight, index, self.size)


class NarrowSegments(NarrowRecurrence):
    """For a structure in which each neuron receives contiguous neighbors: full, grouped or a band.

    Args:
        weight: ``(G, D, C)``, 0 for entries outside the matrix.
        structure: structure of the weight.
        kind: "bfloat16", "int8" or "int8x8".
        segments: where each neuron's weights are, gate after gate ``(G*D,)``; None if they cover all of h.
        projects: whether it is ``W_ih``.
        integers: the integers ``(G*D, C)`` and scales that the weight is made of, if it is already quantized.
    """

    narrow: NarrowWeight
    begin: Tensor | None
    first: Tensor
    count: Tensor

    def __init__(
        self,
        weight: Tensor,
        structure: Structure,
        kind: str,
        segments: Segments | None,
        *,
        projects: bool = False,
        integers: Integers | None = None,
    ):
        gates, size = weight.shape[:2]
        super().__init__(gates, size, structure, NarrowWeight(weight.flatten(0, 1), kind, integers), projects)
        for name, value in zip(("begin", "first", "count"), segments or [None] * 3, strict=True):
            self.register_buffer(name, value, persistent=False)

    @property
    def values(self) -> Tensor:
        """The numbers as they are stored, ``(G, D, C)``."""
        values: Tensor = self.narrow.values.unflatten(0, (self.gates, -1))
        return values

    def compact(self) -> Tensor:
        """The weight in float32, ``(G, D, C)``."""
        weight: Tensor = self.narrow.wide().unflatten(0, (self.gates, -1))
        return weight

    def product_of(self, first: int, last: int, index: Tensor | None, bias: Tensor | None) -> Product:
        """A function ``h (N, D) -> W_hh h + b (N, last-first, D)`` for a range of gates."""
        part = slice(first * self.size, last * self.size)
        offset = None if bias is None else bias[first:last].flatten()
        segments = None if self.begin is None else (self.begin[part], self.first[part], self.count[part])
        wide = self.narrow.by_torch(lambda weight: self._wide(weight.unflatten(0, (-1, self.size)), index), part)

        def product(h: Tensor) -> Tensor:
            y = self.narrow.by_kernel(h, offset, segments, part)
            if y is not None:
                return y.view(len(h), -1, self.size)
            y = wide(h)
            return y if offset is None else y + offset.view(-1, self.size)

        return product


class NarrowRows(NarrowRecurrence):
    """For a structure without a regular pattern, sparse or paths: compressed rows, the same positions for all gates.

    The weights of all gates at one position are adjacent in memory. Inputs remain floats, even with "int8x8": only the
    smaller weights save time.

    Args:
        weight: ``(G, *weight_shape)``, ordered by receiver.
        structure: structure of the weight.
        kind: "bfloat16", "int8" or "int8x8".
        places: positions ``(E,)`` of one gate's weights in the matrix ``(D, I)``, ordered by receiver.
        inputs: number of inputs I, at most 65,536.
        size: number of units D.
        projects: whether it is ``W_ih``.
        integers: integers in the shape of the weight, and the scale of each neuron ``(G*D,)``.
    """

    start: Tensor
    column: Tensor

    def __init__(
        self,
        weight: Tensor,
        structure: Structure,
        kind: str,
        places: Tensor,
        inputs: int,
        size: int,
        *,
        projects: bool = False,
        integers: Integers | None = None,
    ):
        gates, row = len(weight), places // inputs
        start = torch.cat([row.new_zeros(1), torch.bincount(row, minlength=size).cumsum(0)])
        slot = torch.arange(len(row), device=row.device) - start[row]
        longest = int(slot.max()) + 1

        def in_rows(value: Tensor) -> Tensor:  # one row per neuron, as each neuron has its own scale
            rows = value.new_zeros(gates, size, longest)
            rows[:, row, slot] = value.flatten(1)
            return rows.flatten(0, 1)

        given = None if integers is None else (in_rows(integers[0]), integers[1])
        made = NarrowWeight(in_rows(weight), kind, given)
        values = made.values.view(gates, size, longest)[:, row, slot].t().contiguous()  # (E, G)
        super().__init__(gates, size, structure, FewBits(values=values, scale=made.scale), projects)
        self.shape, self.inputs = weight.shape, inputs
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("column", (places % inputs).to(torch.uint16), persistent=False)

    @property
    def values(self) -> Tensor:
        """The numbers as they are stored, ``(G, *weight_shape)``."""
        values: Tensor = self._values.t().unflatten(1, self.shape[1:])
        return values

    @property
    def _values(self) -> Tensor:
        values = self.narrow.values
        assert isinstance(values, Tensor)
        return values

    @property
    def _scale(self) -> Tensor | None:
        scale = self.narrow.scale
        assert not isinstance(scale, nn.Module)
        return scale

    def compact(self) -> Tensor:
        """The weight in float32, ``(G, *weight_shape)``."""
        weight = self._values.t().float()  # (G, E)
        if self._scale is not None:
            weight = weight * self._scale.view(self.gates, -1).repeat_interleave(self.start.diff(), dim=1)
        return weight.contiguous().view(self.shape)

    def product_of(self, first: int, last: int, index: Tensor | None, bias: Tensor | None) -> Product:
        """A function ``h (N, I) -> W h + b (N, last-first, D)`` for a range of gates."""
        part = slice(first * self.size, last * self.size)
        offset = None if bias is None else bias[first:last].flatten()
        scale, values = None if self._scale is None else self._scale[part], self._values[:, first:last]
        wide: list[Product] = []

        def product(h: Tensor) -> Tensor:
            if h.shape[1] != self.inputs:
                raise ValueError(f"expected an input (..., {self.inputs}), got shape {tuple(h.shape)}")
            if fits(h, offset, most=None):
                y: Tensor = kernels("native").narrow_rows(h, values, scale, self.start, self.column, offset)
                return y
            if not wide:
                wide.append(self._wide(self.compact()[first:last], index))
            y = wide[0](h)
            return y if offset is None else y + offset.view(-1, self.size)

        return product
