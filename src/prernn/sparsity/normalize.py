"""Networks whose neurons have weights of 1-norm 1: the factors are carried forward, layer by layer.

For a positive factor ``f`` a neuron with ReLU is

    max(0, sum_k w_k a_k + b) = f max(0, sum_k (w_k / f) a_k + b / f),

so that with ``f = ||w||_1`` every neuron is a density over its inputs, and the factor goes into the weights of the
layers that read it (the talk "Structural Sparsity", instant quantization). That is possible wherever nothing but
positively homogeneous steps stand between layers (`prernn.sparsity.channel_factors`): ReLU and its leaky kind, pooling,
dropout at inference, the flattening of maps, concatenations. Elsewhere (a sigmoid, a recurrent layer, the outputs) a
layer keeps its factors.

So does it where some of its neurons meet others in an addition. What meets must have one factor, so that no norm but
one's could be 1; and as a shortcut hands its factor on to all that is added later, each with a gain of its own, what is
small in one branch (a channel of the stem that is all but dead) the others would be divided by.
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
"""Norm below which a neuron has nothing to carry: one over it might leave the range of float32."""


def normalized(module: nn.Module, *, image_size: tuple[int, ...] | None = None) -> nn.Module:
    """A copy for inference that computes the same with neurons of 1-norm 1, wherever their factors can be carried on.

    Batch normalization behind a convolution is folded into it first, as it would take the factors back. Layers whose
    neurons meet others in additions keep their factors, and so the scale that training chose for all that meets there.
    What is left of the factors are the 1-norms of the layers that keep theirs, above all of the outputs.

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
    known = layers_of(graph)
    channels, classes, outputs = layer_channels(graph, known)
    classes.close(outputs or [])
    _carry(known, channels, classes)
    if isinstance(network, RecurrentNetwork):  # a checkpoint has to know
        network.recipe = network.recipe.with_step("normalized")
    return network


def normalized_outputs(module: nn.Module, *, image_size: tuple[int, ...] | None = None) -> tuple[nn.Module, Tensor]:
    """As `normalized`, of a CNN, with outputs of 1-norm 1 too, and "the resulting scaling factor for each output".

    Returns:
        The module, and ``(K,)``: ``module(x)`` is what the copy gives times these; 1 for outputs that several layers
        add up to.

    Raises:
        NotImplementedError: as `normalized`, and where outputs are not those of a layer.
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
    """For each layer those that alone read its values, and its values alone, through steps that a factor passes.

    None of a layer whose values meet others' in an addition, or that others read.
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
    for node, layer in known.items():  # in the order in which they run: what a layer reads has its factor by then
        own = channels[node]
        if own.inputs is not None:
            _multiply_inputs(layer, factors[_numbers(classes, own.inputs)].nan_to_num(1.0).to(layer.weight))
        numbers = _numbers(classes, own.outputs)
        norms = layer.weight.flatten(1).abs().sum(1).double().cpu()
        norms = torch.where(norms > SMALLEST, norms, 1.0)  # a neuron without weights has nothing to carry
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
    """Multiplies the weights of each input channel; a flattened map has its places side by side."""
    if isinstance(reader, nn.Linear):
        reader.weight.mul_(factor.repeat_interleave(reader.in_features // len(factor)))
        return
    each = factor.view(reader.groups, -1)  # (groups, inputs of a group)
    outputs = reader.out_channels // reader.groups
    extent = [1] * (reader.weight.ndim - 2)
    reader.weight.mul_(each.repeat_interleave(outputs, 0).view(reader.out_channels, -1, *extent))
