"""Which channels of a graph's values must have the same factor, and where factors can't pass.

If a channel is multiplied by a positive factor ``f``, the results of ReLU, pooling, flattening, zero padding and
additions are multiplied by ``f`` too, as long as everything that is combined has the same factor. So channels are
grouped into classes, step by step: the output of a ReLU is in the class of its input, both sides of an addition are in
one class, channels of padding zeros are in a class of their own. A class that anything else computes or reads (the
graph's inputs, a sigmoid, a recurrent layer) has factor 1.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from prernn.conversion.graph.nodes import submodule_of
from prernn.layers.input_to_hidden import Layer

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
"""Elementwise modules with ``m(f x) = f m(x)`` for ``f > 0`` at inference."""
ELEMENTWISE_FUNCTIONS = (F.relu, torch.relu, F.leaky_relu)
ELEMENTWISE_METHODS = ("relu", "contiguous")
ADDITIONS = (operator.add, operator.iadd, torch.add)
CONCATENATIONS = (torch.cat, torch.concat)
POOLING = {
    1: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    3: (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
}
"""The same for each channel, by the number of dimensions of the maps."""
POOLING_FUNCTIONS = {
    2: (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    3: (F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
}
VECTOR, FLAT = 0, -1
"""Kinds of values other than maps of 1, 2 or 3 dimensions: vectors, and flattened maps."""


@dataclass(frozen=True)
class Channels:
    """The classes of a value's channels ``(C,)``, and its kind."""

    kind: int
    classes: list[int]


class Classes:
    """Classes of channels, as a union-find structure, some of which are closed, that is, have factor 1."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._closed: set[int] = set()

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> list[int]:
        """``count`` new classes."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        return list(range(first, first + count))

    def find(self, number: int) -> int:
        """The number that represents a class."""
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    def join(self, one: Sequence[int], other: Sequence[int]) -> None:
        """Merges the classes of two values, channel by channel."""
        for a, b in zip(one, other, strict=True):
            self._parent[self.find(a)] = self.find(b)

    def close(self, numbers: Sequence[int]) -> None:
        """Closes these classes, so that they have factor 1."""
        self._closed.update(numbers)

    def closed(self) -> set[int]:
        """The numbers of all closed classes."""
        return {self.find(number) for number in self._closed}


@dataclass(frozen=True)
class LayerChannels:
    """The classes of a layer's outputs, and of its inputs, or None if the inputs have none."""

    outputs: list[int]
    inputs: list[int] | None


def layer_channels(
    graph: fx.GraphModule, known: dict[fx.Node, Layer]
) -> tuple[dict[fx.Node, LayerChannels], Classes, list[int] | None]:
    """The classes of the channels of some layers in a graph.

    Returns:
        The classes of each layer, all classes, and those of the graph's first output, which being an output alone does
        not close.
    """
    classes, values = Classes(), dict[fx.Node, Channels]()
    found: dict[fx.Node, LayerChannels] = {}
    outputs = None
    for node in graph.graph.nodes:
        given = [values[other] for other in node.all_input_nodes if other in values]
        if node.op == "output":
            first, *others = _flat(node.args[0])
            outputs = values[first].classes if first in values else None
            classes.close([number for other in others if other in values for number in values[other].classes])
        elif node in known:
            layer = known[node]
            read = given[0] if given and _takes(layer, given[0]) else None
            if read is None:
                _close(classes, given)
            own = Channels(_kind(layer), classes.new(layer.weight.shape[0]))
            values[node], found[node] = own, LayerChannels(own.classes, None if read is None else read.classes)
        elif len(given) == len(node.all_input_nodes) and (after := _after(graph, node, given, classes)) is not None:
            values[node] = after
        else:
            _close(classes, given)
    return found, classes, outputs


def _close(classes: Classes, values: Sequence[Channels]) -> None:
    for value in values:
        classes.close(value.classes)


def _flat(argument: object) -> list[fx.Node]:
    """The nodes in a graph's output."""
    if isinstance(argument, fx.Node):
        return [argument]
    return [node for part in argument for node in _flat(part)] if isinstance(argument, tuple | list) else []


def _kind(layer: Layer) -> int:
    return VECTOR if isinstance(layer, nn.Linear) else layer.weight.ndim - 2


