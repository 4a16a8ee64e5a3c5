"""Plots of how confident a network is: reliability, and false events by threshold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from prernn.reports.plots.figure import colors_of, legend_below, panel_grid, save_figure


def reliability(answers: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path, *, bins: int = 15) -> Path:
    """A reliability diagram (Guo et al., ICML 2017, Figure 1): accuracy of the answers by their confidence.

    Args:
        answers: ``{name: (probabilities (N,), whether each is right (N,))}``.
        path: where to write the PNG.
        bins: number of probability bins of equal width; empty bins are left out.
    """
    figure, axes = panel_grid(2, 1, 5.6, 2.9)
    colors = colors_of(answers)
    edges = np.linspace(0, 1, bins + 1)
    above, below = axes[:, 0]
    above.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
    for name, (sure, right) in answers.items():
        place = np.clip(np.digitize(sure, edges) - 1, 0, bins - 1)
        known = [k for k in range(bins) if (place == k).any()]
        points = [(sure[place == k].mean(), right[place == k].mean()) for k in known]
        above.plot(*zip(*points, strict=True), color=colors[name], marker="o", markersize=4)
        below.hist(sure, bins=edges, color=colors[name], histtype="step", linewidth=1.5)
    above.set_ylabel("share that is right")
    above.set_ylim(0, 1.02)
    below.set_ylabel("answers")
    below.set_xlabel("probability of the answer")
    for axis in (above, below):
        axis.set_xlim(0, 1)
        axis.grid(alpha=0.3)
    legend_below(figure, colors)
    figure.suptitle("reliability on held-out videos")
    return save_figure(figure, path)


def false_events(
    scores: Mapping[str, Sequence[float]], hours: float, path: str | Path, *, marks: Mapping[str, float], chosen: float
) -> Path:
    """False events per hour as a function of the probability threshold that an event has to reach.

    Args:
        scores: ``{name: highest probability of each false event}``.
        hours: hours of video in which they were found.
        path: where to write the PNG.
        marks: ``{name: false events per hour}``, drawn as horizontal lines.
        chosen: the chosen threshold, drawn as a vertical line.
    """
    figure, axes = panel_grid(1, 1, 5.6, 4.0)
    axis, colors = axes[0, 0], colors_of(scores)
    for name, own in scores.items():
        at = np.concatenate([[0.0], np.sort(own), [1.0]])
        left = np.array([np.sum(np.asarray(own) >= threshold) for threshold in at]) / hours
        axis.step(at, left, where="pre", color=colors[name])
    for name, value in marks.items():
        axis.axhline(value, color="#444444", linewidth=1, linestyle="--")
        axis.annotate(f"{name}: {value:g}", (0.02, value), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
    axis.axvline(chosen, color="#444444", linewidth=1)
    axis.annotate(f"{chosen:.3g}", (chosen, 0.98), xycoords=("data", "axes fraction"), fontsize=8, va="top", ha="right")
    axis.set_xlim(0, 1.01)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("threshold of an event's probability")
    axis.set_ylabel("false events per hour")
    axis.grid(alpha=0.3)
    legend_below(figure, colors)
    figure.suptitle(f"events in {hours:.3g} hours of other things")
    return save_figure(figure, path)
