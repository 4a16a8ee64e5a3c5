"""Finds the part of a CNN's graph around a layer that has to be cut out to make the layer recurrent.

`find_site` gives the layer's inputs, the *tail* between the layer and the vector that becomes the hidden state
(batch normalization, shortcut, pooling), and the activation that moves after the recurrence (PreRNN, eqs. 4-7).
No architecture is known by name here: everything follows from the graph.
"""

import operator
from dataclasses import dataclass

import torch
from torch import cat, fx, nn
from torch.fx.node import Target
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prernn.conversion.graph.ending import find_output_layer
from prernn.conversion.graph.nodes import (
    ADAPTIVE_POOLS,
    ADDITIONS,
    POOL_MODULES,
    PRODUCTS,
    argument,
    averages,
    holds_layer,
    is_activation,
    is_constant,
    is_layer,
    is_vector,
    layer_at,
    map_size,
    module_calls,
    name_of,
    nodes_of,
    shape_of,
    submodule_of,
    value_shape,
)
from prernn.layers.input_to_hidden import Layer

SCALINGS: set[Target] = {operator.mul, torch.mul, "mul"}


@dataclass
class Site:
    """The part of a graph that is cut out around a layer to make it recurrent.

    The recurrent layer takes the values of ``inputs`` (the layer's own input first, then shortcuts), and its output
    replaces the value of ``end``; ``nodes`` are removed. ``tail`` is None if the layer's output is the vector itself.
    ``activation`` is the CNN's own, which remains in the tail only if it is kept.
    """

    name: str
    layer: Layer
    inputs: list[fx.Node]
    tail: fx.GraphModule | None
    activation: nn.Module | None
    end: fx.Node
    size: int
    pool_first: bool
    nodes: list[fx.Node]


def find_layer(module: fx.GraphModule, *, keep_activation: bool = False) -> Site:
    """The last fc or conv layer before the output layer: the deepest that leads to a vector, without layers in between.

    Raises:
        NotImplementedError: no layer can be made recurrent; the message gives reasons for the last few.
    """
    output_layer = find_output_layer(module)
    layers = [node for node in module_calls(module.graph) if is_layer(module, node) and node is not output_layer]
    depth = _depths(module)
    reasons = []
    # the deepest first (a shortcut's convolution may come later in the graph); if equally deep, the later one
    layers = sorted(layers, key=lambda node: depth[node])[::-1]
    for node in layers:
        try:
            return find_site(module, name_of(node), keep_activation=keep_activation)
        except (NotImplementedError, ValueError) as error:
            reasons.append(str(error))
            if len(reasons) == 8:
                break
    if layers and (tokens := _tokens(module, layers[0])):
        raise NotImplementedError(
            f"found no layer to make recurrent: the last ones give {tokens} tokens, as in a transformer, which "
            "is no CNN; prernn.traditional stacks recurrent layers on its outputs"
        )
    raise NotImplementedError(
        "found no layer to make recurrent: looked for the last fc layer, or a conv layer with global average pooling "
        f"after it; pass layer=NAME to choose one. {'; '.join(reasons[:3]) or 'There is no layer before the output'}"
    )


def _tokens(module: fx.GraphModule, node: fx.Node) -> int:
    """How many tokens an fc layer is applied to; 0 if it gives one vector, or is no fc layer."""
    shape = value_shape(node)
    several = isinstance(submodule_of(module, node), nn.Linear) and shape is not None and len(shape) == 3
    return shape[1] if several and shape is not None else 0


def _depths(module: fx.GraphModule) -> dict[fx.Node, int]:
    """Number of fc and conv layers on the longest path from the input to each node."""
    depth: dict[fx.Node, int] = {}
    for node in nodes_of(module.graph):
        before = max((depth[parent] for parent in node.all_input_nodes), default=0)
        depth[node] = before + is_layer(module, node)
    return depth


