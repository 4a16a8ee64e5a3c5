"""The interface of structures of weight matrices, and what they share."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import whole
from prernn.layers.structures import collected_gradient
from prernn.ops.reference import Product


class Structure(Protocol):
    """The interface of every structure, for ``W_hh``, which connects units to units, and ``W_ih``, inputs to units.

    ``D`` is the hidden size, ``I`` the number of inputs (``inputs=None`` means ``D``), and ``G`` the number of gates.
    """

    def check(self, size: int, inputs: int | None = None) -> None:
        """Raises ValueError if the structure is impossible for ``size`` neurons and ``inputs`` inputs."""

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        """Connectivity ``(D, I)`` bool, row = receiving neuron."""

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        """Number of weights per gate, not counting those outside the matrix."""

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        """Number of weights into a neuron away from the border."""

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        """Shape of one gate's compact weight."""

    def index(self, size: int, inputs: int | None = None) -> Tensor | None:
        """Constant positions that `product` and `matrix` need, or None."""

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        """A function ``h (N, D) -> W_hh h (N, G, D)``; preparation of ``weight`` is done once, for many steps."""

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        """``W_ih x + b``, ``(N, G, D)``, for all steps' inputs ``x (N, I)`` at once; ``bias (G*D,)``."""

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        """The dense matrices, ``(G, D, I)``, differentiable in ``weight``."""

    def band(self, weight: Tensor) -> Tensor | None:
        """``weight`` in the form of `prernn.ops.fused`, ``(G, D, C)``, or None if its kernels don't apply."""


def dense_product(matrix: Tensor, size: int) -> Product:
    """A function ``h (N, D) -> W_hh h (N, G, D)`` for the dense matrix ``(G, D, D)``."""
    multiply = collected_gradient.product(matrix.flatten(0, 1))  # (G*D, D)

    def product(h: Tensor) -> Tensor:
        out: Tensor = multiply(h).unflatten(1, (-1, size))
        return out

    return product


def gathered_product(weight: Tensor, places: Tensor, padding: int = 0) -> Product:
    """The product for weights ``(G, D, C)`` that multiply the units ``places (D, C)`` of h, for export.

    Every runtime has a gather, a product and a sum, and runs them at the expected cost. ``padding`` is added to h on
    both sides.
    """
    flat, shape = places.flatten().clone(), places.shape  # torch's scan can't take the same tensor twice

    def product(h: Tensor) -> Tensor:
        windows = F.pad(h, (padding, padding)).index_select(1, flat).unflatten(1, shape)  # (N, D, C)
        out: Tensor = (windows.unsqueeze(1) * weight).sum(-1)  # (N, G, D)
        return out

    return product


def shortest(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return repr(number).removesuffix(".0")


def senders(size: int, inputs: int | None) -> int:
    """How many sources a neuron may have: ``inputs``, or else the ``size`` neurons. ValueError for sizes below 1."""
    whole("hidden size", size)
    return size if inputs is None else whole("input size", inputs)


def misfit(structure: object, rule: str, size: int, inputs: int | None) -> ValueError:
    """The error for sizes that violate a structure's rule."""
    if inputs is None:
        return ValueError(f"hidden={str(structure)!r}: {rule}, got D={size}")
    return ValueError(f"inputs={str(structure)!r}: {rule}, got I={inputs} and D={size}")
