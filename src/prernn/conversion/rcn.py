"""RCN: recurrence in every convolution of a 2-D CNN, instead of 3-D convolution.

Singh and Cuzzolin, "Recurrent Convolutions for Causal 3D CNNs", supplement. A recurrent convolutional unit combines the
spatial convolution ``u_t = W_xh * x_t`` with a 1x1 convolution of its hidden state, before batch normalization and
activation: ``h_t = (W_hh h_{t-1} + u_t) / 2``, and ``h_1 = u_1``.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from prernn.conversion.graph.graft import insert_layer
from prernn.conversion.graph.nodes import module_calls, name_of, submodule_of, value_shape
from prernn.conversion.modes import channels_last
from prernn.conversion.network import RecurrentNetwork, open_network
from prernn.conversion.output_layer import replace_output
from prernn.layers.cells import LinearCell
from prernn.layers.computed_weights import computed
from prernn.layers.input_to_hidden import GateInput, SingleInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.base import Structure
from prernn.layers.structures.parse import hidden_structure, self_connected

INITS = ("identity", "random")

Selection = str | Sequence[str] | Callable[[str, nn.Module], bool]


def convert_rcn(
    cnn: nn.Module,
    *,
    layers: Selection | None = None,
    hidden: str | Structure = "full",
    init: str = "identity",
    mix: str = "mean",
    pretrained: bool = True,
    outputs: int | None = None,
    image_size: tuple[int, ...] | None = None,
) -> RecurrentNetwork:
    """Gives convolutions of a CNN a recurrent hidden state: ``h_t = (W_hh h_{t-1} + b + u_t) / 2``, ``h_1 = u_1``.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16).eval()
        >>> still = torch.rand(1, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
        >>> out, state = prernn.convert_rcn(cnn, hidden="diagonal")(still)
        >>> torch.allclose(out[:, 3], cnn(still[:, 0]), atol=1e-5)  # a still video gives what the CNN gives
        True

    ``u_t (B, D, H, W)`` is the output of the convolution, ``W_hh (D, D)`` a 1x1 convolution, ``b`` a bias that starts
    at 0 like that of every recurrence here; normalization and activation follow as in the CNN. With ``init="identity"``
    and ``mix="mean"`` a still video gives the CNN's own output at every frame, and the pre-trained weights keep their
    meaning. The temporal resolution is kept and the network is causal.

    Args:
        cnn: any image or snippet CNN, or a network that is already recurrent; it is copied, never changed.
        layers: which convolutions: a name, a pattern such as ``"layer4.*"``, several of these, or a function from name
            and module to bool. None takes every convolution with a kernel larger than 1 (17 in ResNet-18).
        hidden: structure of ``W_hh``. If a neuron might not be connected to itself (``sparse:p``, ``paths:n``),
            ``init="identity"`` adds that connection (``sparse:p+self``).
        init: "identity", or "random" (He's normal initialization) as in the first and third row of the supplement's
            Table 1.
        mix: "mean", or "sum", without the factor 1/2.
        pretrained: False draws the CNN's own weights at random, convolutions by He's normal initialization (Table 1).
        outputs: size of a new output layer; None keeps the CNN's own.
        image_size: ``(H, W)`` or ``(D, H, W)`` of a frame, needed only if no usual size fits the CNN.

    Raises:
        ValueError: an unknown initialization, mix or structure, a structure that does not fit a layer's channels, or a
            selection without a convolution.
        NotImplementedError: a convolution that is used more than once in a frame; with ``pretrained=False``, weights
            of a module without ``reset_parameters``.
    """
    if init not in INITS:
        raise ValueError(f"expected init to be one of {', '.join(INITS)}, got {init!r}")
    cell, structure = LinearCell(mix), hidden_structure(hidden)
    structure = self_connected(structure) if init == "identity" else structure
    network = open_network(cnn, image_size)
    for name in (names := _select(network.cnn, layers)):
        _make_recurrent(network, name, cell, structure, init)
    if not pretrained:
        _draw_anew(network)
    if outputs is not None:
        replace_output(network, outputs)
    channels_last(network)  # the recurrence reads all channels of a position together
    options: dict[str, Any] = {"layers": names, "hidden": hidden, "init": init, "mix": mix, "outputs": outputs}
    network.recipe = network.recipe.with_step("rcn", image_size=image_size, pretrained=pretrained, **options)
    return network.train(cnn.training)


def _select(module: fx.GraphModule, layers: Selection | None) -> list[str]:
    """Names of the convolutions that ``layers`` selects, in order."""
    calls = module_calls(module.graph)
    called = ((name_of(node), submodule_of(module, node)) for node in calls)
    convolutions = {name: layer for name, layer in called if isinstance(layer, _ConvNd)}
    patterns = [layers] if isinstance(layers, str) else [] if layers is None or callable(layers) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in convolutions):
            raise ValueError(f"expected layers to select convolutions, got {pattern!r}; {_names(convolutions)}")
    if callable(layers):
        chosen = [name for name, layer in convolutions.items() if layers(name, layer)]
    elif layers is None:
        chosen = [name for name, layer in convolutions.items() if max(layer.kernel_size) > 1]
    else:
        chosen = [name for name in convolutions if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(f"expected layers to select at least one convolution, got none; {_names(convolutions)}")
    for name in chosen:
        _check(name, [node for node in calls if node.target == name])
    return chosen


def _names(convolutions: Mapping[str, nn.Module]) -> str:
    return f"the last are {list(convolutions)[-6:]}"


def _check(name: str, nodes: list[fx.Node]) -> None:
    if len(nodes) > 1:
        raise NotImplementedError(f"convolution {name!r} is used {len(nodes)} times in a frame; expected once")
    shape = value_shape(nodes[0])
    # 2 is the batch size that shapes were found with; a layer with several inputs depends on more than this frame
    if shape is None or shape[0] != 2 or len(nodes[0].all_input_nodes) != 1:
        raise NotImplementedError(f"convolution {name!r} sees parts of frames, or several at once; expected one whole")


def _make_recurrent(network: RecurrentNetwork, name: str, cell: LinearCell, hidden: Structure, init: str) -> None:
    module = network.cnn
    (node,) = [node for node in module_calls(module.graph) if node.target == name]
    layer = module.get_submodule(name)
    assert isinstance(layer, _ConvNd)
    weight = layer.weight
    try:
        unit = RecurrentLayer(
            SingleInput(layer), cell, layer.out_channels, hidden, device=weight.device, dtype=weight.dtype
        )
    except ValueError as error:
        raise ValueError(f"convolution {name!r}: {error}") from error
    _start(unit, init)
    insert_layer(module, name, unit, [node.all_input_nodes[0]], node, [node])
    network.note_layers()


def _start(unit: RecurrentLayer, init: str) -> None:
    hh = unit.hidden_to_hidden
    if init == "identity":
        hh.identity_()
    else:  # He's initialization keeps the scale of the state after a rectifier
        nn.init.normal_(hh.weight, std=(2 / hh.structure.fan_in(hh.size)) ** 0.5)


@torch.no_grad()
def _draw_anew(network: RecurrentNetwork) -> None:
    """Initializes all weights except ``W_hh`` at random, as in an untrained network."""
    kept = {p for layer in network.recurrent_layers for p in (layer.bias, *layer.hidden_to_hidden.parameters())}
    wanted = set(network.parameters()) - kept
    for module in network.modules():
        own = set(module.parameters(recurse=False)) & wanted
        if isinstance(module, GateInput):
            continue
        reset = None if computed(module) else getattr(module, "reset_parameters", None)
        if own and reset is not None:
            reset()
        elif own:
            names = [name for name, p in network.cnn.named_parameters() if p in own]
            raise NotImplementedError(
                f"can't initialize {', '.join(names)} at random; pass an untrained network instead"
            )
        if isinstance(module, _ConvNd) and "weight" in module._parameters:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                module.bias.zero_()
    for module in network.modules():
        if isinstance(module, GateInput):  # all gates start equal, as just after conversion
            module.copies.copy_(module.layer.get_parameter("weight").expand_as(module.copies))
    network.drawn_anew |= wanted
