"""Input-to-hidden forms: how the gate inputs ``u_t`` of a recurrent layer are computed.

Each is a module that maps the layer's inputs for ``N`` frames to gate inputs ``(N, G, D)``, or ``(N, 1, D)`` if all
gates share one.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import Conv1d, Conv2d, Conv3d, _ConvNd
from torch.types import Device

from prernn.layers.cells import Cell
from prernn.layers.hidden_to_hidden import draw_index, late_index
from prernn.layers.structures.base import Structure
from prernn.layers.structures.input_weights import InputWeights, checked, start_bound
from prernn.layers.structures.regular import Full
from prernn.ops.input_projection import linear
from prernn.ops.narrow import NarrowWeight

Layer = nn.Linear | _ConvNd
"""A layer of a CNN that can become recurrent: fc or conv."""

CONVOLUTIONS = (Conv1d.forward, Conv2d.forward, Conv3d.forward)


class InputToHidden(nn.Module):
    """The interface of every input-to-hidden form, in addition to ``forward``."""

    @property
    def introduced(self) -> int:
        """Number of new weights, which the pre-trained network did not have."""
        raise NotImplementedError


class StructuredLinear(nn.Module):
    """``W x + b`` of ``gates`` gates in a structure; ``weight (G, *weight_shape)`` is compact, ``bias`` is ``(G*D,)``.

    Raises:
        ValueError: a structure that is unknown or impossible for these sizes.
    """

    index: Tensor | None

    def __init__(
        self,
        input_size: int,
        size: int,
        gates: int,
        inputs: str | Structure,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.structure = checked(inputs, size, input_size)
        self.input_size, self.size, self.gates = input_size, size, gates
        shape = (gates, *self.structure.weight_shape(size, input_size))
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(gates * size, device=device, dtype=dtype))
        self.register_buffer("index", draw_index(self.structure, size, self.weight, input_size), persistent=False)

    @property
    def fan_in(self) -> int:
        """Number of inputs that a neuron receives."""
        return self.structure.fan_in(self.size, self.input_size)

    def weight_count(self) -> int:
        """Number of weights of all gates, not counting those outside the matrix."""
        return self.gates * self.structure.weight_count(self.size, self.input_size)

    def weights(self) -> InputWeights:
        """The weights that the product needs."""
        index = late_index(self, self.structure, self.size, self.weight, self.input_size)
        return InputWeights.of(self.structure, self.size, self.input_size, self.weight, index, self.bias)

    def matrix(self) -> Tensor:
        """The dense matrices, ``(G, D, I)``."""
        return self.weights().matrix()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., I)`` to ``(..., G*D)``."""
        if x.is_meta:  # there are no positions on meta
            return x.new_empty(*x.shape[:-1], self.gates * self.size)
        return self.weights().project(x).flatten(-2)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.size}, gates={self.gates}, inputs={str(self.structure)!r}"


class TraditionalInput(InputToHidden):
    """``u_t(g) = W_ig y_t + b_g``, all weights new: the RNN stacked on a CNN (PreRNN, eqs. 1-3).

    ``inputs`` is the structure of each ``W_ig``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        gates: int,
        inputs: str | Structure = "full",
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        structure = checked(inputs, hidden_size, input_size)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.linear = (
            nn.Linear(input_size, gates * hidden_size, **place)
            if isinstance(structure, Full)
            else StructuredLinear(input_size, hidden_size, gates, structure, **place)
        )
        bound = start_bound(structure, hidden_size, input_size)  # the same as torch.nn.RNN if it is full
        nn.init.uniform_(self.linear.weight, -bound, bound)
        bound = hidden_size**-0.5
        nn.init.uniform_(self.linear.bias, -bound, bound)
        self.gates = gates

    @property
    def introduced(self) -> int:
        """Number of new weights: all of them."""
        return self.linear.weight_count() if isinstance(self.linear, StructuredLinear) else self.linear.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, D_in)`` to ``(N, G, D)``."""
        u: Tensor = apply(self.linear, x).unflatten(1, (self.gates, -1))
        return u


