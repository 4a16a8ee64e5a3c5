"""Exact parameter counts: the weights that recurrence introduces, and the hidden sizes that match them.

Only weights are counted; biases are left out, as in the papers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prernn import ops
from prernn.conversion.convert import convert, traditional
from prernn.conversion.graph.graft import recurrent_nodes
from prernn.conversion.graph.nodes import name_of
from prernn.conversion.modes import lent_forwards
from prernn.conversion.network import RecurrentNetwork, gate_inputs
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import whole
from prernn.layers.cells import make_cell, recurrent_gates
from prernn.layers.computed_weights import copy_of, refresh_all
from prernn.layers.input_to_hidden import StructuredLinear
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.base import Structure
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.narrow import refuse_narrow
from prernn.reports.tables import text_table


@dataclass(frozen=True)
class LayerCount:
    """Weights that one recurrent layer introduces."""

    name: str
    cell: str
    hidden: str
    size: int
    input_to_hidden: int
    hidden_to_hidden: int

    @property
    def introduced(self) -> int:
        """All new weights of the layer."""
        return self.input_to_hidden + self.hidden_to_hidden


@dataclass(frozen=True)
class RecurrentCount:
    """Weights that the recurrent layers of a network introduce (PreRNN, Table 3)."""

    layers: tuple[LayerCount, ...]

    @property
    def input_to_hidden(self) -> int:
        """New input-to-hidden weights: copies for the other gates (PreRNN), none (PreRNN-SIH), all (traditional)."""
        return sum(layer.input_to_hidden for layer in self.layers)

    @property
    def hidden_to_hidden(self) -> int:
        """Hidden-to-hidden weights ``W_hh`` of all gates, in their structure."""
        return sum(layer.hidden_to_hidden for layer in self.layers)

    @property
    def introduced(self) -> int:
        """All new weights of the recurrent layers."""
        return self.input_to_hidden + self.hidden_to_hidden

    def table(self) -> str:
        """A text table with one line per layer and a total."""
        head = ("layer", "cell", "hidden", "D", "input-to-hidden", "hidden-to-hidden", "introduced")
        rows: list[tuple[str | int, ...]] = [
            (x.name, x.cell, x.hidden, x.size, x.input_to_hidden, x.hidden_to_hidden, x.introduced) for x in self.layers
        ]
        rows.append(("total", "", "", "", self.input_to_hidden, self.hidden_to_hidden, self.introduced))
        return text_table([head, *(tuple(f"{v:,}" if isinstance(v, int) else v for v in row) for row in rows)], left=3)


def recurrent_parameters(net: SequenceNetwork) -> RecurrentCount:
    """Counts the weights that recurrence introduced into ``net``; also works on the meta device.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", input="single", hidden="diagonal")
        >>> prernn.recurrent_parameters(net).introduced  # three gates of 16 weights
        48
    """
    counts, layers = [], net.recurrent_layers
    names = [str(number) for number in range(len(layers))]
    if isinstance(net, RecurrentNetwork):
        names = [name_of(node) for node in recurrent_nodes(net.cnn)]
    for name, layer in zip(names, layers, strict=True):
        hh = layer.hidden_to_hidden
        cell = type(layer.cell).__name__.removesuffix("Cell")
        introduced = layer.input_to_hidden.introduced
        counts.append(LayerCount(name, cell, str(hh.structure), hh.size, introduced, hh.weight_count()))
    return RecurrentCount(tuple(counts))


@dataclass(frozen=True)
class LayerCost:
    """Memory and work of one recurrent layer per frame.

    Attributes:
        places: positions of its feature maps, ``H*W``; 1 for a vector.
        state: numbers in the state of one stream.
        multiply_adds: multiply-adds of the recurrent product ``W_hh h`` at all positions.
    """

    name: str
    hidden: str
    size: int
    map: tuple[int, ...]
    places: int
    weights: int
    state: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """Memory and work of a network for each frame of a stream.

    Attributes:
        layers: the recurrent layers.
        feedforward: multiply-adds of everything except the recurrent products.
        bytes_each: bytes of one number in the state.
    """

    layers: tuple[LayerCost, ...]
    feedforward: int
    bytes_each: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per frame (per snippet, for a network of snippets)."""
        return self.feedforward + sum(layer.multiply_adds for layer in self.layers)

    @property
    def state(self) -> int:
        """Numbers in the state of one stream."""
        return sum(layer.state for layer in self.layers)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of one stream."""
        return self.state * self.bytes_each


def frame_cost(net: RecurrentNetwork, image_size: tuple[int, ...] | None = None) -> Cost:
    """Counts multiply-adds and state for one frame of a stream, without computing anything.

    Convolutions and matrix products count, elementwise operations do not; a recurrent product counts the weights that
    its structure has, once for each position of the feature map.

    Args:
        net: any network, even on the meta device.
        image_size: ``(H, W)`` of the frame, or ``(D, H, W)`` of a snippet; None means that of ``net.frame_shape``.

    Raises:
        ValueError: a size that the network does not accept.
    """
    counter = FlopCounterMode(display=False)
    structured = [part for part in net.modules() if isinstance(part, StructuredLinear)]
    # the counter knows the reference's operators
    with ops.using("reference"), lent_forwards({part: partial(_shape_alone, part) for part in structured}):
        inputs = gate_inputs(net, net.frame_shape[-2:] if image_size is None else image_size, counter)
    names = [name_of(node) for node in recurrent_nodes(net.cnn)]
    layers = [
        _layer_cost(name, layer, tuple(u.shape[3:]))
        for name, layer, u in zip(names, net.recurrent_layers, inputs, strict=True)
    ]
    feedforward = counter.get_total_flops() // 2  # a multiply-add is two operations
    feedforward += sum(part.weight_count() for part in structured)
    return Cost(tuple(layers), feedforward, next(net.parameters()).element_size())


def _shape_alone(layer: StructuredLinear, x: Tensor) -> Tensor:
    """The layer's output shape without its product, which the counter would count as a dense matrix product."""
    return x.new_empty(*x.shape[:-1], layer.gates * layer.size)


