"""Networks whose neurons have weights of 1-norm 1: factors are moved forward, layer by layer.

For a positive factor ``f`` a neuron with ReLU is

    max(0, sum_k w_k a_k + b) = f max(0, sum_k (w_k / f) a_k + b / f),

so that with ``f = ||w||_1`` every neuron is a density over its inputs, and the factor moves into the weights of the
layers that read it (the talk "Structural Sparsity", instant quantization). This is possible wherever there are only
positively homogeneous steps between layers (`prernn.sparsity.channel_factors`): ReLU and leaky ReLU, pooling, dropout
at inference, flattening, concatenations. Before anything else (a sigmoid, a recurrent layer, the outputs) a layer keeps
its factors.

A layer also keeps its factors if some of its neurons meet others in an addition. Channels that meet must have the same
factor, so only one of them could have norm 1. And because a shortcut passes its factor on to everything added later,
the norm of a nearly dead channel in one branch, of the stem for example, would be divided out of all the others.
"""

from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prernn.conversion.graph import tracing
from prernn.conversion.graph.nodes import module_calls, name_of, submodule_of
from prernn.conversion.graph.shapes import UnknownFrame
from prernn.conversion.graph.traced import traced
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.computed_weights import copy_of, settle
from prernn.layers.input_to_hidden import Layer
from prernn.sparsity.channel_factors import Classes, LayerChannels, layer_channels

SMALLEST = 1e-12
"""Norm below which a neuron is not normalized: the reciprocal might leave the range of float32."""


def normalized(module: nn.Module, *, image_size: tuple[int, ...] | None = None) -> nn.Module:
    """A copy for inference that computes the same with neurons of 1-norm 1, wherever their factors can be moved on.

    Batch normalization after a convolution is first folded into it, because it would undo the factors. Layers whose
    neurons meet others in additions keep their factors, and with them the scale that training chose for what meets
    there. What remains of the factors is in the 1-norms of the layers that keep theirs, above all the outputs.

    Args:
        module: a `RecurrentNetwork` or a CNN that torch.fx can trace; it is not changed.
        image_size: ``(H, W)`` or ``(D, H, W)`` of a frame for comparing the graph with the CNN, needed only if no usual
            size fits.

    Returns:
        A module of the same kind, for a CNN its graph, in evaluation mode.

    Raises:
        NotImplementedError: a module that can't be traced, or whose graph computes something else.
    """
    network, graph = graph_of(module, image_size)
    fold_batch_norm(graph)
    known = layers_of(graph)
    channels, classes, outputs = layer_channels(graph, known)
    classes.close(outputs or [])
    _carry(known, channels, classes)
    if isinstance(network, RecurrentNetwork):  # so that checkpoints can be loaded
        network.recipe = network.recipe.with_step("normalized")
    return network


def normalized_outputs(module: nn.Module, *, image_size: tuple[int, ...] | None = None) -> tuple[nn.Module, Tensor]:
    """Like `normalized` for a CNN, with 1-norm 1 also for outputs, and "the resulting scaling factor for each output".

    Returns:
        The copy, and factors ``(K,)``: ``module(x)`` is the output of the copy times these; 1 for outputs that are
        sums of several layers.

    Raises:
        NotImplementedError: as in `normalized`, or the outputs are not those of a layer.
    """
    network, graph = graph_of(module, image_size)
    fold_batch_norm(graph)
    known = layers_of(graph)
    channels, classes, outputs = layer_channels(graph, known)
    if isinstance(network, RecurrentNetwork) or outputs is None:
        raise NotImplementedError(f"expected a CNN whose outputs are a layer's, got {type(module).__name__}")
    factors = _carry(known, channels, classes)
    return network, factors[_numbers(classes, outputs)]


