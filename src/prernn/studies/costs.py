"""Tables of what recurrence costs on a backbone: weights, state, multiply-adds."""

import math
from collections.abc import Sequence

from rich.table import Table

from prernn.conversion.accounting import (
    RecurrentCount,
    frame_cost,
    matched_hidden_size,
    recurrent_parameters,
    total_weights,
)
from prernn.conversion.convert import convert, framewise, traditional
from prernn.conversion.rcn import convert_rcn
from prernn.models.backbones import backbone, input_spec
from prernn.reports.tables import print_whole


def show(
    name: str,
    layer: str | Sequence[str] | None = None,
    *,
    cells: Sequence[str] = ("vrnn", "lstm", "gru"),
    inputs: Sequence[str] = ("gate", "single"),
    hiddens: Sequence[str] = ("full",),
    num_layers: int = 1,
    outputs: int | None = None,
) -> None:
    """Prints the weights that each combination introduces into a backbone, and the matching traditional RNN.

    Only shapes are computed (torch's meta device).

    Raises:
        ValueError, NotImplementedError: what `backbone` and `convert` raise.
    """
    cnn = backbone(name, device="meta")
    table = Table(title=f"{name}: weights that recurrence introduces (biases apart)")
    for column in ("network", "cell", "hidden", "D"):
        table.add_column(column, no_wrap=True)
    for column in ("input-to-hidden", "hidden-to-hidden", "introduced", "to PreRNN full"):
        table.add_column(column, justify="right", no_wrap=True)
    layers: list[str] = []
    for cell in cells:
        prernn = recurrent_parameters(convert(cnn, layer, cell=cell, outputs=outputs))
        layers, full = [count.name for count in prernn.layers], prernn.introduced
        for input in inputs:
            for hidden in hiddens:
                count = recurrent_parameters(
                    convert(cnn, layer, cell=cell, input=input, hidden=hidden, outputs=outputs)
                )
                _add_row(table, "PreRNN" if input == "gate" else "PreRNN-SIH", cell, hidden, count, full)
        size = matched_hidden_size(cnn, layer, cell=cell, num_layers=num_layers, outputs=outputs)
        stacked = traditional(cnn, cell=cell, hidden_size=size, num_layers=num_layers, outputs=outputs)
        _add_row(table, "traditional, matched", cell, "full", recurrent_parameters(stacked), full)
        table.add_section()
    table.caption = f"PreRNN layers: {', '.join(layers)}"
    print_whole(table)


def show_rcn(
    name: str,
    layers: str | Sequence[str] | None = None,
    *,
    hiddens: Sequence[str] = ("full",),
    size: int | None = None,
    outputs: int | None = None,
) -> None:
    """Prints the units of an RCN of the backbone: weights, state and multiply-adds per frame, and the totals.

    Args:
        name: name of the backbone.
        layers: as in `convert_rcn`.
        hiddens: structures of ``W_hh``; the units are listed for the first of them.
        size: side of the frame in pixels; None takes what the backbone expects.
        outputs: size of a new output layer.

    Raises:
        ValueError, NotImplementedError: what `backbone` and `convert_rcn` raise.
    """
    if size is not None and size < 1:
        raise ValueError(f"expected a picture of at least 1 pixel, got {size}")
    cnn = backbone(name, device="meta")
    side = size or input_spec(name)["size"]
    nets = [convert_rcn(cnn, layers=layers, hidden=hidden, outputs=outputs) for hidden in hiddens]
    costs = [frame_cost(net, (side, side)) for net in nets]
    table = Table(title=f"{name} as RCN, {side} pixels, W_hh {hiddens[0]}")
    table.add_column("layer", no_wrap=True)
    for column in ("D", "map", "W_hh", "state", "multiply-adds of W_hh"):
        table.add_column(column, justify="right", no_wrap=True)
    for unit in costs[0].layers:
        extent = "x".join(map(str, unit.map))
        table.add_row(
            unit.name, str(unit.size), extent, f"{unit.weights:,}", f"{unit.state:,}", f"{unit.multiply_adds:,}"
        )
    print_whole(table)
    totals = Table(title="a stream, each frame")
    totals.add_column("W_hh", no_wrap=True)
    for column in ("weights of W_hh", "weights", "state", "state, MB", "multiply-adds", "to the CNN's own"):
        totals.add_column(column, justify="right", no_wrap=True)
    own = frame_cost(framewise(cnn, outputs=outputs), (side, side)).multiply_adds
    for hidden, net, cost in zip(hiddens, nets, costs, strict=True):
        counts = (recurrent_parameters(net).introduced, total_weights(net), cost.state)
        memory = (f"{cost.state_bytes / 1e6:.1f}", f"{cost.multiply_adds:,}", _ratio(cost.multiply_adds / own))
        totals.add_row(hidden, *(f"{count:,}" for count in counts), *memory)
    print_whole(totals)


def _add_row(table: Table, network: str, cell: str, hidden: str, count: RecurrentCount, full: int) -> None:
    sizes = ", ".join(str(size) for size in dict.fromkeys(layer.size for layer in count.layers))
    weights = (f"{value:,}" for value in (count.input_to_hidden, count.hidden_to_hidden, count.introduced))
    table.add_row(network, cell, hidden, sizes, *weights, _ratio(count.introduced / full))


def _ratio(value: float) -> str:
    """Three decimals, or enough to show two digits after leading zeros."""
    return f"{value:.{max(3, 1 - math.floor(math.log10(value)))}f}" if value else "0"
