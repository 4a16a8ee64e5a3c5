"""The hidden-to-hidden weights of networks: statistics and heat maps (``prernn analyze hidden``).

Singh and Cuzzolin, "Recurrent Convolutions for Causal 3D CNNs", supplement, section 3: whether a layer's ``W_hh`` is
concentrated on its diagonal, where a feature remembers itself, or mixes features over time. Works for every recurrent
network: RCN, PreRNN and traditional.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.graph.graft import recurrent_nodes
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.cells import recurrent_gates
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.models import checkpoint
from prernn.reports.files import write_table, write_text
from prernn.reports.page import page, picture, table
from prernn.reports.plots import weights as weight_plots
from prernn.studies.runs.page import short_names

PARTS = {"all weights": "", "diagonal": "diagonal "}
"""The weights whose mean and standard deviation Figures 1 and 2 show, with their column prefix in `layer_weights`."""

STATISTICS_TEXT = (
    "Mean and standard deviation of W_hh and of its diagonal, by layer (RCN supplement, Figures 1 and 2). For a sparse "
    "structure, those of the weights that exist."
)
MAPS_TEXT = (
    "Magnitudes of W_hh of each layer and gate, one row per receiving neuron (RCN supplement, Figure 3). Dark is 0, "
    "grey means no weight; bright is the largest value in a panel, which is given above it. For more than "
    f"{weight_plots.MAP_SIDE} neurons, a point is the root mean square of a square block."
)

Layers = dict[str, tuple[tuple[str, ...], HiddenToHidden]]
"""For each recurrent layer, by its name in the network: the gates that see the state, and ``W_hh``."""


def layer_weights(net: SequenceNetwork) -> list[dict[str, Any]]:
    """Statistics of ``W_hh (D, D)`` of every recurrent layer and gate, in order.

    Only weights that exist count: for a sparse structure, ``mean`` and ``std`` are over the ``weights`` entries inside
    its mask, not over ``D*D``. Standard deviations are population standard deviations.

    Returns:
        One row per layer and gate: ``layer``, ``gate``, ``structure``, ``D``, ``weights`` (how many exist),
        ``mean``, ``std``, ``diagonal weights`` (how many neurons feed themselves), ``diagonal mean``, ``diagonal std``,
        and ``off-diagonal``, the share of ``sum_ij W_ij^2`` with ``i != j``: 0 is a diagonal. NaN if there is nothing
        to average, and for the share if all weights are 0.
    """
    return _statistics(_layers(net))


def _layers(net: SequenceNetwork) -> Layers:
    layers = net.recurrent_layers
    if isinstance(net, RecurrentNetwork):
        names = [str(node.target) for node in recurrent_nodes(net.cnn)]
    else:
        names = [name for name, module in net.named_modules() if any(module is layer for layer in layers)]
    return {
        name: (layer.cell.gates[: recurrent_gates(layer.cell)], layer.hidden_to_hidden)
        for name, layer in zip(names, layers, strict=True)
        if recurrent_gates(layer.cell)
    }


@torch.no_grad()
def _statistics(layers: Layers) -> list[dict[str, Any]]:
    rows = []
    for name, (gates, hidden) in layers.items():
        mask = hidden.structure.mask(hidden.size)  # (D, D)
        own = mask.diagonal()
        for gate, matrix in zip(gates, hidden.matrix().cpu(), strict=True):
            weights, diagonal = matrix[mask].double(), matrix.diagonal()[own].double()
            off = matrix[mask & ~torch.eye(hidden.size, dtype=torch.bool)].double()
            mean, std = _mean_std(weights)
            diagonal_mean, diagonal_std = _mean_std(diagonal)
            total = float(weights.square().sum())
            rows.append(
                {
                    "layer": name,
                    "gate": gate,
                    "structure": str(hidden.structure),
                    "D": hidden.size,
                    "weights": len(weights),
                    "mean": mean,
                    "std": std,
                    "diagonal weights": len(diagonal),
                    "diagonal mean": diagonal_mean,
                    "diagonal std": diagonal_std,
                    "off-diagonal": float(off.square().sum()) / total if total else math.nan,
                }
            )
    return rows


def _mean_std(values: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation; NaN if empty."""
    if not len(values):
        return math.nan, math.nan
    return float(values.mean()), float(values.std(correction=0))


