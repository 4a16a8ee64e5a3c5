"""Making a CNN recurrent: PreRNN and PreRNN-SIH, the traditional baseline, and the frame-wise network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from prernn.conversion.graph import surroundings
from prernn.conversion.graph.ending import final_value, find_output_layer
from prernn.conversion.graph.graft import free_name, insert_layer, remove_unit, unit_of, without_units
from prernn.conversion.graph.nodes import argument, is_vector, shape_of, value_shape
from prernn.conversion.network import RecurrentNetwork, open_network
from prernn.conversion.output_layer import replace_output
from prernn.layers.arguments import whole
from prernn.layers.cells import ACTIVATIONS, make_cell
from prernn.layers.computed_weights import computed
from prernn.layers.input_to_hidden import INPUTS, TraditionalInput
from prernn.layers.names import look_up
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.starts import CNN, gain_of
from prernn.layers.structures.base import Structure
from prernn.layers.structures.regular import Full

PLACES = ("features", "outputs")
"""Where a traditional RNN can be placed: on the vector that the output layer reads, or on the CNN's outputs."""


def convert(
    cnn: nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    cell: str = "gru",
    input: str = "gate",
    hidden: str | Structure = "full",
    start: float | str = 1.0,
    pretrained: bool = True,
    keep_activation: bool = False,
    outputs: int | None = None,
    image_size: tuple[int, ...] | None = None,
) -> RecurrentNetwork:
    """PreRNN: makes an fc or conv layer of a pre-trained CNN a recurrent layer.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)  # or "resnet18", or a module of your own
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)  # fc6 is a GRU layer now
        >>> out, state = net(torch.zeros(2, 5, 3, 16, 16))  # (B, T, C, H, W)
        >>> out.shape  # (B, T, K)
        torch.Size([2, 5, 3])

    For an fc layer ``u_t(g) = W_g x_t + b``; for a conv layer ``u_t(g) = P(B(W_g * x_t) + gamma_t)`` with batch
    normalization, shortcut and global average pooling as in the CNN (eqs. 5-7, 10). VRNN keeps the layer's own
    activation around the sum, LSTM and GRU replace it by their gates (eqs. 8, 9, 11, 12). Only ``W_hh`` starts at
    random. Layers after the recurrent one run frame by frame.

    Args:
        cnn: any image or snippet CNN, or a network that is already recurrent; it is copied, never changed. If the layer
            is a unit of an RCN, this recurrence replaces the unit's; other units keep theirs.
        layer: dotted name of an fc or conv layer, or several; None takes the last before the output layer.
        cell: "vrnn", "lstm", "gru", another of `prernn.layers.cells.CELLS`, or one of your own, ``"file.py:Name"``.
        input: "gate", a copy of the weights for each gate (PreRNN), or "single", one input for all (PreRNN-SIH).
        hidden: structure of ``W_hh``.
        start: a factor of torch.nn's ``W_hh``, "lasting" or "cnn" (with calibration): see `prernn.layers.starts`.
        pretrained: False initializes ``W_xy`` at random and keeps the structure (supplement, Table 3).
        keep_activation: False is the papers' form. True keeps the CNN's activation ``H`` in place, so that gates read
            the CNN's own features, ``u_t(g) = P(H(B(W_g * x_t) + gamma_t))``; otherwise gates only see a linear
            function of the layer's input averaged over all positions.
        outputs: size of a new output layer; None keeps the CNN's own.
        image_size: ``(H, W)`` or ``(D, H, W)`` of a frame, needed only if no usual size fits the CNN.

    Raises:
        ValueError: an unknown cell, input or structure, a name that is no fc or conv layer, no activation to keep.
        NotImplementedError: the layer can't become recurrent; the message says why and what to pass.
    """
    look_up(input, INPUTS, "input", "introduced")
    _check_start(start, cell, keep_activation, pretrained)
    network = open_network(cnn, image_size)
    names = _names(network, layer, keep_activation)
    for name in names:
        _make_recurrent(network, name, cell, input, hidden, start, pretrained, keep_activation)
    if outputs is not None:
        replace_output(network, outputs)
    options: dict[str, Any] = {"cell": cell, "input": input, "hidden": hidden, "pretrained": pretrained}
    options |= {"keep_activation": True} if keep_activation else {}
    options |= {"start": start} if start != 1 else {}
    network.recipe = network.recipe.with_step("convert", outputs=outputs, image_size=image_size, layer=names, **options)
    return network.train(cnn.training)


