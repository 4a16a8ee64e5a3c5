"""A copy of a network whose large weights have few bits, for a stream: a step is bound by the bytes of its weights.

Those of recurrent products and fully connected layers come in bfloat16, or as 8-bit integers with a scale for each
neuron; convolutions, small layers, biases, states and all sums stay float32.
"""

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from prernn.layers.computed_weights import copy_of, refresh_all, settle
from prernn.layers.hidden_to_hidden import HiddenToHidden, RecurrentWeights, matrix_places
from prernn.layers.input_to_hidden import GateInput, StructuredLinear
from prernn.layers.recurrent_stack import RecurrentStack
from prernn.layers.structures.input_weights import InputWeights
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence
from prernn.layers.structures.regular import Full
from prernn.ops.narrow import TYPES, NarrowWeight, Segments, refuse_narrow

Network = TypeVar("Network", bound=nn.Module)

LEAST = 2**14
"""Weights of a layer below which it stays as it is: they come from the processor's own memory."""

LEAST_FAN_IN = 16
"""Of a neuron, below which a recurrence stays as it is: the kernels of diagonals and narrow bands are faster."""


class NarrowLinear(nn.Module):
    """A fully connected layer with a weight of few bits."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear, kind: str):
        super().__init__()
        self.narrow = NarrowWeight(layer.weight, kind)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float())

    @property
    def weight(self) -> Tensor:
        """In float32, for those who look at it."""
        return self.narrow.wide()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D_in)`` to ``(..., D_out)``."""
        return self.narrow.product(x, self.bias)


def low_precision(net: Network, precision: str = "int8") -> Network:
    """A copy in evaluation mode, which does not learn, whose recurrent and fully connected layers have few bits.

    Example:
        >>> import prernn, torch
        >>> layer = prernn.LSTM(256, 256)
        >>> small = prernn.low_precision(layer, "int8")
        >>> x = torch.randn(1, 256)
        >>> out, state = small.step(x)
        >>> bool((out - layer.step(x)[0]).abs().max() < 0.02)
        True

    Recurrences and input projections with few weights a neuron (diagonal, narrow bands) and those without a regular
    pattern (sparse, paths, whose positions are most of the bytes) stay in float32.

    Args:
        net: a network, or a layer such as `prernn.LSTM`.
        precision: "bfloat16" or "int8".

    Raises:
        ValueError: another precision, weights that are not finite.
        NotImplementedError: weights that are not float32, or have few bits already.
    """
    if precision not in TYPES:
        raise ValueError(f"expected precision to be one of {', '.join(TYPES)}, got {precision!r}")
    other = {p.dtype for p in net.parameters() if p.is_floating_point()} - {torch.float32}
    refuse_narrow(net, "take the network that they were made of")
    if other:
        raise NotImplementedError(f"expected weights of float32, got {', '.join(map(str, other))}")
    with torch.inference_mode(False), torch.no_grad():
        made = copy_of(net).eval().requires_grad_(False)
        refresh_all(made)
        settle(made)
        if type(made) is nn.Linear:
            return cast(Network, NarrowLinear(cast(nn.Linear, made), precision))
        layers: dict[int, NarrowLinear] = {}  # one for each that stands in several places
        for module in list(made.modules()):
            if isinstance(module, RecurrentStack):
                _narrow_stack(module, precision)
            elif isinstance(module, (HiddenToHidden, StructuredLinear)):
                _replace(module, "weight", _narrow(module.weights(), precision))
            elif (
                isinstance(module, GateInput) and type(module.layer) is nn.Linear and module.copies[0].numel() >= LEAST
            ):
                copies = [NarrowWeight(weight, precision) for weight in module.copies]
                _replace(module, "copies", nn.ModuleList(copies))
            for name, child in list(module._modules.items()):
                if type(child) is nn.Linear and _is_large(child):
                    if id(child) not in layers:
                        layers[id(child)] = NarrowLinear(child, precision)
                    setattr(module, name, layers[id(child)])
    return made


def _is_large(layer: nn.Linear) -> bool:
    """Whether a layer is to have few bits: also an integer network's layer, which has no weight, is not."""
    watched = layer._forward_hooks or layer._forward_pre_hooks
    return isinstance(layer.weight, Tensor) and layer.weight.numel() >= LEAST and not watched


def _narrow_stack(stack: RecurrentStack, precision: str) -> None:
    for suffix in stack.suffixes():
        _replace(stack, f"weight_hh{suffix}", _narrow(stack.recurrent_weights(suffix), precision))
        dense = [f"weight_hr{suffix}"]
        if isinstance(stack.input_structure, Full):
            dense.append(f"weight_ih{suffix}")
        else:
            _replace(stack, f"weight_ih{suffix}", _narrow(stack.input_weights(suffix), precision))
        for name in dense:
            weight = getattr(stack, name, None)
            if weight is not None and weight.numel() >= LEAST:
                _replace(stack, name, NarrowWeight(weight, precision))


def _replace(module: nn.Module, name: str, weight: nn.Module | None) -> None:
    """Puts a weight of few bits in a parameter's place; None leaves it."""
    if weight is not None:
        delattr(module, name)
        for kept in ("counts", "scale"):  # beside a quantized weight, whose integers it has now itself
            module._buffers.pop(f"{name}_{kept}", None)
        module.add_module(name, weight)


def _narrow(weights: RecurrentWeights | InputWeights, precision: str) -> NarrowRecurrence | None:
    """``W_hh`` or ``W_ih`` with few bits, or None where it stays."""
    weight = weights.weight
    if weight.ndim != 3 or weight.shape[1] != weights.size or weight.numel() < LEAST or weight.shape[2] < LEAST_FAN_IN:
        return None
    place = matrix_places(weights)
    segments = segments_of(place, weights.columns)
    if segments is None:
        return None
    _, first, count = segments
    dense = bool((count == weight.shape[2]).all() and (first == 0).all())
    inside = torch.where(place >= 0, weight, 0.0)
    projects = isinstance(weights, InputWeights)
    return NarrowRecurrence(inside, weights.structure, precision, None if dense else segments, projects=projects)


def segments_of(place: Tensor, columns: int) -> Segments | None:
    """Where the weights of each neuron of each gate lie, given each weight's place; None where they are no run.

    Args:
        place: of each weight ``(G, D, C)`` in ``W (G, D, I)``, -1 outside (`matrix_places`).
        columns: ``I``, of ``W_hh`` ``D``.
    """
    rows = place.flatten(0, 1)  # (G*D, C)
    inside = rows >= 0
    count = inside.sum(1)
    if not bool(count.all()):
        return None
    start = inside.int().argmax(1)  # the first that is inside
    expected = rows.gather(1, start.unsqueeze(1)) + torch.arange(rows.shape[1], device=rows.device) - start.unsqueeze(1)
    neuron = torch.arange(len(rows), device=rows.device).unsqueeze(1)
    run = (torch.arange(rows.shape[1], device=rows.device) - start.unsqueeze(1) < count.unsqueeze(1)) | ~inside
    fits = torch.where(inside, (rows == expected) & (rows // columns == neuron), True) & run
    if not bool(fits.all()):
        return None
    first = rows.gather(1, start.unsqueeze(1)).squeeze(1) % columns
    begin = torch.arange(len(rows), device=rows.device) * rows.shape[1] + start
    return begin, first.int(), count.int()