@torch.no_grad()
def _matrices(layers: Layers) -> dict[str, dict[str, np.ndarray]]:
    """``{layer: {gate: W_hh (D, D)}}``, NaN where there is no weight."""
    maps = {}
    for name, (gates, hidden) in layers.items():
        outside = ~hidden.structure.mask(hidden.size)
        matrices = hidden.matrix().float().cpu().masked_fill(outside, math.nan)  # (G, D, D)
        maps[name] = {gate: matrix.numpy() for gate, matrix in zip(gates, matrices, strict=True)}
    return maps


def analyze_hidden(
    paths: Sequence[str | Path], out: str | Path, *, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Writes statistics of the hidden-to-hidden weights of some networks into a folder, and a page that shows them.

    ``hidden.csv`` (the rows of `layer_weights`, of all networks; blank for NaN if there is nothing to average), and for
    each network ``hidden-NAME.png`` (its statistics over the layers: RCN supplement, Figures 1 and 2) and
    ``hidden-maps-NAME.png`` (its matrices: Figure 3). Nothing is written if one of them can't be analyzed.

    Args:
        paths: run folders or checkpoints (see `prernn.models.checkpoint.load`).
        out: the folder.
        say: called with a line of progress for each network.

    Returns:
        The page, ``index.html``.

    Raises:
        ValueError: no checkpoints, one given twice, one that can't be loaded, or one without a recurrent layer.
    """
    checkpoints = [Path(path) for path in paths]
    if not checkpoints:
        raise ValueError("expected at least one checkpoint, got none")
    names, seen, rows, overview = short_names(checkpoints), [], [], []
    for path, name in zip(checkpoints, names, strict=True):
        say(f"{name}: looking at {path}")
        net = checkpoint.load(path)
        layers = _layers(net)  # keeps only W_hh, and releases the rest of the network
        if not layers:
            raise ValueError(f"{path}: expected a network with a recurrent layer, got one without")
        own = _statistics(layers)
        seen.append((layers, own))
        rows += [{"network": name, **_texts(row)} for row in own]
        overview.append(_overview(name, net, own))
    out = Path(out)
    write_table(out / "hidden.csv", rows)
    body = [table(overview, link="hidden.csv")]
    for name, stem, (layers, own) in zip(names, _file_names(names), seen, strict=True):
        path = weight_plots.weight_statistics(_panels(own), out / f"hidden-{stem}.png", title=name)
        body.append(picture(path, f"{name}: weights by layer", STATISTICS_TEXT, ["hidden.csv"]))
        path = weight_plots.weight_maps(_matrices(layers), out / f"hidden-maps-{stem}.png", title=name)
        body.append(picture(path, f"{name}: matrices", MAPS_TEXT))
    return write_text(out / "index.html", page("prernn analyze hidden", body))


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    """Six digits of each number; a blank if there is no value, but "nan" if the weights themselves are NaN."""
    broken = not math.isfinite(row["mean"])
    return {
        key: ("" if math.isnan(value) and not broken else f"{value:.6g}") if isinstance(value, float) else value
        for key, value in row.items()
    }


def _overview(name: str, net: SequenceNetwork, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    cells = [type(layer.cell).__name__.removesuffix("Cell") for layer in net.recurrent_layers]
    return {
        "network": name,
        "backbone": net.recipe.backbone or "",
        "recurrent layers": len(cells),
        "cells": ", ".join(dict.fromkeys(cells)),
        "structures": ", ".join(dict.fromkeys(row["structure"] for row in rows)),
        "weights of W_hh": sum(row["weights"] for row in rows),
    }


def _panels(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """``{gate: {layer: {part: {statistic: value}}}}``."""
    panels: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows:
        statistics = {part: {name: row[prefix + name] for name in ("mean", "std")} for part, prefix in PARTS.items()}
        panels.setdefault(row["gate"], {})[row["layer"]] = statistics
    return panels


def _file_names(names: Sequence[str]) -> list[str]:
    """A different file name for each network, with characters that are valid in a link."""
    stems: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.+=-]+", "-", name).strip("-") or "network"
        tries = [plain, *(f"{plain}-{number}" for number in range(2, 3 * len(names) + 2))]
        # each other name takes at most three of these
        stems.append(next(stem for stem in tries if not _taken(stem, stems)))
    return stems


def _taken(stem: str, stems: Sequence[str]) -> bool:
    """Whether another network's picture has the same file name: the statistics of "maps-a" and the maps of "a"."""
    stem, others = stem.casefold(), [other.casefold() for other in stems]
    return any(stem == other or stem == f"maps-{other}" or other == f"maps-{stem}" for other in others)
