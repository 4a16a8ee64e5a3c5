"""Networks whose neurons have weights of 1-norm 1: the factors are carried forward, layer by layer.

For a positive factor ``f`` a neuron with ReLU is

    max(0, sum_k w_k a_k + b) = f max(0, sum_k (w_k / f) a_k + b / f),

so that with ``f = ||w||_1`` every neuron is a density over its inputs, and the factor goes into the weights of the
layers that read it (the talk "Structural Sparsity", instant quantization). That is possible wherever nothing but
positively homogeneous steps stand between two layers: ReLU and its leaky kind, pooling, dropout at inference, changes
of shape. Elsewhere (an addition of a shortcut, a sigmoid, a recurrent layer, the outputs) a layer keeps its factors.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from prernn import tracing
from prernn.network import RecurrentNetwork

HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
)
"""Modules with ``m(f x) = f m(x)`` for ``f > 0``, channel by channel, at inference."""
HOMOGENEOUS_FUNCTIONS = (
    *(F.relu, torch.relu, F.leaky_relu, torch.flatten, F.max_pool2d, F.avg_pool2d),
    *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
)
HOMOGENEOUS_METHODS = ("relu", "flatten", "contiguous")

Layer = nn.Linear | _ConvNd


def normalized(module: nn.Module) -> nn.Module:
    """A copy for inference that computes the same with neurons of 1-norm 1, wherever their factors can be carried on.

    Batch normalization behind a layer is folded into it first, as it would take the factors back. What is left of the
    factors are the 1-norms of the layers that keep theirs, above all of the outputs.

    Args:
        module: a `RecurrentNetwork` or a CNN that torch.fx traces; it is left as it is.

    Returns:
        A module of the same kind, for a CNN its graph, in evaluation mode.

    Raises:
        NotImplementedError: a module that can't be traced.
    """
    network, graph = graph_of(module)
    fold_batch_norm(graph)
    for node in layers_of(graph):
        layer = submodule(graph, node)
        if (readers := readers_of(graph, node)) is not None:
            _carry(layer, [submodule(graph, reader) for reader in readers])
    return network


def graph_of(module: nn.Module) -> tuple[nn.Module, fx.GraphModule]:
    """A copy of a module in evaluation mode that runs a graph, and that graph, which may be changed."""
    network = copy.deepcopy(module).eval()
    if isinstance(network, RecurrentNetwork):
        return network, network.cnn
    graph = network if isinstance(network, fx.GraphModule) else tracing.trace(network)
    return graph.eval(), graph


def submodule(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def layers_of(graph: fx.GraphModule) -> Iterator[fx.Node]:
    """The calls of linear layers and convolutions, in order; a layer that is called twice is left out."""
    nodes = [node for node in graph.graph.nodes if isinstance(submodule(graph, node), Layer)]
    targets = [node.target for node in nodes]
    for node in nodes:
        if targets.count(node.target) == 1 and not isinstance(submodule(graph, node), _ConvTransposeNd):
            yield node


def fold_batch_norm(graph: fx.GraphModule) -> None:
    """Folds batch normalization, with the statistics that it has, into the layer before it, in place."""
    for node in list(layers_of(graph)):
        (user,) = node.users if len(node.users) == 1 else (None,)
        norm = submodule(graph, user) if user is not None else None
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        layer = submodule(graph, node)
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        parent, _, name = str(node.target).rpartition(".")
        setattr(graph.get_submodule(parent), name, fuse(layer, norm))  # type: ignore[type-var]
        user.replace_all_uses_with(node)
        graph.graph.erase_node(user)
    graph.delete_all_unused_submodules()
    graph.recompile()


def readers_of(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node] | None:
    """The layers that read a layer's values through positively homogeneous steps alone; None if others read them."""
    known = set(layers_of(graph))
    readers, todo = [], list(node.users)
    while todo:
        user = todo.pop()
        if user in known:
            readers.append(user)
        elif _is_homogeneous(graph, user):
            todo.extend(user.users)
        else:
            return None
    return readers or None


def _is_homogeneous(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(submodule(graph, node), HOMOGENEOUS)
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_function":
        return node.target in HOMOGENEOUS_FUNCTIONS
    return node.op == "call_method" and node.target in HOMOGENEOUS_METHODS


@torch.no_grad()
def _carry(layer: Layer, readers: list[Layer]) -> None:
    """Divides each neuron by its 1-norm, and multiplies what the readers make of it by the same."""
    factor = layer.weight.flatten(1).abs().sum(1)  # (D,)
    factor = torch.where(factor > 0, factor, 1.0)  # a neuron without weights has nothing to carry
    if not all(_takes(reader, len(factor)) for reader in readers):
        return
    layer.weight.div_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.div_(factor)
    for reader in readers:
        _multiply_inputs(reader, factor)


def _takes(reader: Layer, channels: int) -> bool:
    if isinstance(reader, nn.Linear):
        return reader.in_features % channels == 0
    return reader.in_channels == channels


def _multiply_inputs(reader: Layer, factor: Tensor) -> None:
    """Multiplies the weights of each input channel; a flattened map has its places side by side."""
    if isinstance(reader, nn.Linear):
        reader.weight.mul_(factor.repeat_interleave(reader.in_features // len(factor)))
        return
    each = factor.view(reader.groups, -1)  # (groups, inputs of a group)
    outputs = reader.out_channels // reader.groups
    extent = [1] * (reader.weight.ndim - 2)
    reader.weight.mul_(each.repeat_interleave(outputs, 0).view(reader.out_channels, -1, *extent))
