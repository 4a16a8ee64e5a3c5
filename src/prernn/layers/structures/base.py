"""What every structure of a weight matrix has."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import whole
from prernn.layers.structures import collected_gradient
from prernn.ops.reference import Product


class Structure(Protocol):
    """What every structure offers: of ``W_hh``, whose units hear units, and of ``W_ih``, whose units hear inputs.

    ``D`` is the hidden size, ``I`` the number of inputs, None for ``D``, and ``G`` the number of gates.
    """

    def check(self, size: int, inputs: int | None = None) -> None:
        """Raises ValueError where the structure makes no sense for ``size`` neurons, or for so many inputs."""

    def mask(self, size: int, inputs: int | None = None) -> Tensor:
        """Connectivity ``(D, I)`` bool, row = receiving neuron."""

    def weight_count(self, size: int, inputs: int | None = None) -> int:
        """Weights a gate, those outside the matrix not counted."""

    def fan_in(self, size: int, inputs: int | None = None) -> int:
        """Weights that a neuron away from the border receives."""

    def weight_shape(self, size: int, inputs: int | None = None) -> tuple[int, ...]:
        """Shape of one gate's compact weight."""

    def index(self, size: int, inputs: int | None = None) -> Tensor | None:
        """Constant positions that `product` and `matrix` need, or None."""

    def product(self, weight: Tensor, index: Tensor | None, size: int) -> Product:
        """A function ``h (N, D) -> W_hh h (N, G, D)``; what it needs of ``weight`` is prepared once, for many steps."""

    def project(self, x: Tensor, weight: Tensor, index: Tensor | None, size: int, bias: Tensor | None = None) -> Tensor:
        """``W_ih x + b``, ``(N, G, D)``, of all steps' inputs ``x (N, I)`` at once; ``bias (G*D,)``."""

    def matrix(self, weight: Tensor, index: Tensor | None, size: int, inputs: int | None = None) -> Tensor:
        """Dense, ``(G, D, I)``, differentiable in ``weight``."""

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


def senders(size: int, inputs: int | None) -> int:
    """How many a neuron may hear: ``inputs``, or the ``size`` neurons themselves. ValueError where there is none."""
    whole("hidden size", size)
    return size if inputs is None else whole("input size", inputs)


def misfit(structure: object, rule: str, size: int, inputs: int | None) -> ValueError:
    """The error for a structure that breaks a rule of its sizes."""
    if inputs is None:
        return ValueError(f"hidden={str(structure)!r}: {rule}, got D={size}")
    return ValueError(f"inputs={str(structure)!r}: {rule}, got I={inputs} and D={size}")
