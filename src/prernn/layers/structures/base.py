"""What every structure of ``W_hh`` has."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import whole
from prernn.layers.structures import collected_gradient
from prernn.ops.reference import Product


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


def dense_product(matrix: Tensor, size: int) -> Product:
    """A function ``h (N, D) -> W_hh h (N, G, D)`` for the dense matrix ``(G, D, D)``."""
    multiply = collected_gradient.product(matrix.flatten(0, 1))  # (G*D, D)

    def product(h: Tensor) -> Tensor:
        out: Tensor = multiply(h).unflatten(1, (-1, size))
        return out

    return product


def gathered_product(weight: Tensor, places: Tensor, padding: int = 0) -> Product:
    """The product for weights ``(G, D, C)`` that meet the units ``places (D, C)`` of h, for an export.

    A gather, a product and a sum are in every runtime, and as cheap as they look. ``padding`` is of h, on both sides.
    """
    flat, shape = places.flatten().clone(), places.shape  # torch's scan takes no tensor twice

    def product(h: Tensor) -> Tensor:
        windows = F.pad(h, (padding, padding)).index_select(1, flat).unflatten(1, shape)  # (N, D, C)
        out: Tensor = (windows.unsqueeze(1) * weight).sum(-1)  # (N, G, D)
        return out

    return product


def shortest(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return repr(number).removesuffix(".0")


def check_size(size: int) -> None:
    """Raises ValueError where there is no neuron."""
    whole("hidden size", size)
