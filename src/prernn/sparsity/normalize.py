"""Networks whose neurons have weights of 1-norm 1: the factors are carried forward, layer by layer.

For a positive factor ``f`` a neuron with ReLU is

    max(0, sum_k w_k a_k + b) = f max(0, sum_k (w_k / f) a_k + b / f),

so that with ``f = ||w||_1`` every neuron is a density over its inputs, and the factor goes into the weights of the
layers that read it (the talk "Structural Sparsity", instant quantization). That is possible wherever nothing but
positively homogeneous steps stand between two layers: ReLU and its leaky kind, pooling, dropout at inference, the
flattening of maps. Elsewhere (an addition of a shortcut, a sigmoid, a recurrent layer, the outputs) a layer keeps its
factors.
"""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prernn.conversion.graph import tracing
from prernn.conversion.graph.nodes import layer_at, module_calls, name_of, submodule_of
from prernn.conversion.graph.shapes import UnknownFrame
from prernn.conversion.graph.traced import traced
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.computed_weights import copy_of, settle
from prernn.layers.input_to_hidden import Layer

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
"""Modules with ``m(f x) = f m(x)`` for ``f > 0``, number by number, at inference."""
ELEMENTWISE_FUNCTIONS = (F.relu, torch.relu, F.leaky_relu)
ELEMENTWISE_METHODS = ("relu", "contiguous")
POOLING = {
    1: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    3: (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
}
"""The same, channel by channel, of maps with so many dimensions."""
POOLING_FUNCTIONS = {
    2: (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    3: (F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
}
SMALLEST = 1e-12
"""Norm below which a neuron has nothing to carry: one over it might leave the range of float32."""
VECTOR, FLAT = 0, -1
"""Kinds of values beside maps of 1, 2 or 3 dimensions: vectors, and maps that were flattened."""


def normalized(module: nn.Module, *, image_size: tuple[int, ...] | None = None) -> nn.Module:
    """A copy for inference that computes the same with neurons of 1-norm 1, wherever their factors can be carried on.

    Batch normalization behind a convolution is folded into it first, as it would take the factors back. What is left of
    the factors are the 1-norms of the layers that keep theirs, above all of the outputs.

    Args:
        module: a `RecurrentNetwork` or a CNN that torch.fx traces; it is left as it is.
        image_size: ``(H, W)`` or ``(D, H, W)`` of a frame that the graph is compared with the CNN on, only where no
            usual size fits.

    Returns:
        A module of the same kind, for a CNN its graph, in evaluation mode.

    Raises:
        NotImplementedError: a module that can't be traced, or whose graph computes something else.
    """
    network, graph = graph_of(module, image_size)
    fold_batch_norm(graph)
    for node, readers in readers_of(graph).items():
        if readers:
            _carry(layer_at(graph, node), [layer_at(graph, reader) for reader in readers])
    if isinstance(network, RecurrentNetwork):  # a checkpoint has to know
        network.recipe = network.recipe.with_step("normalized")
    return network


def graph_of(module: nn.Module, image_size: tuple[int, ...] | None = None) -> tuple[nn.Module, fx.GraphModule]:
    """A copy of a module in evaluation mode that runs a graph, and that graph, which may be changed."""
    network = settle(copy_of(module)).eval()
    if isinstance(network, RecurrentNetwork):
        return network, network.cnn
    try:
        graph = network if isinstance(network, fx.GraphModule) else traced(network, image_size)[0]
    except UnknownFrame:
        if image_size is not None:
            raise
        graph = tracing.trace(network)  # a network of something else, with nothing to try it on
    return graph.eval(), graph


def layers_of(graph: fx.GraphModule) -> dict[fx.Node, Layer]:
    """The calls of linear layers and convolutions, in order; those called twice or with shared weights are left out."""
    called = Counter(name_of(node) for node in module_calls(graph.graph))
    owners = Counter(id(value) for _, value in graph.named_parameters(remove_duplicate=False))
    found: dict[fx.Node, Layer] = {}
    for node in module_calls(graph.graph):
        layer = submodule_of(graph, node)
        if not isinstance(layer, Layer) or isinstance(layer, _ConvTransposeNd) or called[name_of(node)] > 1:
            continue
        if all(owners[id(value)] == 1 for value in layer.parameters()):
            found[node] = layer
    return found


def fold_batch_norm(graph: fx.GraphModule) -> None:
    """Folds batch normalization, with the statistics that it has, into the convolution before it, in place."""
    for node, layer in layers_of(graph).items():
        if len(node.users) != 1 or isinstance(layer, nn.Linear):
            continue  # behind a linear layer it need not stand over the same dimension
        (user,) = node.users
        norm = submodule_of(graph, user)
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        graph.set_submodule(name_of(node), fuse_conv_bn_eval(layer, norm))
        user.replace_all_uses_with(node)
        graph.graph.erase_node(user)
    graph.delete_all_unused_submodules()
    graph.recompile()


def readers_of(graph: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """For each layer those that read its values through steps that a factor of each neuron passes; none if others do.

    From a linear layer that is a linear layer behind steps number by number; from a convolution one of the same kind,
    also behind pooling, or a linear layer behind the one flattening of batches of maps.
    """
    known = layers_of(graph)
    return {node: _readers(graph, node, known) for node in known}


def _readers(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Layer]) -> list[fx.Node]:
    layer = known[node]
    readers, todo = [], [(user, _kind(layer)) for user in node.users]
    while todo:
        user, kind = todo.pop()
        if user in known:
            if not _takes(known[user], kind, layer.weight.shape[0]):
                return []
            readers.append(user)
        elif (after := _kind_after(graph, user, kind)) is not None:
            todo.extend((later, after) for later in user.users)
        else:
            return []
    return readers


def _kind(layer: Layer) -> int:
    return VECTOR if isinstance(layer, nn.Linear) else layer.weight.ndim - 2


def _takes(reader: Layer, kind: int, channels: int) -> bool:
    if isinstance(reader, nn.Linear):
        flat = kind == FLAT and reader.in_features % channels == 0
        return flat or (kind == VECTOR and reader.in_features == channels)
    return kind == _kind(reader) and reader.in_channels == channels


def _kind_after(graph: fx.GraphModule, node: fx.Node, kind: int) -> int | None:
    """What a step makes of values of a kind; None for a step that a factor does not pass."""
    module = submodule_of(graph, node)
    if len(node.all_input_nodes) != 1:
        return None
    if isinstance(module, ELEMENTWISE) or (node.op == "call_method" and node.target in ELEMENTWISE_METHODS):
        return kind
    if node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS:
        return kind
    if isinstance(module, POOLING.get(kind, ())):
        return kind
    if node.op == "call_function" and node.target in POOLING_FUNCTIONS.get(kind, ()):
        return kind
    return FLAT if kind > 0 and _flattens(module, node) else None


def _flattens(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a step joins all dimensions but the first."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.target not in (torch.flatten, "flatten"):
        return False
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return (given.get("start_dim", 0), given.get("end_dim", -1)) == (1, -1)


@torch.no_grad()
def _carry(layer: Layer, readers: list[Layer]) -> None:
    """Divides each neuron by its 1-norm, and multiplies what the readers make of it by the same."""
    factor = layer.weight.flatten(1).abs().sum(1)  # (D,)
    factor = torch.where(factor > SMALLEST, factor, 1.0)  # a neuron without weights has nothing to carry
    layer.weight.div_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.div_(factor)
    for reader in readers:
        _multiply_inputs(reader, factor)


def _multiply_inputs(reader: Layer, factor: Tensor) -> None:
    """Multiplies the weights of each input channel; a flattened map has its places side by side."""
    if isinstance(reader, nn.Linear):
        reader.weight.mul_(factor.repeat_interleave(reader.in_features // len(factor)))
        return
    each = factor.view(reader.groups, -1)  # (groups, inputs of a group)
    outputs = reader.out_channels // reader.groups
    extent = [1] * (reader.weight.ndim - 2)
    reader.weight.mul_(each.repeat_interleave(outputs, 0).view(reader.out_channels, -1, *extent))
