"""What each node of a graph is: layer, activation, pooling, vector; where the network ends."""

import math
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

LAYERS = (nn.Linear, _ConvNd)


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


ACTIVATION_FUNCTIONS = {
    function
    for name in _ACTIVATION_NAMES
    for function in (getattr(F, name, None), getattr(torch, name, None))
    if function is not None
}


POOL_MODULES = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)


POOL_FUNCTIONS = {
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, torch.mean, "mean"),
}


ADAPTIVE_POOLS = {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, torch.mean, "mean"}


ADDITIONS = {operator.add, torch.add, "add"}


PRODUCTS = {operator.mul, torch.mul, torch.matmul, operator.matmul, torch.bmm, "mul", "matmul"}


def submodule_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that the node calls, or None."""
    return module.get_submodule(node.target) if node.op == "call_module" else None


def value_shape(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a node's value for a batch of 2, or None where it is no tensor."""
    return node.meta.get("shape")


def is_vector(node: fx.Node) -> bool:
    """Whether the value is one vector a frame, ``(N, D)``."""
    shape = value_shape(node)
    return shape is not None and len(shape) == 2 and shape[0] == 2


def is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an elementwise activation."""
    if node.op == "call_module":
        act = module.get_submodule(node.target)
        own_names = ("timm.layers.activations", "timm.layers.activations_me")
        return isinstance(act, ACTIVATION_MODULES) or type(act).__module__ in own_names
    if node.op == "call_function":
        return node.target in ACTIVATION_FUNCTIONS
    return node.op == "call_method" and node.target in _ACTIVATION_NAMES


def is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an fc or conv layer."""
    return isinstance(submodule_of(module, node), LAYERS)


def holds_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a layer, or a module that can't be traced with one inside."""
    inner = submodule_of(module, node)
    return inner is not None and any(isinstance(part, LAYERS) for part in inner.modules())


def final_value(module: fx.GraphModule) -> fx.Node:
    """The node whose value the CNN puts out.

    Raises:
        NotImplementedError: it puts out something other than one tensor.
    """
    value = next(node for node in module.graph.nodes if node.op == "output").args[0]
    if isinstance(value, tuple | list):
        value = value[0]  # a network in state form puts out (output, states)
    if not isinstance(value, fx.Node) or value_shape(value) is None:
        raise NotImplementedError("expected a CNN that puts out one tensor; wrap it in a module that picks one")
    return value


def find_output_layer(module: fx.GraphModule) -> fx.Node | None:
    """The fc or 1x1 conv layer whose values are the CNN's outputs, or None for a CNN that ends in features.

    Between it and the output only reshaping, dropout and a final softmax, log-softmax or sigmoid may stand.
    """
    node = final_value(module)
    while True:
        if is_layer(module, node):
            shape = value_shape(node)
            return node if shape is not None and len(shape) >= 2 and map_size(shape) == 1 else None
        if not _ends_only(module, node):
            return None
        node = node.all_input_nodes[0]


def _ends_only(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node may stand between the output layer and the output."""
    modules = (
        nn.Identity,
        nn.Flatten,
        nn.Unflatten,
        nn.Dropout,
        nn.Softmax,
        nn.LogSoftmax,
        nn.Softmax2d,
        nn.Sigmoid,
    )
    names = (
        "flatten",
        "view",
        "reshape",
        "squeeze",
        "contiguous",
        "getitem",
        "softmax",
        "log_softmax",
        "sigmoid",
    )
    if not node.all_input_nodes or value_shape(node.all_input_nodes[0]) is None:
        return False
    if averages(module, node):
        return map_size(value_shape(node.all_input_nodes[0])) == 1
    if node.op == "call_module":
        return isinstance(module.get_submodule(node.target), modules)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in names


def map_size(shape: tuple[int, ...]) -> int:
    """Number of places of a map ``(N, C, ...)``; 1 for a vector."""
    return math.prod(shape[2:])


def is_constant(node: fx.Node) -> bool:
    """Whether the value comes from parameters and numbers alone, not from the frame or a state."""
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        if current.op == "placeholder":
            return False
        parents = [parent for parent in current.all_input_nodes if parent not in seen]
        seen.update(parents)
        todo.extend(parents)
    return True


def averages(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node averages a map or tokens down to one place."""
    before = value_shape(node.all_input_nodes[0]) if node.all_input_nodes else None
    after = value_shape(node)
    if before is None or after is None or len(before) < 3:
        return False
    kind = submodule_of(module, node)
    pools = isinstance(kind, POOL_MODULES) or node.target in POOL_FUNCTIONS
    pools = pools or "AdaptiveAvgPool" in type(kind).__name__ or "SelectAdaptivePool" in type(kind).__name__
    return pools and 2 * max(after[1:]) == torch.Size(after).numel() and after[0] == before[0]
