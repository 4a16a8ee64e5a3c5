"""Plots of runs: training curves, error curves, ratios and accuracy over time, as PNG."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from prernn.reports.plots.figure import (
    COLORS,
    MARKERS,
    MOST_INSIDE,
    Apart,
    color_cycle,
    colors_of,
    count_epochs,
    legend_below,
    name_measure,
    panel_grid,
    save_figure,
)


def curves(series: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, *, title: str = "") -> Path:
    """Curves over epochs, one panel per metric, one line per network.

    Args:
        series: ``{metric: {network: values, one per epoch}}``.
        path: where to write the PNG.
    """
    figure, axes = plt.subplots(1, len(series), figsize=(5.2 * len(series), 3.8), squeeze=False)
    for axis, (metric, lines) in zip(axes[0], series.items(), strict=True):
        apart = Apart()
        for place, (color, (name, values)) in enumerate(zip(color_cycle(len(lines)), lines.items(), strict=True)):
            marker = MARKERS[place // len(COLORS) % len(MARKERS)]  # a different one once the colors repeat
            axis.plot(range(1, len(values) + 1), values, label=name, color=color, marker=marker, **apart.style(values))
        count_epochs(axis)
        name_measure(axis, metric)
        axis.grid(alpha=0.3)
        if len(lines) <= MOST_INSIDE:
            axis.legend(fontsize=8, loc="best")
    if max(len(lines) for lines in series.values()) > MOST_INSIDE:  # one legend next to the panels
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(0.91, 0.5))
    figure.suptitle(title)
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
        path: where to write the PNG.
        names: networks on the page, so that each has the same color in every plot.
    """
    across = 2 if len(series) == 4 else min(3, len(series))
    figure, axes = panel_grid(-(-len(series) // across), across, 4.4, 3.3)
    colors = colors_of((name for lines in series.values() for name in lines), names)
    for axis, (metric, lines) in zip(axes.flat, series.items(), strict=False):
        apart = Apart()
        for name, (epochs, values) in lines.items():
            axis.plot(epochs, values, label=name, color=colors[name], marker="o", **apart.style(values))
        count_epochs(axis)
        name_measure(axis, metric)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(series) :]:
        axis.set_axis_off()
    legend_below(figure, colors)
    figure.suptitle(title)
    return save_figure(figure, path)


def cumulative_errors(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path,
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Cumulative error curves: the share of frames whose error is at most the value on the x axis (PreRNN, Figure 3).

    Args:
        series: ``{network: (normalized errors, shares of frames from 0 to 1)}``.
        path: where to write the PNG.
        names: networks on the page, so that each has the same color in every plot.
    """
    figure, axes = panel_grid(1, 1, 5.6, 4.2)
    colors, apart = colors_of(series, names), Apart()
    for name, (errors, shares) in series.items():
        axes[0, 0].plot(errors, shares, label=name, color=colors[name], **apart.style(shares))
    axes[0, 0].set_xlabel("normalized point-to-point error")
    axes[0, 0].set_ylabel("share of frames")
    axes[0, 0].set_xlim(left=0)
    axes[0, 0].set_ylim(0, 1.02)
    axes[0, 0].grid(alpha=0.3)
    legend_below(figure, colors)
    figure.suptitle(title)
    return save_figure(figure, path)


def ratio_bars(groups: Mapping[str, Mapping[str, float]], path: str | Path, *, label: str, title: str = "") -> Path:
    """Ratios as bars with their values (PreRNN, Table 3; BandRNN).

    Args:
        groups: ``{group: {bar: ratio}}``; bars with the same name have the same color.
        path: where to write the PNG.
        label: axis label that says what the ratio measures.
    """
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    colors = colors_of(names)
    figure, axes = panel_grid(1, 1, max(4.5, 1.2 + 0.75 * sum(map(len, groups.values()))), 3.6)
    axis, place, ticks = axes[0, 0], 0.0, []
    for bars in groups.values():
        for name, ratio in bars.items():
            axis.bar(place, ratio, 0.9, color=colors[name])
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
        legend_below(figure, colors)
    figure.suptitle(title)
    return save_figure(figure, path)


def _ratio_text(ratio: float) -> str:
    """Two decimals, or two significant digits below 0.1."""
    return f"{ratio:.2f}" if ratio >= 0.1 or ratio == 0 else f"{ratio:.2g}"


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
        path: where to write the PNG.
        names: networks on the page, so that each has the same color in every plot.
    """
    width = 6.4
    across = max(1, int(width * 11 / (max(map(len, curves)) + 6)))  # names per legend row, as in legend_below
    figure, axes = panel_grid(1, 1, width, 4.2 + 0.19 * -(-len(curves) // across))
    axis, percent, apart = axes[0, 0], [100 * fraction for fraction in fractions], Apart()
    for place, (name, color) in enumerate(colors_of(curves, names).items()):
        means, spreads = (np.asarray(values) for values in curves[name])
        marker = MARKERS[place // len(COLORS) % len(MARKERS)]  # tells lines of the same color apart
        axis.plot(percent, means, label=name, color=color, marker=marker, linewidth=1.4, **apart.style(means))
        if spreads.any():
            axis.fill_between(percent, means - spreads, means + spreads, color=color, alpha=0.15, linewidth=0)
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
"""Points of a line: position on the x axis, mean and spread."""


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
        path: where to write the PNG.
        along: what the horizontal axis shows.
        levels: ``{measure: {name: value}}``, horizontal lines to compare with.
        logarithmic: whether the horizontal axis is logarithmic.
    """
    levels = levels or {}
    drawn = {name: None for series in panels.values() for name in series}
    width = 4.9 * len(panels)
    across = max(1, int(width * 11 / (max(map(len, drawn), default=1) + 6)))  # names per legend row
    figure, axes = panel_grid(1, len(panels), 4.9, 3.8 + 0.19 * -(-len(drawn) // across))
    shown = {}
    for axis, (measure, series) in zip(axes[0], panels.items(), strict=True):
        apart = Apart()
        for place, (name, color) in enumerate(colors_of(drawn, list(drawn)).items()):
            if name not in series:
                continue
            at, means, spreads = (np.asarray(column) for column in zip(*series[name], strict=True))
            (shown[name],) = axis.plot(
                *(at, means),
                label=name,
                color=color,
                marker=MARKERS[(place + place // len(COLORS)) % len(MARKERS)],  # no two lines look the same
                linewidth=1.4,
                **apart.style(means),
            )
            if spreads.any():
                axis.fill_between(at, means - spreads, means + spreads, color=color, alpha=0.15, linewidth=0)
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
    """Some of the values, spaced on a logarithmic axis by at least 1/``most`` of its whole range."""
    unique = sorted({value for value in values if value > 0})
    step = (unique[-1] / unique[0]) ** (1 / most) if unique else 1
    kept: list[float] = []
    for value in unique:
        if not kept or value >= kept[-1] * step * (1 - 1e-9):
            kept.append(value)
    return kept
