"""Nodes of a graph: accessors for their targets, arguments and shapes, and predicates for their kinds.

A node's target and arguments may have many types. The accessors state the expected type and raise TypeError if they
find another.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import Argument, Target
from torch.nn.modules.batchnorm import _BatchNorm

from prernn.layers.input_to_hidden import Layer

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)

ACTIVATION_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Threshold),
)

_ACTIVATION_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "celu", "selu", "gelu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "sigmoid", "sigmoid_", "tanh", "tanh_"),
    *("softplus", "softsign", "threshold"),
)

ACTIVATION_FUNCTIONS: set[Callable[..., Any]] = {
    function
    for name in _ACTIVATION_NAMES
    for function in (getattr(F, name, None), getattr(torch, name, None))
    if function is not None
}

POOL_MODULES = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)

ADAPTIVE_POOLS: set[Target] = {
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(torch.mean, "mean"),
}

POOL_FUNCTIONS: set[Target] = {*ADAPTIVE_POOLS, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}

ADDITIONS: set[Target] = {operator.add, torch.add, "add"}

PRODUCTS: set[Target] = {operator.mul, torch.mul, torch.matmul, operator.matmul, torch.bmm, "mul", "matmul"}


def nodes_of(graph: fx.Graph) -> list[fx.Node]:
    """A list of the current nodes in order, so that the graph may change during iteration."""
    return list(graph.nodes)


def inputs_of(graph: fx.Graph) -> list[fx.Node]:
    """The nodes for the graph's own arguments, in order."""
    return [node for node in nodes_of(graph) if node.op == "placeholder"]


def module_calls(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that call a module, in order."""
    return [node for node in nodes_of(graph) if node.op == "call_module"]


def name_of(node: fx.Node) -> str:
    """The name of the module or method that the node calls."""
    if not isinstance(node.target, str):
        raise TypeError(f"expected a node that calls a module or method by its name, got {node.format_node()}")
    return node.target


def step_name(node: fx.Node) -> str:
    """The name of the function, method or module that the node calls; "" for a function without one."""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def as_node(value: Argument) -> fx.Node:
    """An argument as a value of the graph."""
    if not isinstance(value, fx.Node):
        raise TypeError(f"expected a value of the graph, got {value!r}")
    return value


def as_nodes(values: Argument) -> tuple[fx.Node, ...]:
    """An argument as a tuple of values of the graph."""
    if not isinstance(values, tuple | list):
        raise TypeError(f"expected a tuple of values of the graph, got {values!r}")
    return tuple(as_node(value) for value in values)


def argument(node: fx.Node, place: int) -> fx.Node:
    """The value of the graph that is the node's positional argument number ``place``."""
    return as_node(node.args[place])


def submodule_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that the node calls, or None."""
    return module.get_submodule(name_of(node)) if node.op == "call_module" else None


def layer_at(module: fx.GraphModule, node: fx.Node) -> Layer:
    """The fc or conv layer that the node calls."""
    layer = submodule_of(module, node)
    if not isinstance(layer, Layer):
        raise TypeError(f"expected a node that calls an fc or conv layer, got {node.format_node()}")
    return layer


def value_shape(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a node's value for a batch of 2, or None if it is no tensor."""
    shape: tuple[int, ...] | None = node.meta.get("shape")
    return shape


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """`value_shape` of a tensor; TypeError if it is none."""
    shape = value_shape(node)
    if shape is None:
        raise TypeError(f"expected a tensor, got {node.format_node()}")
    return shape


def map_size(shape: tuple[int, ...]) -> int:
    """Number of positions of a map ``(N, C, ...)``; 1 for a vector."""
    return math.prod(shape[2:])


def is_vector(node: fx.Node) -> bool:
    """Whether the value is one vector per frame, ``(N, D)``."""
    shape = value_shape(node)
    return shape is not None and len(shape) == 2 and shape[0] == 2


def is_constant(node: fx.Node) -> bool:
    """Whether the value depends only on parameters and constants, not on the frame or a state."""
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        if current.op == "placeholder":
            return False
        parents = [parent for parent in current.all_input_nodes if parent not in seen]
        seen.update(parents)
        todo.extend(parents)
    return True


def is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an fc or conv layer."""
    return isinstance(submodule_of(module, node), Layer)


def holds_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a layer, or an untraceable module that contains one."""
    inner = submodule_of(module, node)
    return inner is not None and any(isinstance(part, Layer) for part in inner.modules())


def is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an elementwise activation."""
    if (act := submodule_of(module, node)) is not None:
        own_names = ("timm.layers.activations", "timm.layers.activations_me")
        return isinstance(act, ACTIVATION_MODULES) or type(act).__module__ in own_names
    if node.op == "call_function":
        return node.target in ACTIVATION_FUNCTIONS
    return node.op == "call_method" and node.target in _ACTIVATION_NAMES


def averages(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node averages a map or tokens down to one position."""
    before = value_shape(node.all_input_nodes[0]) if node.all_input_nodes else None
    after = value_shape(node)
    if before is None or after is None or len(before) < 3:
        return False
    kind = submodule_of(module, node)
    pools = isinstance(kind, POOL_MODULES) or node.target in POOL_FUNCTIONS
    pools = pools or "AdaptiveAvgPool" in type(kind).__name__ or "SelectAdaptivePool" in type(kind).__name__
    return pools and 2 * max(after[1:]) == math.prod(after) and after[0] == before[0]