def _layer_cost(name: str, layer: RecurrentLayer, extent: tuple[int, ...]) -> LayerCost:
    hh = layer.hidden_to_hidden
    places, weights = math.prod(extent), hh.weight_count()
    state = sum(math.prod(shape) for shape in layer.state_shapes(1, *extent))
    return LayerCost(name, str(hh.structure), hh.size, extent, places, weights, state, weights * places)


def total_weights(net: nn.Module) -> int:
    """Number of weights of a network: all parameters except biases (and the offsets of normalization).

    Compact structures count only the weights inside the matrix.

    Raises:
        NotImplementedError: a network with weights of few bits.
    """
    refuse_narrow(net, "count those of the network that they were made of")
    named = {name: p.numel() for name, p in net.named_parameters() if not name.rpartition(".")[2].startswith("bias")}
    total = sum(named.values())
    if isinstance(net, RecurrentNetwork):
        for layer in net.recurrent_layers:
            total += layer.hidden_to_hidden.weight_count() - layer.hidden_to_hidden.weight.numel()
    structured = [part for part in net.modules() if isinstance(part, StructuredLinear)]
    total += sum(part.weight_count() - part.weight.numel() for part in structured)
    return total


def matched_hidden_size(
    cnn: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    cell: str,
    input: str = "gate",
    num_layers: int = 1,
    outputs: int | None = None,
    hidden: str | Structure = "full",
) -> int:
    """Hidden size of the traditional RNN whose number of weights is nearest to that of the converted network.

    Example:
        >>> import prernn
        >>> cnn = prernn.backbone("vgg16", device="meta")
        >>> prernn.matched_hidden_size(cnn, "classifier.0", cell="lstm", outputs=136)
        7847

    Both keep the whole CNN, so they differ in the recurrent layers and the output layer (supplement, section 2). With
    two layers on VGG16, compared with fc6/7, and 136 outputs this gives 2740 (VRNN), 5761 (LSTM) and 5497 (GRU), the
    numbers of the supplement's Table 1.

    Args:
        cnn: as in `prernn.convert`.
        layer: as there.
        cell: as there.
        input: as there.
        outputs: as there.
        hidden: as there.
        num_layers: stacked layers of the traditional RNN, full in structure.
    """
    num_layers = whole("num_layers", num_layers)
    converted = convert(_on_meta(cnn), layer, cell=cell, input=input, hidden=hidden, outputs=outputs)
    stacked = traditional(_on_meta(cnn), cell=cell, outputs=outputs)
    features = stacked.recurrent_layers[0].hidden_size
    classes = stacked.output_layer.weight.shape[0] if stacked.output_layer is not None else 0
    inputs = converted.output_layer.weight.shape[1] if converted.output_layer is not None else 0
    goal = recurrent_parameters(converted).introduced + inputs * classes
    made = make_cell(cell)
    gates, recurrent, own = len(made.gates), recurrent_gates(made), hidden_structure(getattr(made, "structure", "full"))

    def total(size: int) -> int:
        inputs = gates * (features * size + (num_layers - 1) * size * size)
        return inputs + recurrent * num_layers * own.weight_count(size) + size * classes

    return _nearest(total, goal)


def _nearest(total: Callable[[int], int], goal: int) -> int:
    """The positive integer whose (growing) total is nearest to ``goal``."""
    high = 1
    while total(high) < goal:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) < goal else (low, middle)
    candidates = [size for size in (low, high) if size >= 1]
    return min(candidates, key=lambda size: abs(total(size) - goal))


def _on_meta(cnn: nn.Module) -> nn.Module:
    """The CNN without its weights, so that counting costs no memory."""
    memo: dict[int, Tensor] = {id(tensor): tensor.to("meta") for tensor in cnn.buffers()}
    memo |= {id(tensor): nn.Parameter(tensor.detach().to("meta")) for tensor in cnn.parameters()}
    copied = copy_of(cnn, memo)
    refresh_all(copied)
    return copied