def find_site(module: fx.GraphModule, name: str, *, keep_activation: bool = False) -> Site:
    """The part to cut out to make the layer called ``name`` recurrent; ``keep_activation`` keeps it in the tail.

    Raises:
        ValueError: there is no such fc or conv layer, or no activation after it that could be kept.
        NotImplementedError: the layer is used more than once, or is not followed by a pooled vector.
    """
    node = _layer_node(module, name)
    end = _vector_behind(module, node)
    region = _between(node, end)
    _check_region(module, node, end, region)
    inner = _activation_within(module, node, end, region)
    tail_region, outer = (region, inner) if inner else _extend_to_activation(module, end, region)
    cut, moved = tail_region, inner
    if outer and not inner:
        cut = [*tail_region, outer]
    if keep_activation:
        if outer is None:
            raise ValueError(f"expected an activation after layer {name!r} to keep, found none")
        tail_region, moved = cut, None
    end = tail_region[-1]
    inputs = [argument(node, 0), *_outside_values(tail_region)]
    tail = extract(module, [node, *inputs[1:]], tail_region[1:], end, without=moved) if len(tail_region) > 1 else None
    return Site(
        name=name,
        layer=layer_at(module, node),
        inputs=inputs,
        tail=tail,
        activation=_activation_module(module, outer) if outer else None,
        end=cut[-1],
        size=shape_of(end)[1],
        pool_first=_pools_first(module, node, tail_region, moved),
        nodes=cut,
    )


def _layer_node(module: fx.GraphModule, name: str) -> fx.Node:
    uses = [node for node in module_calls(module.graph) if node.target == name]
    if not uses or not is_layer(module, uses[0]):
        layers = [node.target for node in module_calls(module.graph) if is_layer(module, node)]
        raise ValueError(f"expected layer to name an fc or conv layer, got {name!r}; the last are {layers[-6:]}")
    if len(uses) > 1:
        raise NotImplementedError(f"layer {name!r} is used {len(uses)} times in a frame; expected once")
    return uses[0]


def _reaches(start: fx.Node, goal: fx.Node, blocked: set[fx.Node]) -> bool:
    """Whether a path leads from ``start`` to ``goal`` that avoids the ``blocked`` nodes."""
    seen: set[fx.Node] = set()
    todo = [start]
    while todo:
        node = todo.pop()
        if node is goal:
            return True
        todo.extend(user for user in node.users if user not in seen and user not in blocked)
        seen.update(node.users)
    return False