def graph_of(module: nn.Module, image_size: tuple[int, ...] | None = None) -> tuple[nn.Module, fx.GraphModule]:
    """A copy of a module in evaluation mode that runs a graph, and this graph, which may be modified."""
    network = settle(copy_of(module)).eval()
    if isinstance(network, RecurrentNetwork):
        return network, network.cnn
    try:
        graph = network if isinstance(network, fx.GraphModule) else traced(network, image_size)[0]
    except UnknownFrame:
        if image_size is not None:
            raise
        graph = tracing.trace(network)  # not an image network, and no input to test it on
    return graph.eval(), graph


def layers_of(graph: fx.GraphModule) -> dict[fx.Node, Layer]:
    """The calls of linear layers and convolutions, in order, except those called twice or with shared weights."""
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
    """Folds batch normalization, with its stored statistics, into the convolution before it, in place."""
    for node, layer in layers_of(graph).items():
        if len(node.users) != 1 or isinstance(layer, nn.Linear):
            continue  # after a linear layer it may be over another dimension
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
    """For each layer the layers that are its only readers, and read nothing else, through steps that factors can pass.

    There are none for a layer whose values are added to others', or are read by anything else.
    """
    known = layers_of(graph)
    channels, classes, outputs = layer_channels(graph, known)
    classes.close(outputs or [])
    closed = classes.closed()
    made = {node: [classes.find(number) for number in own.outputs] for node, own in channels.items()}
    makers = Counter(number for numbers in made.values() for number in set(numbers))
    readers = {}
    for node, numbers in made.items():
        alone = not closed & set(numbers) and all(makers[number] == 1 for number in numbers)
        readers[node] = [other for other in known if alone and _reads(channels[other], numbers, classes)]
    return readers


def _reads(reader: LayerChannels, numbers: list[int], classes: Classes) -> bool:
    return reader.inputs is not None and [classes.find(number) for number in reader.inputs] == numbers


@torch.no_grad()
def _carry(known: dict[fx.Node, Layer], channels: dict[fx.Node, LayerChannels], classes: Classes) -> Tensor:
    """Divides each neuron by its class's factor and multiplies what reads it by the same; returns all factors."""
    _close_where_neurons_meet(channels, classes)
    factors = torch.full((len(classes),), torch.nan, dtype=torch.float64)
    factors[list(classes.closed())] = 1.0
    for node, layer in known.items():  # in execution order, so that the factors of a layer's inputs are already known
        own = channels[node]
        if own.inputs is not None:
            _multiply_inputs(layer, factors[_numbers(classes, own.inputs)].nan_to_num(1.0).to(layer.weight))
        numbers = _numbers(classes, own.outputs)
        norms = layer.weight.flatten(1).abs().sum(1).double().cpu()
        norms = torch.where(norms > SMALLEST, norms, 1.0)  # a neuron without weights has factor 1
        factors[numbers] = torch.where(factors[numbers].isnan(), norms, factors[numbers])
        factor = factors[numbers].to(layer.weight)
        layer.weight.div_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.div_(factor)
    return factors


def _close_where_neurons_meet(channels: dict[fx.Node, LayerChannels], classes: Classes) -> None:
    """Leaves all of a layer without factors where some of its neurons can have none: the others keep step with them."""
    makers = Counter(classes.find(number) for own in channels.values() for number in own.outputs)
    closed = classes.closed() | {number for number, count in makers.items() if count > 1}
    for own in channels.values():
        if any(classes.find(number) in closed for number in own.outputs):
            classes.close(own.outputs)


def _numbers(classes: Classes, channels: list[int]) -> Tensor:
    return torch.tensor([classes.find(number) for number in channels])


def _multiply_inputs(reader: Layer, factor: Tensor) -> None:
    """Multiplies the weights of each input channel; in a flattened map the positions of a channel are adjacent."""
    if isinstance(reader, nn.Linear):
        reader.weight.mul_(factor.repeat_interleave(reader.in_features // len(factor)))
        return
    each = factor.view(reader.groups, -1)  # (groups, inputs of a group)
    outputs = reader.out_channels // reader.groups
    extent = [1] * (reader.weight.ndim - 2)
    reader.weight.mul_(each.repeat_interleave(outputs, 0).view(reader.out_channels, -1, *extent))
