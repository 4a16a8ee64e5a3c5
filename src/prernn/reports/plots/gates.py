"""Plots of gates: saturation and histograms."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prernn.reports.plots.figure import colors_of, legend_below, panel_grid, save_figure

Units = tuple[np.ndarray, np.ndarray]
"""Fractions of time during which each unit is left saturated and right saturated."""

Drawn = TypeVar("Drawn")
"""The data that a panel draws for one network."""


def saturation(
    grid: Mapping[str, Mapping[str, Mapping[str, Units]]],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Saturation plots of gates (PreRNN, Figure 2): a point for each unit, a row per layer, a column per gate.

    Units on the diagonal are always saturated, units at the origin never. A large point with a white edge is the mean
    over a network's units.

    Args:
        grid: ``{layer: {gate: {network: (left, right)}}}``, the fraction of time ``(D,)`` each unit is saturated.
        path: where to write the PNG.
        names: networks on the page, so that each has the same color in every plot.
    """
    labels = ("fraction right saturated (> 0.9)", "fraction left saturated (< 0.1)")

    def draw(axis: Axes, gate: str, units: Mapping[str, Units], colors: Mapping[str, str]) -> None:
        _draw_saturation(axis, units, colors)

    figure = _gate_panels(grid, names, 3.3, 3.3, labels, draw)
    figure.suptitle(title)
    return save_figure(figure, path)


def _draw_saturation(axis: Axes, networks: Mapping[str, Units], colors: Mapping[str, str]) -> None:
    axis.plot((0, 1), (1, 0), color="0.6", linewidth=1, zorder=1)
    for name, (left, right) in networks.items():
        size = float(np.clip(4000 / len(left), 4, 20))  # small points for many units
        axis.scatter(right, left, s=size, alpha=0.45, color=colors[name], linewidths=0, zorder=2)
    for name, (left, right) in networks.items():  # drawn on top of all the units
        axis.scatter(right.mean(), left.mean(), s=70, color=colors[name], edgecolors="white", linewidths=1.2, zorder=3)
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)


def histograms(
    grid: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    ranges: Mapping[str, tuple[float, float]],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Histograms of gate activations, networks side by side (PreRNN, Figure 2): a row per layer, a column per gate.

    Args:
        grid: ``{layer: {gate: {network: shares}}}``, the share of activations in each of ``K`` bins of equal width.
        ranges: lowest and highest activation of each gate.
        path: where to write the PNG.
        names: networks on the page, so that each has the same color in every plot.
    """
    labels = ("activation", "share of activations")

    def draw(axis: Axes, gate: str, shares: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> None:
        _draw_histogram(axis, shares, ranges[gate], colors)

    figure = _gate_panels(grid, names, 3.9, 2.7, labels, draw)
    figure.suptitle(title)
    return save_figure(figure, path)


def _gate_panels(
    grid: Mapping[str, Mapping[str, Mapping[str, Drawn]]],
    names: Sequence[str],
    width: float,
    height: float,
    labels: tuple[str, str],
    draw: Callable[[Axes, str, Mapping[str, Drawn], Mapping[str, str]], None],
) -> Figure:
    """A row of panels for each layer, one panel per gate, with titles, axis labels at the outer edges, and a legend.

    ``draw(axis, gate, networks, colors)`` fills one panel.
    """
    gates = list(dict.fromkeys(gate for row in grid.values() for gate in row))
    figure, axes = panel_grid(len(grid), len(gates), width, height)
    colors = colors_of((name for row in grid.values() for networks in row.values() for name in networks), names)
    for (layer, row), line in zip(grid.items(), axes, strict=True):
        for gate, axis in zip(gates, line, strict=True):
            draw(axis, gate, row.get(gate, {}), colors)
            axis.set_title(f"{layer}, gate {gate}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel(labels[0])
    for axis in axes[:, 0]:
        axis.set_ylabel(labels[1])
    legend_below(figure, colors)
    return figure


def _draw_histogram(
    axis: Axes, networks: Mapping[str, np.ndarray], bounds: tuple[float, float], colors: Mapping[str, str]
) -> None:
    bins = max((len(shares) for shares in networks.values()), default=1)
    width = (bounds[1] - bounds[0]) / bins
    bar = 0.85 * width / max(len(networks), 1)
    centers = bounds[0] + width * (np.arange(bins) + 0.5)
    for place, (name, shares) in enumerate(networks.items()):
        axis.bar(centers + (place - (len(networks) - 1) / 2) * bar, shares, bar, color=colors[name])
    axis.set_xlim(*bounds)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
