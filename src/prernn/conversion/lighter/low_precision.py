"""A copy of a network whose large weights have few bits, for streams: a step's time is bound by reading its weights.

The weights of recurrent products and fully connected layers become bfloat16, or 8-bit integers with a scale for each
neuron; convolutions, small layers, biases and states remain float32. A quantized network's weights already are such
integers, and its copy has the same numbers.
"""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from prernn.layers.computed_weights import copy_of, refresh_all, settle
from prernn.layers.hidden_to_hidden import HiddenToHidden, RecurrentWeights, matrix_places
from prernn.layers.input_to_hidden import GateInput, StructuredLinear
from prernn.layers.recurrent_stack import RecurrentStack
from prernn.layers.structures.input_weights import InputWeights
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence, NarrowRows, NarrowSegments
from prernn.layers.structures.regular import Full
from prernn.ops.narrow import TYPES, Integers, NarrowWeight, Segments, has_few_bits, is_product, refuse_narrow

Network = TypeVar("Network", bound=nn.Module)

LEAST = 2**14
"""Number of weights below which a layer is left as it is, because they fit in the processor's caches."""

LEAST_FAN_IN = 16
"""Fan-in of a neuron below which a recurrence is left as it is: kernels for diagonals and narrow bands are faster."""


MOST_COLUMNS = 2**16
"""Most inputs that can be numbered with the 16 bits of compressed rows."""


class NarrowLinear(nn.Module):
    """A fully connected layer with a weight of few bits."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear, kind: str):
        super().__init__()
        self.narrow = NarrowWeight(layer.weight, kind, integers_of(layer, "weight", layer.out_features))
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float())

    @property
    def weight(self) -> Tensor:
        """The weight in float32, for inspection."""
        return self.narrow.wide()

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., D_in)`` to ``(..., D_out)``."""
        return self.narrow.product(x, self.bias)


def low_precision(net: Network, precision: str = "int8") -> Network:
    """A copy in evaluation mode, not trainable, whose recurrent and fully connected layers have weights of few bits.

    Example:
        >>> import prernn, torch
        >>> layer = prernn.LSTM(256, 256)
        >>> small = prernn.low_precision(layer, "int8")
        >>> x = torch.randn(1, 256)
        >>> out, state = small.step(x)
        >>> bool((out - layer.step(x)[0]).abs().max() < 0.02)
        True

    Recurrences and input projections with few weights per neuron and a fast kernel (diagonal, narrow bands) remain in
    float32. The integers of a quantized network (`prernn.quantize`) are kept if they fit in 8 bits.

    Args:
        net: a network, or a layer such as `prernn.LSTM`.
        precision: of weights, "bfloat16" or "int8". With "int8x8", meant for several streams, states and inputs have 8
            bits too, by the range of each stream at each step (`prernn.ops.narrow.in_8_bits`), and sums are exact; the
            inputs of sparse and path weights remain floats.

    Raises:
        ValueError: another precision, weights that are not finite.
        NotImplementedError: weights that are not float32, or already have few bits.
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
        _narrow_all(made, precision, exact=False)
    return made


def in_integers(net: Network) -> tuple[Network, list[str]]:
    """A copy in evaluation mode in which large quantized weights are stored as integers and scales.

    It shares all other tensors with the network. It computes the same up to rounding of the sums; weights that are not
    quantized, or whose integers don't fit in 8 bits, are left as they are.

    Returns:
        The copy, and the names of the weights that are integers in it; the network itself if there are none.
    """
    if not holds_integers(net):
        return net, []
    own = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    with torch.inference_mode(False), torch.no_grad():
        made = copy_of(net, own).eval()
        _narrow_all(made, "int8", exact=True)
    there = {name for name, _ in made.named_parameters(remove_duplicate=False)}
    gone = [name for name, _ in net.named_parameters(remove_duplicate=False) if name not in there]
    return (made, gone) if gone else (net, gone)


def holds_integers(net: nn.Module) -> bool:
    """Whether a network has integers stored with its weights, which `in_integers` may read."""
    return not has_few_bits(net) and any(name.endswith("_counts") for name, _ in net.named_buffers())


def integers_of(module: nn.Module, name: str, neurons: int) -> Integers | None:
    """The integers in a quantized weight's shape, and the scale of each neuron ``(R,)``, or None if it has none."""
    counts, scale = getattr(module, f"{name}_counts", None), getattr(module, f"{name}_scale", None)
    if not (isinstance(counts, Tensor) and isinstance(scale, Tensor)):
        return None
    return counts, scale.float().expand(neurons)


def _narrow_all(made: nn.Module, precision: str, exact: bool) -> None:
    """Replaces weights by ones of few bits, with ``exact`` only if they represent the same numbers."""
    layers: dict[int, NarrowLinear] = {}  # so that a shared layer remains shared
    for module in list(made.modules()):
        if isinstance(module, RecurrentStack):
            _narrow_stack(module, precision, exact)
        elif isinstance(module, (HiddenToHidden, StructuredLinear)):
            _replace(module, "weight", _narrow(module, "weight", module.weights(), precision, exact))
        elif isinstance(module, GateInput) and type(module.layer) is nn.Linear and module.copies[0].numel() >= LEAST:
            _narrow_copies(module, precision, exact)
        for name, child in list(module._modules.items()):
            if type(child) is nn.Linear and _is_large(child) and _may(child, "weight", child.weight, exact):
                if id(child) not in layers:
                    layers[id(child)] = NarrowLinear(child, precision)
                setattr(module, name, layers[id(child)])