def traditional(
    cnn: nn.Module,
    *,
    cell: str = "gru",
    hidden_size: int | Sequence[int] | None = None,
    num_layers: int | None = None,
    hidden: str | Structure = "full",
    inputs: str | Structure = "full",
    start: float | str = 1.0,
    activation: str | None = None,
    behind: str = "features",
    outputs: int | None = None,
    image_size: tuple[int, ...] | None = None,
) -> RecurrentNetwork:
    """The baseline: randomly initialized recurrent layers on the vector that the output layer reads (fc7, pool5).

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.traditional(cnn, cell="lstm", hidden_size=8, outputs=3)
        >>> net(torch.zeros(2, 5, 3, 16, 16))[0].shape
        torch.Size([2, 5, 3])

    Args:
        cnn: any CNN, or a converted network that gets further layers on top (the supplement's 3-layer case); it is
            copied, never changed.
        cell: "vrnn", "lstm", "gru", another of `prernn.layers.cells.CELLS`, or one of your own, ``"file.py:Name"``.
        hidden_size: ``D`` of all new layers, or a list with one size per layer; None takes the size of that vector.
        num_layers: how many layers to stack; None means as many as there are sizes, or one.
        hidden: structure of ``W_hh``.
        inputs: structure of ``W_ih`` in each layer.
        start: as in `convert`.
        activation: H of a VRNN, "tanh" (the default if None) or "relu", which most CNNs' layers have.
        behind: "features", or "outputs", the CNN's outputs, in which case its output layer is kept (post-processing).
        outputs: size of a new output layer; None keeps the number, and the layer itself if ``D`` fits it.
        image_size: as in `convert`.

    Raises:
        ValueError: an unknown cell, structure, activation or ``behind``, an activation for gates, sizes that don't fit.
        NotImplementedError: the CNN ends in something other than a vector.
    """
    given = _sizes(hidden_size, num_layers)
    check_traditional(cell, activation, behind, start)
    network = open_network(cnn, image_size)
    head = find_output_layer(network.cnn) if behind == "features" else None
    vector = final_value(network.cnn) if head is None else argument(head, 0)
    if not is_vector(vector):
        raise NotImplementedError(f"expected the output layer to read a vector, got {value_shape(vector)}")
    sizes = [shape_of(vector)[1] if size is None else size for size in given]
    known = vector if behind == "outputs" else head if sizes[-1] != shape_of(vector)[1] else None  # whose outputs stay
    _stack(network, vector, sizes, cell, hidden, inputs, start, activation)
    wanted = outputs if outputs is not None or known is None else shape_of(known)[1]
    if wanted is not None:
        replace_output(network, wanted)
    same = given[0] if len(set(given)) == 1 else given
    options: dict[str, Any] = {"cell": cell, "hidden_size": same, "num_layers": len(given), "hidden": hidden}
    rest = [("inputs", inputs, "full"), ("start", start, 1), ("activation", activation, None)]
    options |= {name: value for name, value, usual in [*rest, ("behind", behind, PLACES[0])] if value != usual}
    network.recipe = network.recipe.with_step("traditional", outputs=outputs, image_size=image_size, **options)
    return network.train(cnn.training)


def _sizes(hidden_size: int | Sequence[int] | None, num_layers: int | None) -> list[int | None]:
    """Hidden size of each layer; None stands for the size of the vector below."""
    several = isinstance(hidden_size, Sequence) and not isinstance(hidden_size, str)
    if not several:
        size = None if hidden_size is None else whole("hidden_size", hidden_size)
        return [size] * whole("num_layers", 1 if num_layers is None else num_layers)
    sizes: list[int | None] = [whole("hidden_size", size) for size in hidden_size]  # type: ignore[union-attr]
    if not sizes or num_layers not in (None, len(sizes)):
        wanted = "one at least" if num_layers is None else f"{num_layers} of them, as num_layers"
        raise ValueError(f"hidden_size: expected {wanted}, got {list(sizes)}")
    return sizes


def check_traditional(cell: str, activation: str | None, behind: str, start: float | str = 1.0) -> None:
    """Raises ValueError for arguments that `traditional` does not accept."""
    gain_of(start, make_cell(cell), Full())
    if start == CNN:
        raise ValueError(f"start={CNN!r}: expected a layer of the CNN that becomes recurrent, got stacked layers")
    if activation is not None and (cell != "vrnn" or activation not in ACTIVATIONS):
        known = " or ".join(ACTIVATIONS)
        raise ValueError(f"activation: expected {known} with the cell vrnn, got {activation!r} with {cell!r}")
    if behind not in PLACES:
        raise ValueError(f"behind: expected one of {', '.join(PLACES)}, got {behind!r}")


