"""The recurrent product ``W_hh h`` as a module, for vectors and feature maps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prernn.structures import Structure, hidden_structure

__all__ = ["HiddenToHidden", "gate_products", "hidden_structure"]


class HiddenToHidden(nn.Module):
    """The recurrent product ``W_hh h`` of ``gates`` gates in a structure; ``weight`` is compact.

    ``W_hh`` starts uniform in ``+-1/sqrt(fan_in)``, so that the product of a sparse structure starts at the
    scale of the full one (torch.nn's own start when the structure is full).

    Raises:
        ValueError: a structure that makes no sense for ``size``.
    """

    index: Tensor | None

    def __init__(self, size: int, gates: int, hidden: str | Structure = "full", *, device=None, dtype=None):
        super().__init__()
        self.structure = hidden_structure(hidden)
        self.structure.check(size)
        self.size, self.gates = size, gates
        shape = (gates, *self.structure.weight_shape(size))
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        # on the meta device nothing is computed, so the positions are not drawn either
        index = None if self.weight.is_meta else self.structure.index(size)
        self.register_buffer("index", index if index is None else index.to(device), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws ``W_hh`` anew, uniform in ``+-1/sqrt(fan_in)``."""
        bound = 1 / math.sqrt(self.structure.fan_in(self.size))
        nn.init.uniform_(self.weight, -bound, bound)

    def weight_count(self) -> int:
        """Recurrent weights of all gates."""
        return self.gates * self.structure.weight_count(self.size)

    def positions(self) -> Tensor | None:
        """The structure's constant positions, drawn when a module that was built on meta gets its weights."""
        if self.index is None and not self.weight.is_meta:
            index = self.structure.index(self.size)
            self.index = index if index is None else index.to(self.weight.device)
        return self.index

    def matrix(self) -> Tensor:
        """Dense ``W_hh``, ``(G, D, D)``."""
        return self.structure.matrix(self.weight, self.positions(), self.size)

    @torch.no_grad()
    def zero_(self) -> None:
        """Sets ``W_hh = 0``."""
        self.weight.zero_()

    def forward(self, h: Tensor) -> Tensor:
        """``W_hh h``: ``h (B, D)`` gives ``(B, G, D)``; a feature map ``(B, D, H, W)`` gives ``(B, G, D, H, W)``."""
        (product,) = gate_products(self.structure, self.size, self.weight, self.positions(), ((0, self.gates),))
        if h.ndim == 2:
            return product(h)
        rows = h.movedim(1, -1)  # (B, H, W, D)
        out = product(rows.reshape(-1, self.size)).unflatten(0, rows.shape[:-1])  # (B, H, W, G, D)
        return out.movedim((-2, -1), (1, 2))  # (B, G, D, H, W)

    def extra_repr(self) -> str:
        return f"size={self.size}, gates={self.gates}, hidden={str(self.structure)!r}"


def gate_products(
    structure: Structure, size: int, weight: Tensor, index: Tensor | None, groups, bias: Tensor | None = None
) -> list[Callable[[Tensor], Tensor]]:
    """One function ``h (N, D) -> W_hh h + b (N, last-first, D)`` for each range ``(first, last)`` of gates.

    ``weight`` is ``(G, *weight_shape)``, ``bias`` ``(G, D)``. What a product needs of the weights is prepared
    here, once, so that the functions can run over a whole sequence.
    """

    def bind(first: int, last: int):
        prepared = structure.prepare(weight[first:last], index, size)
        if bias is None:
            return lambda h: structure.product(prepared, h, index)
        offset = bias[first:last]
        return lambda h: structure.product(prepared, h, index) + offset

    return [bind(first, last) for first, last in groups]