def _takes(reader: Layer, value: Channels) -> bool:
    count = len(value.classes)
    if isinstance(reader, nn.Linear):
        flat = value.kind == FLAT and reader.in_features % count == 0
        return flat or (value.kind == VECTOR and reader.in_features == count)
    return value.kind == _kind(reader) and reader.in_channels == count


def _after(graph: fx.GraphModule, node: fx.Node, given: list[Channels], classes: Classes) -> Channels | None:
    """The classes after a step, given those of its inputs; None for a step that factors can't pass."""
    if (node.op == "call_function" and node.target in ADDITIONS) or (node.op, node.target) == ("call_method", "add"):
        return _added(node, given, classes)
    if node.op == "call_function" and node.target in CONCATENATIONS:
        return _joined(node, given)
    if len(given) != 1:
        return None
    (value,), module = given, submodule_of(graph, node)
    if _is_elementwise(node, module) or _is_pooling(node, module, value.kind):
        return value
    if value.kind > 0 and _flattens(module, node):
        return Channels(FLAT, value.classes)
    if node.op == "call_function":
        step = STEPS.get(node.target)
        return step(node, value, classes) if step else None
    return None


def _is_elementwise(node: fx.Node, module: nn.Module | None) -> bool:
    if node.op == "call_method":
        return node.target in ELEMENTWISE_METHODS
    return isinstance(module, ELEMENTWISE) or (node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS)


def _is_pooling(node: fx.Node, module: nn.Module | None, kind: int) -> bool:
    known = node.op == "call_function" and node.target in POOLING_FUNCTIONS.get(kind, ())
    return known or isinstance(module, POOLING.get(kind, ()))


def _added(node: fx.Node, given: list[Channels], classes: Classes) -> Channels | None:
    """The sum of two values of the same shape; None if a number is added, which has no factor."""
    if len(node.args) != 2 or len([*filter(lambda side: isinstance(side, fx.Node), node.args)]) != 2:
        return None
    one, other = given[0], given[-1]  # x + x has a single input
    if one.kind != other.kind or len(one.classes) != len(other.classes):
        return None
    classes.join(one.classes, other.classes)
    return one


def _joined(node: fx.Node, given: list[Channels]) -> Channels | None:
    """Concatenation along the channels."""
    tensors, dim = (*node.args, *node.kwargs.values(), 0)[:2]
    if dim not in (1,) or not isinstance(tensors, tuple | list) or len(tensors) != len(given):
        return None
    if len({value.kind for value in given}) > 1 or given[0].kind == FLAT:
        return None
    return Channels(given[0].kind, [number for value in given for number in value.classes])


def _sliced(node: fx.Node, value: Channels, classes: Classes) -> Channels | None:
    """Some positions of a map, with all its channels."""
    index = node.args[1]
    whole = isinstance(index, tuple) and all(isinstance(part, slice) for part in index)
    if not whole or value.kind < 1 or any(part != slice(None) for part in index[:2]):  # type: ignore[index,union-attr]
        return None
    return value


def _padded(node: fx.Node, value: Channels, classes: Classes) -> Channels | None:
    """Padding with zeros around a map, and with channels of zeros."""
    arguments = dict(zip(("mode", "value"), node.args[2:], strict=False)) | {"pad": node.args[1]} | dict(node.kwargs)
    pad = arguments["pad"]
    zeros = arguments.get("mode", "constant") == "constant" and arguments.get("value") in (None, 0)
    if not zeros or value.kind < 1 or not isinstance(pad, tuple | list) or len(pad) > 2 * value.kind + 2:
        return None
    before, behind = (*pad[2 * value.kind :], 0, 0)[:2]
    if not (isinstance(before, int) and isinstance(behind, int) and min(before, behind) >= 0):
        return None
    return Channels(value.kind, [*classes.new(before), *value.classes, *classes.new(behind)])


STEPS: dict[object, Callable[[fx.Node, Channels, Classes], Channels | None]] = {
    operator.getitem: _sliced,
    F.pad: _padded,
}


def _flattens(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a step flattens all dimensions except the first."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.target not in (torch.flatten, "flatten"):
        return False
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return (given.get("start_dim", 0), given.get("end_dim", -1)) == (1, -1)
