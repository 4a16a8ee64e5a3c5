"""Plots of weights: their statistics by layer, and heat maps, as PNG."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from prernn.reports.plots.figure import colors_of, legend_below, save_figure

MAP_SIDE = 128
"""The most rows and columns that `weight_maps` draws of a matrix, so that a point is no smaller than a pixel."""

MAPS_ACROSS = 6


def weight_statistics(
    panels: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], path: str | Path, *, title: str = ""
) -> Path:
    """Statistics of weight matrices over the layers of a network (RCN supplement, Figures 1 and 2): a column per gate.

    Each part has its own row of panels, because a diagonal near 1 would flatten the other lines against 0.

    Args:
        panels: ``{gate: {layer: {part: {statistic: value}}}}``, layers in order; NaN leaves a gap. Every layer has the
            same parts ("all weights", "diagonal") and statistics.
        path: where to write the PNG.
    """
    parts = list(next(iter(next(iter(panels.values())).values())))
    widths = [max(2.6, 1.2 + 0.21 * len(layers)) for layers in panels.values()]
    longest = max(len(layer) for layers in panels.values() for layer in layers)
    size = (max(5.0, sum(widths)), 2.4 * len(parts) + 0.5 + 0.07 * longest)  # the names below are vertical
    grid = {"width_ratios": widths}
    figure, axes = plt.subplots(
        len(parts), len(panels), figsize=size, squeeze=False, sharex="col", gridspec_kw=grid, layout="constrained"
    )
    statistics = (name for layers in panels.values() for layer in layers.values() for name in layer[parts[0]])
    colors = colors_of(statistics)
    for column, (gate, layers) in zip(axes.T, panels.items(), strict=True):
        for axis, part in zip(column, parts, strict=True):
            for name, color in colors.items():
                values = [layer[part][name] for layer in layers.values()]
                axis.plot(range(len(values)), values, color=color, marker="o", markersize=3)
            axis.axhline(0, color="0.6", linewidth=0.8, zorder=1)
            axis.grid(alpha=0.3)
        column[-1].set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=7)
        column[-1].set_xlim(-0.5, len(layers) - 0.5)
        if len(panels) > 1:
            column[0].set_title(f"gate {gate}", fontsize=10)
    for axis, part in zip(axes[:, 0], parts, strict=True):
        axis.set_ylabel(part)
    legend_below(figure, colors)
    figure.suptitle(title)
    return save_figure(figure, path)


def weight_maps(maps: Mapping[str, Mapping[str, np.ndarray]], path: str | Path, *, title: str = "") -> Path:
    """Heat maps of the magnitude of weights, a panel for each layer and gate (RCN supplement, Figure 3).

    Dark is 0, bright the largest in the panel, grey where there is no (finite) weight. Each panel has its own scale,
    whose maximum is given above it, because layers differ too much for a common one. For a matrix of more than 128
    rows, each point is the root mean square of a square block of weights (`block_norms`), so a diagonal stays visible.

    Args:
        maps: ``{layer: {gate: W_hh (D, D)}}``, row = receiving neuron, NaN where there is no weight.
        path: where to write the PNG.
    """
    panels = [(layer, gate, matrix) for layer, gates in maps.items() for gate, matrix in gates.items()]
    most = max(len(gates) for gates in maps.values())
    across = min(len(panels), max(most, MAPS_ACROSS // most * most))  # a layer's gates side by side
    rows = -(-len(panels) // across)
    side, gap, above = 2.1, 0.1, 0.45  # inches; the panels fill the figure, and the text lies outside it
    width, height = across * (side + gap) - gap, rows * (side + above) - above
    whole = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": gap / side, "hspace": above / side}
    figure, axes = plt.subplots(rows, across, figsize=(width, height), squeeze=False, gridspec_kw=whole)
    for axis, (layer, gate, matrix) in zip(axes.flat, panels, strict=False):
        name = f"{layer}, gate {gate}" if len(maps[layer]) > 1 else layer
        image = _draw_map(axis, matrix, name)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    scale = figure.add_axes((0.3, -0.25 / height, 0.4, 0.12 / height))
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", ticks=(0, 1))
    bar.ax.set_xticklabels(["0", "largest"], fontsize=8)
    figure.suptitle(title, y=1 + 0.5 / height, va="bottom")
    return save_figure(figure, path)


def _draw_map(axis: Axes, matrix: np.ndarray, name: str) -> AxesImage:
    block = -(-len(matrix) // MAP_SIDE)
    norms = block_norms(matrix, block)
    norms[~np.isfinite(norms)] = np.nan
    largest = float(norms[~np.isnan(norms)].max(initial=0.0))
    name = name if len(name) <= 30 else f"...{name[-27:]}"  # the end of a name is more specific
    blocks = f" in {block}x{block}" if block > 1 else ""
    axis.set_title(f"{name}\nD={len(matrix)}{blocks}, to {largest:.3g}", fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    colormap = matplotlib.colormaps["viridis"].with_extremes(bad="0.85")
    # each block is one plain square: with smoothing, a diagonal would look weaker than it is
    return axis.imshow(norms / (largest or 1.0), cmap=colormap, vmin=0, vmax=1, interpolation="nearest")


def block_norms(matrix: np.ndarray, block: int) -> np.ndarray:
    """Root mean square of each square block of a matrix ``(D, D)``: ``(R, R)`` with ``R = ceil(D / block)``.

    NaN values are ignored; a block with nothing else gives NaN. ``block=1`` gives the magnitudes.
    """
    rows = -(-len(matrix) // block)
    padded = np.pad(matrix.astype(np.float64), (0, rows * block - len(matrix)), constant_values=np.nan)
    blocks = padded.reshape(rows, block, rows, block)
    there = ~np.isnan(blocks)
    count = there.sum((1, 3))
    squares = np.where(there, blocks, 0) ** 2
    return np.sqrt(np.where(count, squares.sum((1, 3)) / np.maximum(count, 1), np.nan))