def _vector_behind(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The first vector ``(N, D)`` that every path from the layer to the output passes through."""
    goal = module.graph.output_node()
    for other in nodes_of(module.graph):  # topological order
        if other is node and is_vector(node):
            return node
        if is_vector(other) and _reaches(node, other, set()) and not _reaches(node, goal, {other}):
            return other
    raise NotImplementedError(
        f"no vector follows layer {node.target!r}: looked for global average pooling or flattening"
    )


def _between(node: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes on all paths from the layer to the vector, both included, in topological order."""
    forward = {node}
    for other in nodes_of(node.graph):
        if any(parent in forward for parent in other.all_input_nodes):
            forward.add(other)
    backward, todo = {end}, [end]
    while todo:
        for parent in todo.pop().all_input_nodes:
            if parent in forward and parent not in backward:
                backward.add(parent)
                todo.append(parent)
    return [other for other in nodes_of(node.graph) if other in backward]


def _check_region(module: fx.GraphModule, node: fx.Node, end: fx.Node, region: list[fx.Node]) -> None:
    """Checks that the region has the form of eq. 6: normalization, shortcut and average pooling, no further layer."""
    inside = set(region)
    layers = {other for other in region[1:] if holds_layer(module, other)}
    if not _reaches(node, end, layers):
        last = [repr(other.target) for other in region if other in layers][-6:]
        names = ", ".join(last)
        raise NotImplementedError(
            f"between layer {node.target!r} and the pooled vector are further layers ({names}); pass the last of them"
        )
    for other in region:
        others = [parent for parent in other.all_input_nodes if parent not in inside]
        if other.target in PRODUCTS and any(value_shape(parent) and not is_constant(parent) for parent in others):
            raise NotImplementedError(
                f"layer {node.target!r} scales other features (a gate or attention), but computes none"
            )
    start = value_shape(node)
    if end is node or start is None:
        return
    if map_size(start) > 1 and _reaches(node, end, {other for other in region if averages(module, other)}):
        raise NotImplementedError(
            f"no global average pooling follows layer {node.target!r}, whose output is {start[1:]}: looked for "
            "a mean or an average pooling to one place; pass an fc layer, or a conv layer that is pooled"
        )


def _activation_within(module: fx.GraphModule, node: fx.Node, end: fx.Node, region: list[fx.Node]) -> fx.Node | None:
    """The last activation on the main path from the layer to the vector, or None."""
    inside = set(region)
    other = end
    while other is not node:
        if is_activation(module, other):
            return other
        parents = [parent for parent in other.all_input_nodes if parent in inside and value_shape(parent)]
        if len(parents) != 1 and other.target in PRODUCTS:
            return None  # features times their own gate (squeeze-and-excitation): no activation can be moved
        # of several branches that depend on the layer, the deepest in the graph is the main path
        other = parents[-1] if parents else node
    return None


def _extend_to_activation(
    module: fx.GraphModule, end: fx.Node, region: list[fx.Node]
) -> tuple[list[fx.Node], fx.Node | None]:
    """Extends the region by normalization after the vector if an activation follows; gives both."""
    extended, node = list(region), end
    while len(node.users) == 1:
        node = next(iter(node.users))
        if is_activation(module, node):
            return extended, node
        if not isinstance(submodule_of(module, node), (nn.BatchNorm1d, nn.Identity)):
            break
        extended.append(node)
    return region, None


def _outside_values(region: list[fx.Node]) -> list[fx.Node]:
    """Values that enter the region other than through its layer: the shortcuts gamma. Constants go into the tail."""
    inside = set(region)
    parents = [parent for node in region[1:] for parent in node.all_input_nodes]
    return list(dict.fromkeys(p for p in parents if p not in inside and not is_constant(p)))


def extract(
    module: fx.GraphModule,
    inputs: list[fx.Node],
    nodes: list[fx.Node],
    output: fx.Node,
    without: fx.Node | None = None,
) -> fx.GraphModule:
    """A module that computes ``output`` from ``inputs`` through ``nodes``, leaving out the node ``without``."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for count, node in enumerate(inputs):
        values[node] = graph.placeholder(f"x{count}")

    def value(node: fx.Node) -> fx.Node:
        if node not in values:  # a parameter, or a value computed from parameters
            values[node] = graph.node_copy(node, value)
        return values[node]

    for node in nodes:
        values[node] = value(argument(node, 0)) if node is without else graph.node_copy(node, value)
    graph.output(values[output])
    graph.lint()
    return fx.GraphModule(module, graph, "Tail")


def _activation_module(module: fx.GraphModule, node: fx.Node) -> nn.Module:
    if (act := submodule_of(module, node)) is not None:
        return act
    return extract(module, [node.all_input_nodes[0]], [node], node)


def _pools_first(module: fx.GraphModule, node: fx.Node, region: list[fx.Node], without: fx.Node | None) -> bool:
    """Whether pooling may come before the layer: all steps before it are affine and the same at every position."""
    layer = layer_at(module, node)
    pointwise = isinstance(layer, _ConvNd) and set(layer.kernel_size) == {1} == set(layer.stride)
    if not pointwise or any(map(bool, layer.padding if isinstance(layer.padding, tuple) else ())):
        return False
    small: set[fx.Node] = set()  # values of one position, such as the gates of squeeze-and-excitation
    inside = set(region)
    for other in region[1:]:
        parents = [parent for parent in other.all_input_nodes if parent in inside]
        if averages(module, other):
            if not _averages_evenly(module, other):
                return False
            if not _reaches(node, region[-1], {other}):
                return True
            small.add(other)
            continue
        shape = value_shape(other)
        if all(parent in small for parent in parents) and shape is not None and map_size(shape) == 1:
            small.add(other)
            continue
        kind = submodule_of(module, other)
        affine = isinstance(kind, (_BatchNorm, nn.Identity)) or other.target in ADDITIONS | {cat}
        gated = other.target in SCALINGS and len(parents) == 2 and sum(parent in small for parent in parents) == 1
        if not affine and not gated and other is not without:
            return False
    return False


def _averages_evenly(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an averaging node takes the mean over all positions, whatever their number."""
    kind = submodule_of(module, node)
    adaptive = isinstance(kind, POOL_MODULES[:3]) or "Adaptive" in type(kind).__name__
    return adaptive or node.target in ADAPTIVE_POOLS
