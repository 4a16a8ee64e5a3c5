"""The data about a trained run: its network, its gates over videos, and the tables in its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from prernn.conversion.accounting import recurrent_parameters
from prernn.conversion.network import of_a_cnn
from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.cells import LinearCell
from prernn.layers.input_to_hidden import SingleInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.parse import hidden_structure
from prernn.models import checkpoint
from prernn.studies.runs.gates import GateCounts, bounded_gates, gate_counts
from prernn.studies.runs.videos import Batches, first_videos
from prernn.training.run.run_files import read_errors, read_metrics, read_table, run_folder_of

BANDS = ("diagonal", "band:1%", "band:5%", "band:10%", "full")
"""Structures in the talk's BandRNN tables."""
TALK_WIDTHS = {"band:1%": "band:21", "band:5%": "band:101", "band:10%": "band:201"}
"""The talk's widths, which are for 2,048 units: shares of these would round to 103 and 205."""
TALK_SIZE = 2048


@dataclass
class Run:
    """The data about one run; the network itself is not kept.

    Attributes:
        name: short and unique name.
        folder: folder with its files.
        recipe: recipe of its network.
        weights: number of weights that recurrence introduced.
        cells: the name of each recurrent layer's cell.
        gates: ``[{gate: counts}]``, one entry per recurrent layer; empty if they were not counted.
        grid: ``{structure: {network: weights}}``, what the converted layers would introduce; empty if there is none.
        metrics: scalars of ``metrics.json``.
        history: ``history.csv``.
        errors: ``ced.csv``: errors and shares.
        notes: what could not be analyzed, and why.
    """

    name: str
    folder: Path
    recipe: Recipe
    weights: int
    cells: list[str]
    gates: list[dict[str, GateCounts]]
    grid: dict[str, dict[str, int]]
    metrics: dict[str, float]
    history: list[dict[str, float]]
    errors: tuple[list[float], list[float]] | None
    notes: list[str] = field(default_factory=list)


def look_at(path: Path, name: str, batches: Batches | None = None, limit: int | None = None) -> Run:
    """Loads a run, runs its network over videos, and reads its tables. Arguments and errors as in `analyze`."""
    net, folder = checkpoint.load(path), run_folder_of(path)
    run = Run(
        name=name,
        folder=folder,
        recipe=net.recipe,
        weights=recurrent_parameters(net).introduced,
        cells=[_cell(layer) for layer in net.recurrent_layers],
        gates=[],
        grid=weight_grid(net),
        metrics=read_metrics(folder / "metrics.json"),
        history=read_table(folder / "history.csv", ["epoch"]),
        errors=read_errors(folder / "ced.csv"),
    )
    if batches is not None:
        run.gates = _gates(run, net, batches, limit)
    return run


def _cell(layer: RecurrentLayer) -> str:
    return type(layer.cell).__name__.removesuffix("Cell")


def _gates(run: Run, net: SequenceNetwork, batches: Batches, limit: int | None) -> list[dict[str, GateCounts]]:
    if not net.recurrent_layers:
        run.notes.append("no recurrent layer, hence no gates")
        return []
    if not any(map(bounded_gates, net.recurrent_layers)):
        run.notes.append("none of its gates has bounds, hence no histogram")
        return []
    try:
        counts = list(gate_counts(of_a_cnn(net), first_videos(batches(run.folder, net), limit)).values())
    except NotImplementedError as error:
        run.notes.append(f"gates: {error}")
        return []
    if any(count.times == 0 for gates in counts for count in gates.values()):
        run.notes.append("gates: expected at least one video, got none")
        return []
    return counts


def talk_bands(sizes: set[int]) -> tuple[str, ...]:
    """`BANDS` for layers of these hidden sizes: with the talk's own widths if they have its size."""
    return tuple(TALK_WIDTHS.get(spec, spec) for spec in BANDS) if sizes == {TALK_SIZE} else BANDS


def weight_grid(net: SequenceNetwork, structures: Sequence[str] | None = None) -> dict[str, dict[str, int]]:
    """Weights that recurrence would introduce into the layers that `prernn.convert` made recurrent in this network.

    Layers on top of them count unchanged. Without ``structures``, those of the talk are used (`talk_bands`).

    Returns:
        ``{structure: {"PreLSTM": weights, "PreLSTM-SIH": weights}}``, VRNN with one entry; empty if no layer is
        converted or if the converted layers have different cells.
    """
    converted = [
        layer
        for layer in net.recurrent_layers
        if isinstance(layer.input_to_hidden, SingleInput) and not isinstance(layer.cell, LinearCell)
    ]
    cells = {_cell(layer) for layer in converted}
    if len(cells) != 1:
        return {}
    (cell,) = cells
    count = recurrent_parameters(net)
    pairs = zip(count.layers, net.recurrent_layers, strict=True)
    on_top = sum(c.input_to_hidden + c.hidden_to_hidden for c, layer in pairs if layer not in converted)
    copies = sum((len(x.cell.gates) - 1) * _layer_weights(x) for x in converted)
    grid = {}
    for spec in structures or talk_bands({layer.hidden_size for layer in converted}):
        structure = hidden_structure(spec)
        recurrent = sum(len(x.cell.gates) * structure.weight_count(x.hidden_size) for x in converted) + on_top
        # a VRNN has one gate, which keeps the CNN's weights: nothing to simplify
        forms = {f"Pre{cell}": copies + recurrent} | ({f"Pre{cell}-SIH": recurrent} if copies else {})
        grid[spec] = forms
    return grid


def _layer_weights(layer: RecurrentLayer) -> int:
    """Weights of the CNN's own layer inside a converted one."""
    weight = layer.input_to_hidden.layer.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight.numel()