class SingleInput(InputToHidden):
    """``v_t = tail(W_xy x_t)`` for all gates: PreRNN-SIH (eq. 10).

    ``tail`` is everything between the layer and the hidden vector: nothing after an fc layer; batch normalization
    ``B``, shortcut ``gamma`` and pooling ``P`` after a conv layer. Batch normalization uses its pre-computed
    statistics, in training too.

    Args:
        layer: the CNN's own fc or conv layer.
        tail: module that maps the layer's output and the shortcuts to the hidden vector, or None.
        pool_first: the layer is pointwise and the tail affine up to its average pooling, so pooling the inputs first
            gives the same result while computing one position instead of ``H*W``.
    """

    def __init__(self, layer: nn.Module, tail: nn.Module | None = None, *, pool_first: bool = False):
        super().__init__()
        self.layer, self.tail, self.pool_first = layer, tail, pool_first

    @property
    def introduced(self) -> int:
        """Number of new weights: none."""
        return 0

    def train(self, mode: bool = True) -> Self:
        """Sets the mode, but leaves batch normalization on its pre-computed statistics (eqs. 6, 7 and 10)."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor, *shortcuts: Tensor) -> Tensor:
        """Layer input and shortcuts of ``N`` frames to ``(N, 1, D)``."""
        x, shortcuts = self.pooled(x, shortcuts)
        return self._finish(apply(self.layer, x), shortcuts).unsqueeze(1)

    def pooled(self, x: Tensor, shortcuts: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the layer sees: its inputs, or with ``pool_first`` their means over all positions."""
        if not self.pool_first:
            return x, shortcuts
        return _average(x), tuple(_average(shortcut) for shortcut in shortcuts)

    def _finish(self, y: Tensor, shortcuts: tuple[Tensor, ...]) -> Tensor:
        hidden: Tensor = y if self.tail is None else self.tail(y, *shortcuts)
        return hidden


class GateInput(SingleInput):
    """``u_t(g) = tail(W_g x_t)`` for each gate: PreRNN (eq. 7).

    One gate keeps the CNN's own weights (the same tensor); the other gates train copies of them. ``B``, shortcut and
    bias are shared.

    Args:
        gates: number of gates ``G``.
        own_gate: the gate that keeps the CNN's own weights.
    """

    def __init__(self, layer: Layer, tail: nn.Module | None, gates: int, own_gate: int, *, pool_first: bool = False):
        super().__init__(layer, tail, pool_first=pool_first)
        weight = layer.weight.detach()
        self.own_gate = own_gate
        self.copies = nn.Parameter(weight.repeat(gates - 1, *[1] * weight.ndim))  # (G-1, *W_xy)

    @property
    def introduced(self) -> int:
        """Number of new weights: the copies for the other gates."""
        return self.copies.numel()

    def forward(self, x: Tensor, *shortcuts: Tensor) -> Tensor:
        """Layer input and shortcuts of ``N`` frames to ``(N, G, D)``."""
        x, shortcuts = self.pooled(x, shortcuts)
        own = apply(self.layer, x)  # first, because this recomputes a pruned bias
        copies = self.copies if isinstance(self.copies, nn.ModuleList) else self.copies.unbind(0)  # in few bits
        outputs = [with_weight(self.layer, weight, x) for weight in copies]
        outputs.insert(self.own_gate, own)
        return torch.stack([self._finish(y, shortcuts) for y in outputs], dim=1)


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output; a plain fc layer uses the faster matrix product of `prernn.ops.input_projection`."""
    if type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
        return linear(x, layer.weight, layer.bias)
    y: Tensor = layer(x)
    return y


def with_weight(layer: nn.Module, weight: Tensor | NarrowWeight, x: Tensor) -> Tensor:
    """The layer's output with ``weight`` instead of its own, whatever else its forward does."""
    if isinstance(weight, NarrowWeight):  # only fully connected layers have these
        bias: Any = layer.bias
        return weight.product(x, bias)
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return linear(x, weight, layer.bias)
    if isinstance(layer, _ConvNd) and type(layer).forward in CONVOLUTIONS:
        return layer._conv_forward(x, weight, layer.bias)
    y: Tensor = functional_call(layer, {"weight": weight}, (x,))
    return y


def _average(x: Tensor) -> Tensor:
    """Mean over all positions, kept as a map of one position; anything but a feature map is returned as it is."""
    if not isinstance(x, Tensor) or x.ndim < 3:
        return x
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def gate_input(layer: Layer, tail: nn.Module | None, cell: Cell, pool_first: bool) -> SingleInput:
    """Gate-dependent input for ``cell``; for a cell of one gate it is the single input."""
    if len(cell.gates) == 1:
        return single_input(layer, tail, cell, pool_first)
    return GateInput(layer, tail, len(cell.gates), cell.own_gate, pool_first=pool_first)


def single_input(layer: Layer, tail: nn.Module | None, cell: Cell, pool_first: bool) -> SingleInput:
    """One input for all gates of ``cell``."""
    return SingleInput(layer, tail, pool_first=pool_first)


INPUTS: dict[str, Callable[[Layer, nn.Module | None, Cell, bool], InputToHidden]] = {
    "gate": gate_input,
    "single": single_input,
}