def _is_large(layer: nn.Linear) -> bool:
    """Whether a layer is large enough for few bits; False also for a layer of an integer network, without a weight."""
    watched = layer._forward_hooks or layer._forward_pre_hooks
    return isinstance(layer.weight, Tensor) and layer.weight.numel() >= LEAST and not watched


def _may(module: nn.Module, name: str, weight: Tensor, exact: bool) -> bool:
    """Whether a weight ``(R, K)`` may have few bits; with ``exact``, only if its integers and scale give it exactly."""
    if not exact:
        return True
    integers = integers_of(module, name, len(weight))
    if integers is not None:
        integers = integers[0].reshape(weight.shape), integers[1]
    return integers is not None and weight.dtype == torch.float32 and is_product(weight.detach(), integers)


def _narrow_copies(module: GateInput, precision: str, exact: bool) -> None:
    rows = module.copies.flatten(0, 1)
    if not _may(module, "copies", rows, exact):
        return
    count, integers = len(module.copies), integers_of(module, "copies", len(rows))
    each: list[Any] = [None] * count
    if integers is not None:
        each = list(zip(integers[0], integers[1].chunk(count), strict=True))
    made = [NarrowWeight(weight, precision, own) for weight, own in zip(module.copies, each, strict=True)]
    _replace(module, "copies", nn.ModuleList(made))


def _narrow_stack(stack: RecurrentStack, precision: str, exact: bool) -> None:
    for suffix in stack.suffixes():
        recurrent, projection = f"weight_hh{suffix}", f"weight_ih{suffix}"
        _replace(stack, recurrent, _narrow(stack, recurrent, stack.recurrent_weights(suffix), precision, exact))
        dense = [f"weight_hr{suffix}"]
        if isinstance(stack.input_structure, Full):
            dense.append(projection)
        else:
            _replace(stack, projection, _narrow(stack, projection, stack.input_weights(suffix), precision, exact))
        for name in dense:
            weight = getattr(stack, name, None)
            if weight is not None and weight.numel() >= LEAST and _may(stack, name, weight, exact):
                integers = integers_of(stack, name, len(weight))
                _replace(stack, name, NarrowWeight(weight, precision, integers))


def _replace(module: nn.Module, name: str, weight: nn.Module | None) -> None:
    """Replaces a parameter by a weight of few bits; None leaves it."""
    if weight is not None:
        delattr(module, name)
        for kept in ("counts", "scale"):  # buffers of a quantized weight, now part of the new weight
            module._buffers.pop(f"{name}_{kept}", None)
        module.add_module(name, weight)


def _narrow(
    module: nn.Module, name: str, weights: RecurrentWeights | InputWeights, precision: str, exact: bool
) -> NarrowRecurrence | None:
    """``W_hh`` or ``W_ih`` with few bits, or None if it is to stay as it is."""
    weight, structure = weights.weight, weights.structure
    if weight.numel() < LEAST or (weight.ndim < 3 and structure.band(weight) is not None):  # a diagonal
        return None
    projects, place = isinstance(weights, InputWeights), matrix_places(weights)
    integers = integers_of(module, name, len(weight) * weights.size)
    if integers is not None:
        integers = integers[0].reshape(weight.shape), integers[1]
    if exact and (integers is None or not _is_product(weight, integers, place // weights.columns)):
        return None
    segments = segments_of(place, weights.columns) if weight.ndim == 3 and weight.shape[1] == weights.size else None
    if segments is None:
        return _in_rows(weights, place, precision, projects, integers)
    if weight.shape[2] < LEAST_FAN_IN:
        return None
    _, first, count = segments
    where = None if bool((count == weight.shape[2]).all() and (first == 0).all()) else segments
    if integers is not None:
        integers = torch.where(place >= 0, integers[0], 0).flatten(0, 1), integers[1]
    inside = torch.where(place >= 0, weight, 0.0)
    return NarrowSegments(inside, structure, precision, where, projects=projects, integers=integers)


def _is_product(weight: Tensor, integers: Integers, neuron: Tensor) -> bool:
    """Whether each weight is an 8-bit integer times the scale of its neuron; weights of neuron -1 are ignored."""
    counts, scale = integers
    fits = int(counts.long().abs().max()) <= 127 and weight.dtype == torch.float32
    return fits and bool(((counts * scale[neuron.clamp(min=0)] == weight) | (neuron < 0)).all())


def _in_rows(
    weights: RecurrentWeights | InputWeights, place: Tensor, precision: str, projects: bool, integers: Integers | None
) -> NarrowRows | None:
    """The weights as compressed rows if all gates have the same positions, ordered by receiver; otherwise None."""
    weight, columns, first = weights.weight, weights.columns, place[0].flatten()
    gate = torch.arange(len(weight), device=place.device).unsqueeze(1) * weights.size * columns
    alike = bool((first >= 0).all()) and torch.equal(place.flatten(1), first + gate)
    if not alike or columns > MOST_COLUMNS or not bool(((first // columns).diff() >= 0).all()):
        return None
    where = (first, columns, weights.size)
    return NarrowRows(weight, weights.structure, precision, *where, projects=projects, integers=integers)


def segments_of(place: Tensor, columns: int) -> Segments | None:
    """Where the weights of each neuron of each gate are, given each weight's position; None if not contiguous.

    Args:
        place: position of each weight ``(G, D, C)`` in ``W (G, D, I)``, -1 outside (`matrix_places`).
        columns: ``I``; for ``W_hh``, ``D``.
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
