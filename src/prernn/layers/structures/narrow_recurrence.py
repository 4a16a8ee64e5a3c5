"""Weights of few bits in a structure whose neurons each hear a run of neighbours: full, grouped or a band."""

import torch
from torch import Tensor, nn

from prernn.layers.structures.base import Structure
from prernn.ops.narrow import NarrowWeight, Segments
from prernn.ops.reference import Product


class NarrowRecurrence(nn.Module):
    """The compact weight ``(G, D, C)`` of ``W_hh``, or of ``W_ih``, in few bits (`prernn.ops.narrow`).

    Args:
        weight: ``(G, D, C)``, 0 where it lies outside the matrix.
        structure: of it.
        kind: "bfloat16", "int8" or "int8x8".
        segments: where each neuron's weights lie, gate after gate ``(G*D,)``; None where they meet all of h.
        projects: whether it is ``W_ih``, which meets the inputs of all steps at once.
    """

    begin: Tensor | None
    first: Tensor
    count: Tensor

    def __init__(
        self, weight: Tensor, structure: Structure, kind: str, segments: Segments | None, *, projects: bool = False
    ):
        super().__init__()
        self.projects = projects
        self.gates, self.size = weight.shape[:2]
        self.structure = structure
        self.narrow = NarrowWeight(weight.flatten(0, 1), kind)
        for name, value in zip(("begin", "first", "count"), segments or [None] * 3, strict=True):
            self.register_buffer(name, value, persistent=False)

    @property
    def values(self) -> Tensor:
        """The numbers as they are kept, ``(G, D, C)``."""
        values: Tensor = self.narrow.values.unflatten(0, (self.gates, -1))
        return values

    @property
    def is_meta(self) -> bool:
        """Whether there are no numbers."""
        return self.narrow.values.is_meta

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.narrow.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Of what it is multiplied with."""
        return self.narrow.dtype

    def compact(self) -> Tensor:
        """The weight in float32, ``(G, D, C)``."""
        weight: Tensor = self.narrow.wide().unflatten(0, (self.gates, -1))
        return weight

    def new_zeros(self, *shape: int) -> Tensor:
        """Zeros on its device, of the type that its product has."""
        return torch.zeros(shape, device=self.device)

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

    def _wide(self, weight: Tensor, index: Tensor | None) -> Product:
        if self.projects:
            return lambda x: self.structure.project(x, weight.to(x.dtype), index, self.size)
        return self.structure.product(weight, index, self.size)
