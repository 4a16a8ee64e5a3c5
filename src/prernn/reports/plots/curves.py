"""Pictures of runs: training curves and per-frame predictions, as PNG."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no window: these run on servers and in tests
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from prernn.reports.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8B5A2B", "#7F7F7F", "#9ACD32")

MARKERS = "os^Dv"

MOST_INSIDE = 5
"""Lines whose legend still fits into a panel."""


def curves(series: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, *, title: str = "") -> Path:
    """Curves over epochs, one panel a metric, one line a network.

    Args:
        series: ``{metric: {network: values, one an epoch}}``.
        path: of the PNG.
    """
    figure, axes = plt.subplots(1, len(series), figsize=(5.2 * len(series), 3.8), squeeze=False)
    for axis, (metric, lines) in zip(axes[0], series.items(), strict=True):
        for colour, (name, values) in zip(_cycle(len(lines)), lines.items(), strict=True):
            axis.plot(range(1, len(values) + 1), values, label=name, color=colour, marker="o", markersize=3)
        axis.set_xlabel("epoch")
        axis.set_ylabel(metric)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(lines) <= MOST_INSIDE:
            axis.legend(fontsize=8, loc="best")
    if max(len(lines) for lines in series.values()) > MOST_INSIDE:  # one legend beside the panels
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(0.91, 0.5))
    figure.suptitle(title)
    return save_figure(figure, path)


def strip(
    frames: Sequence[np.ndarray],
    probabilities: np.ndarray,
    labels: Sequence[str],
    path: str | Path,
    *,
    title: str = "",
) -> Path:
    """The frames of a video side by side, over the probability of every class at each of them.

    Args:
        frames: T pictures, uint8 ``(H, W, 3)``.
        probabilities: ``(T, K)``.
        labels: names of the K classes.
        path: of the PNG.
    """
    figure = plt.figure(figsize=(max(6.0, 1.1 * len(frames)), 4.2))
    grid = figure.add_gridspec(2, len(frames), height_ratios=(1, 2.2), hspace=0.25, wspace=0.04)
    for time, frame in enumerate(frames):
        axis = figure.add_subplot(grid[0, time])
        axis.imshow(frame)
        axis.set_axis_off()
        axis.set_title(labels[int(probabilities[time].argmax())], fontsize=7)
    axis = figure.add_subplot(grid[1, :])
    for k, colour in zip(range(len(labels)), _cycle(len(labels)), strict=True):
        axis.plot(range(len(frames)), probabilities[:, k], label=labels[k], color=colour, marker="o", markersize=3)
    axis.set_xlim(-0.5, len(frames) - 0.5)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xticks(range(len(frames)))
    axis.set_xlabel("frame")
    axis.set_ylabel("probability")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, ncols=2, loc="best")
    figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def confusion(matrix: np.ndarray, labels: Sequence[str], path: str | Path, *, title: str = "") -> Path:
    """A confusion matrix ``(K, K)`` of counts, true classes as rows."""
    size = max(4.0, 0.5 * len(labels) + 2)
    figure, axis = plt.subplots(figsize=(size, size))
    axis.imshow(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= 30:  # more would be unreadable
        for (row, column), count in np.ndenumerate(matrix):
            shade = "white" if count > matrix[row].sum() / 2 else "black"
            axis.text(column, row, str(int(count)), ha="center", va="center", fontsize=8, color=shade)
        axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=10)
    return save_figure(figure, path)


def training(
    series: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Training curves of several runs side by side: a panel for each metric, a line for each run (PreRNN, Figure 4).

    Args:
        series: ``{metric: {run: (epochs, values)}}``.
        path: of the PNG.
        names: of the networks of a page, each of which then has one colour in all pictures.
    """
    across = 2 if len(series) == 4 else min(3, len(series))
    figure, axes = _panels(-(-len(series) // across), across, 4.4, 3.3)
    colours = colours_of((name for lines in series.values() for name in lines), names)
    for axis, (metric, lines) in zip(axes.flat, series.items(), strict=False):
        for name, (epochs, values) in lines.items():
            axis.plot(epochs, values, label=name, color=colours[name], marker="o", markersize=3)
        axis.set_xlabel("epoch")
        axis.set_ylabel(metric.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(series) :]:
        axis.set_axis_off()
    legend_below(figure, colours)
    figure.suptitle(title)
    return save_figure(figure, path)


def cumulative_errors(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Cumulative error curves: the share of frames with an error of at most so much (PreRNN, Figure 3).

    Args:
        series: ``{network: (normalised errors, shares of frames from 0 to 1)}``.
        path: of the PNG.
        names: of the networks of a page, each of which then has one colour in all pictures.
    """
    figure, axes = _panels(1, 1, 5.6, 4.2)
    colours = colours_of(series, names)
    for name, (errors, shares) in series.items():
        axes[0, 0].plot(errors, shares, label=name, color=colours[name])
    axes[0, 0].set_xlabel("normalised point-to-point error")
    axes[0, 0].set_ylabel("share of frames")
    axes[0, 0].set_xlim(left=0)
    axes[0, 0].set_ylim(0, 1.02)
    axes[0, 0].grid(alpha=0.3)
    legend_below(figure, colours)
    figure.suptitle(title)
    return save_figure(figure, path)


Units = tuple[np.ndarray, np.ndarray]


def saturation(
    grid: Mapping[str, Mapping[str, Mapping[str, Units]]],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Saturation plots of gates (PreRNN, Figure 2): a point for each unit, a row a layer, a column a gate.

    Units on the diagonal are saturated all the time, units at the origin never. A large point with a white rim is
    the mean of a network's units.

    Args:
        grid: ``{layer: {gate: {network: (left, right)}}}``, fractions of time ``(D,)`` that each unit is saturated.
        path: of the PNG.
        names: of the networks of a page, each of which then has one colour in all pictures.
    """
    labels = ("fraction right saturated (> 0.9)", "fraction left saturated (< 0.1)")

    def draw(axis, gate, units, colours):
        _draw_saturation(axis, units, colours)

    figure = _gate_panels(grid, names, 3.3, 3.3, labels, draw)
    figure.suptitle(title)
    return save_figure(figure, path)


def _draw_saturation(axis, networks: Mapping[str, Units], colours: Mapping[str, str]) -> None:
    axis.plot((0, 1), (1, 0), color="0.6", linewidth=1, zorder=1)
    for name, (left, right) in networks.items():
        size = float(np.clip(4000 / len(left), 4, 20))  # small points for many units
        axis.scatter(right, left, s=size, alpha=0.45, color=colours[name], linewidths=0, zorder=2)
    for name, (left, right) in networks.items():  # above all the units
        axis.scatter(right.mean(), left.mean(), s=70, color=colours[name], edgecolors="white", linewidths=1.2, zorder=3)
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
    """Histograms of gate activations, networks side by side (PreRNN, Figure 2): a row a layer, a column a gate.

    Args:
        grid: ``{layer: {gate: {network: shares}}}``, the share of activations in each of ``K`` bins of equal width.
        ranges: lowest and highest activation of each gate.
        path: of the PNG.
        names: of the networks of a page, each of which then has one colour in all pictures.
    """
    labels = ("activation", "share of activations")

    def draw(axis, gate, shares, colours):
        _draw_histogram(axis, shares, ranges[gate], colours)

    figure = _gate_panels(grid, names, 3.9, 2.7, labels, draw)
    figure.suptitle(title)
    return save_figure(figure, path)


def _gate_panels(grid, names: Sequence[str], width: float, height: float, labels: tuple[str, str], draw):
    """A panel for each gate in a row for each layer, with titles, labels of x and y at the edges, and a legend.

    ``draw(axis, gate, networks, colours)`` fills one panel.
    """
    gates = list(dict.fromkeys(gate for row in grid.values() for gate in row))
    figure, axes = _panels(len(grid), len(gates), width, height)
    colours = colours_of((name for row in grid.values() for networks in row.values() for name in networks), names)
    for (layer, row), line in zip(grid.items(), axes, strict=True):
        for gate, axis in zip(gates, line, strict=True):
            draw(axis, gate, row.get(gate, {}), colours)
            axis.set_title(f"{layer}, gate {gate}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel(labels[0])
    for axis in axes[:, 0]:
        axis.set_ylabel(labels[1])
    legend_below(figure, colours)
    return figure


def _draw_histogram(axis, networks: Mapping[str, np.ndarray], bounds: tuple[float, float], colours) -> None:
    bins = max((len(shares) for shares in networks.values()), default=1)
    width = (bounds[1] - bounds[0]) / bins
    bar = 0.85 * width / max(len(networks), 1)
    centres = bounds[0] + width * (np.arange(bins) + 0.5)
    for place, (name, shares) in enumerate(networks.items()):
        axis.bar(centres + (place - (len(networks) - 1) / 2) * bar, shares, bar, color=colours[name])
    axis.set_xlim(*bounds)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)


def ratio_bars(groups: Mapping[str, Mapping[str, float]], path: str | Path, *, label: str, title: str = "") -> Path:
    """Ratios as bars with their values (PreRNN, Table 3; BandRNN).

    Args:
        groups: ``{group: {bar: ratio}}``; bars of one name have one colour.
        path: of the PNG.
        label: what the ratio is of, at the axis.
    """
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    colours = colours_of(names)
    figure, axes = _panels(1, 1, max(4.5, 1.2 + 0.75 * sum(map(len, groups.values()))), 3.6)
    axis, place, ticks = axes[0, 0], 0.0, []
    for bars in groups.values():
        for name, ratio in bars.items():
            axis.bar(place, ratio, 0.9, color=colours[name])
            axis.text(place, ratio, _ratio_text(ratio), ha="center", va="bottom", fontsize=8)
            place += 1
        ticks.append(place - (len(bars) + 1) / 2)
        place += 0.6
    long = max(map(len, groups), default=0) > 12 * max(map(len, groups.values()), default=1)
    turn = {"rotation": 30, "ha": "right"} if long else {}
    axis.set_xticks(ticks, list(groups), **turn)
    axis.set_ylabel(label)
    highest = max((ratio for bars in groups.values() for ratio in bars.values()), default=0.0)
    axis.set_ylim(0, 1.12 * highest or 1.0)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    if len(names) > 1:
        legend_below(figure, colours)
    figure.suptitle(title)
    return save_figure(figure, path)


def _ratio_text(ratio: float) -> str:
    """Two decimals, or two digits of what is smaller."""
    return f"{ratio:.2f}" if ratio >= 0.1 or ratio == 0 else f"{ratio:.2g}"


def _panels(rows: int, columns: int, width: float, height: float):
    """A figure and its axes ``(rows, columns)``, each panel of so many inches."""
    size = (width * columns, height * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def colours_of(shown: Iterable[str], names: Sequence[str] = ()) -> dict[str, str]:
    """A colour for each name that is shown, by its place in ``names`` where it stands there."""
    used = set(shown := list(shown))
    unique = list(dict.fromkeys([*names, *shown]))
    colours = dict(zip(unique, _cycle(len(unique)), strict=True))
    return {name: colour for name, colour in colours.items() if name in used}


def legend_below(figure, colours: Mapping[str, str]) -> None:
    """One legend below all panels, as many entries a line as fit."""
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    longest = max((len(name) for name in colours), default=1)
    across = int(figure.get_size_inches()[0] * 11 / (longest + 6))  # about 11 characters an inch
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, across), fontsize=8, frameon=False)


def _cycle(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def save_figure(figure, path: str | Path) -> Path:
    """Writes a figure as PNG and closes it; see `prernn.reports.files.whole_file`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=110, bbox_inches="tight")
    finally:
        plt.close(figure)
    return path


def early(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    fractions: Sequence[float],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Accuracy by the share of the video seen, a line for each network; a band where the spread is not 0.

    Args:
        curves: ``{network: (accuracies, their spreads)}``, F numbers each.
        fractions: F shares from 0 to 1.
        path: of the PNG.
        names: of the networks of a page, each of which then has one colour in all pictures.
    """
    width = 6.4
    across = max(1, int(width * 11 / (max(map(len, curves)) + 6)))  # names a line of the legend, as in legend_below
    figure, axes = _panels(1, 1, width, 4.2 + 0.19 * -(-len(curves) // across))
    axis, percent = axes[0, 0], [100 * fraction for fraction in fractions]
    for place, (name, colour) in enumerate(colours_of(curves, names).items()):
        means, spreads = (np.asarray(values) for values in curves[name])
        marker = MARKERS[place // len(COLOURS) % len(MARKERS)]  # tells lines of one colour apart
        axis.plot(percent, means, label=name, color=colour, marker=marker, markersize=4, linewidth=1.4)
        if spreads.any():
            axis.fill_between(percent, means - spreads, means + spreads, color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel("share of the video seen (%)")
    axis.set_ylabel("accuracy")
    axis.set_xlim(0, 102)
    axis.set_xticks(np.linspace(0, 100, 11))
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    figure.suptitle(title)
    return save_figure(figure, path)


Line = Sequence[tuple[float, float, float]]
"""Points of a line: place, mean and spread."""


def lines(
    panels: Mapping[str, Mapping[str, Line]],
    path: str | Path,
    *,
    along: str,
    title: str = "",
    levels: Mapping[str, Mapping[str, float]] | None = None,
    logarithmic: bool = True,
) -> Path:
    """Lines over one quantity, a panel for each measure; a band where the spread is not 0.

    Args:
        panels: ``{measure: {name: points}}``.
        path: of the PNG.
        along: what the horizontal axis shows.
        levels: ``{measure: {name: value}}``, horizontal lines to compare with.
        logarithmic: the horizontal axis.
    """
    levels = levels or {}
    drawn = {name: None for series in panels.values() for name in series}
    width = 4.9 * len(panels)
    across = max(1, int(width * 11 / (max(map(len, drawn), default=1) + 6)))  # names a line of the legend
    figure, axes = _panels(1, len(panels), 4.9, 3.8 + 0.19 * -(-len(drawn) // across))
    shown = {}
    for axis, (measure, series) in zip(axes[0], panels.items(), strict=True):
        for place, (name, colour) in enumerate(colours_of(drawn, list(drawn)).items()):
            if name not in series:
                continue
            at, means, spreads = (np.asarray(column) for column in zip(*series[name], strict=True))
            (shown[name],) = axis.plot(
                *(at, means),
                label=name,
                color=colour,
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=1.4,
            )
            if spreads.any():
                axis.fill_between(at, means - spreads, means + spreads, color=colour, alpha=0.15, linewidth=0)
        for name, value in levels.get(measure, {}).items():
            axis.axhline(value, color="#444444", linewidth=1, linestyle="--")
            axis.annotate(name, (0.02, value), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
        if logarithmic:
            axis.set_xscale("log")
            ticks = _apart(point[0] for points in series.values() for point in points)
            axis.set_xticks(ticks, [f"{tick:,.12g}" for tick in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(y=0.1)  # room for the name of a level
        axis.set_xlabel(along)
        axis.set_ylabel(measure)
        axis.grid(alpha=0.3)
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    figure.suptitle(title)
    return save_figure(figure, path)


def _apart(values: Iterable[float], most: int = 6) -> list[float]:
    """Some of the values, at least one ``most``-th of the way between the ends apart on a logarithmic axis."""
    unique = sorted({value for value in values if value > 0})
    step = (unique[-1] / unique[0]) ** (1 / most) if unique else 1
    kept: list[float] = []
    for value in unique:
        if not kept or value >= kept[-1] * step * (1 - 1e-9):
            kept.append(value)
    return kept