def framewise(
    cnn: nn.Module, *, outputs: int | None = None, image_size: tuple[int, ...] | None = None
) -> RecurrentNetwork:
    """The CNN itself as a network over video, with no recurrence and an empty state: the "without RNN" baseline.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.framewise(cnn.eval(), outputs=3)
        >>> net(torch.zeros(2, 5, 3, 16, 16))[0].shape
        torch.Size([2, 5, 3])
        >>> net.recurrent_layers  # it has no memory
        []
    """
    network = open_network(cnn, image_size)
    if outputs is not None:
        replace_output(network, outputs)
    network.recipe = network.recipe.with_step("framewise", outputs=outputs, image_size=image_size)
    return network.train(cnn.training)


def _check_start(start: float | str, cell: str, keep_activation: bool, pretrained: bool) -> None:
    gain_of(start, make_cell(cell), Full())
    if start == CNN and cell != "vrnn" and not keep_activation:
        raise ValueError(f"start={CNN!r} with the cell {cell}: expected keep_activation, whose features are restored")
    if start == CNN and not pretrained:
        raise ValueError(f"start={CNN!r}: expected the CNN's own weights, got pretrained=False")


def _names(network: RecurrentNetwork, layer: str | Sequence[str] | None, keep_activation: bool) -> list[str]:
    """The layers to convert, by default the last one. Convolutions inside an RCN's units count as the CNN's own."""
    if layer is None:
        return [unit_of(surroundings.find_layer(without_units(network.cnn), keep_activation=keep_activation).name)]
    names = [layer] if isinstance(layer, str) else list(layer)
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"expected different layer names, got {names!r}")
    return names


def _make_recurrent(
    network: RecurrentNetwork,
    name: str,
    cell_name: str,
    input: str,
    hidden: str | Structure,
    start: float | str,
    pretrained: bool,
    keep_activation: bool,
) -> None:
    module = network.cnn
    remove_unit(module, name)  # of an RCN: the layer can have one recurrence
    site = surroundings.find_site(module, name, keep_activation=keep_activation)
    activation = _around_the_sum(site.activation, keep_activation) if cell_name == "vrnn" else None
    cell = make_cell(cell_name) if activation is None else make_cell(cell_name, activation=activation)
    if not pretrained:
        if names := computed(site.layer):
            raise NotImplementedError(
                f"can't initialize {name}.{names[0]} at random: it is computed from others, as in pruning"
            )
        site.layer.reset_parameters()
        network.drawn_anew |= set(site.layer.parameters())
    weight = site.layer.weight
    form = look_up(input, INPUTS, "input", "introduced")(site.layer, site.tail, cell, site.pool_first)
    if weight in network.drawn_anew:  # and so are its copies for other gates
        network.drawn_anew |= set(form.parameters(recurse=False))
    made: dict[str, Any] = {
        "start": start,
        "activation": activation,
        "device": weight.device,
        "dtype": weight.dtype,
    }
    recurrent = RecurrentLayer(form, cell, site.size, hidden, **made)
    insert_layer(module, name, recurrent, site.inputs, site.end, site.nodes)
    network.note_layers()


def _around_the_sum(own: nn.Module | None, kept: bool) -> nn.Module:
    """A VRNN's activation: the CNN's own; if that is also kept before the sum, only if applying it twice is harmless.

    So with ``W_hh = 0`` the network equals the CNN. For activations such as SiLU the sum then has no activation; nor
    for PReLU, whose slopes are trained and may become anything.
    """
    if own is None or not kept:
        return own or nn.Identity()
    if any(True for _ in own.parameters()):
        return nn.Identity()
    values = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    once = own(values[:, None].clone())
    return own if torch.equal(own(once.clone()), once) else nn.Identity()  # it may work in place


def _stack(
    network: RecurrentNetwork,
    vector: fx.Node,
    sizes: Sequence[int],
    cell_name: str,
    hidden: str | Structure,
    inputs: str | Structure,
    start: float | str,
    activation: str | None,
) -> None:
    """Stacks new recurrent layers of these sizes on ``vector``."""
    module, parameter, features = network.cnn, next(network.parameters()), shape_of(vector)[1]
    device, dtype = parameter.device, parameter.dtype
    function = {"activation": ACTIVATIONS[activation]} if activation else {}
    for size in sizes:
        cell = make_cell(cell_name, **function)
        projection = TraditionalInput(features, size, len(cell.gates), inputs, device=device, dtype=dtype)
        layer = RecurrentLayer(projection, cell, size, hidden, start=start, device=device, dtype=dtype)
        vector = insert_layer(module, free_name(module, "recurrent"), layer, [vector], vector, [])
        features = size
    network.note_layers()
