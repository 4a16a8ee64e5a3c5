"""Error, tremble and lag of points whose true positions are known, with filters of many settings."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from prernn.tasks.face.landmarks import inter_ocular, normalized_errors
from prernn.tasks.face.motion import lag, still, trembles
from prernn.tasks.face.smoothing import Smoothing, smooth

CUTOFFS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Minimum cutoffs of the filters in Hz."""

BETAS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
"""How their cutoffs grow, in Hz per box side a second."""

MEASURES = ("nme", "tremble", "tremble still", "tremble moving", "tremble error")
"""Measures for which less is better."""

FIRST = 25
"""Initial frames of a stream that are excluded from all figures: the state and the filter are new."""


class Points(NamedTuple):
    """Predicted and true points ``(N, T, 68, 2)`` in pixels, time ``(N, T)`` in seconds, side of the box ``(N, T)``."""

    predicted: Tensor
    true: Tensor
    time: Tensor
    side: Tensor


def figures(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Error, tremble of still and moving faces, and lag in frames, without the first frames.

    ``tremble error`` is the tremble of the error: points that do not follow the face tremble little, but err here.
    """
    predicted, true = predicted[:, FIRST:].double(), true[:, FIRST:].double()
    size = inter_ocular(true)
    calm, values = still(true), trembles(predicted, size)
    return {
        "nme": float(normalized_errors(predicted, true).mean()),
        "tremble": float(values.mean()),
        "tremble still": float(values[calm].mean()),
        "tremble moving": float(values[~calm].mean()),
        "tremble error": float(trembles(predicted - true, size).mean()),
        "true tremble": float(trembles(true, size).mean()),
        "lag": lag(predicted, true),
    }


def with_filters(points: Points) -> list[dict[str, Any]]:
    """The figures without a filter, then with each setting."""
    rows = [{"min_cutoff": "", "beta": "", **figures(points.predicted, points.true)}]
    for beta in BETAS:
        for cutoff in CUTOFFS:
            smoothed = smooth(points.predicted, points.time, points.side, Smoothing(cutoff, beta))
            rows.append({"min_cutoff": cutoff, "beta": beta, **figures(smoothed, points.true)})
    return rows


def frontier(rows: Sequence[dict[str, Any]], measure: str = "tremble") -> list[dict[str, Any]]:
    """The rows of the Pareto frontier, ordered by lag: no other row has less of a measure at no more lag."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["lag"], row[measure])):
        if math.isfinite(row["lag"]) and (not best or row[measure] < best[-1][measure]):
            best.append(row)
    return best


def at_lag(rows: Sequence[dict[str, Any]], wanted: float, measure: str) -> float:
    """The value of a measure that a network's filters reach at a given lag, interpolated linearly between settings.

    NaN below the smallest lag; above the largest, the value of the last setting.
    """
    best = frontier(rows, measure)
    lags, values = [row["lag"] for row in best], [row[measure] for row in best]
    return float(np.interp(wanted, lags, values)) if best and wanted >= lags[0] else math.nan


def at_equal_lag(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What every network reaches with filters at the lags that recurrent networks have without, and one frame later.

    It is the smallest value of each measure, over all filters; all rows are for one box.
    """
    names = list(dict.fromkeys(row["network"] for row in rows))
    alone = {row["network"]: row["lag"] for row in rows if row["min_cutoff"] == ""}
    recurrent = [lag for name, lag in alone.items() if "frame-wise" not in name and math.isfinite(lag)]
    return [
        {"network": name, "box": rows[0]["box"], "lag": wanted}
        | {measure: at_lag([row for row in rows if row["network"] == name], wanted, measure) for measure in MEASURES}
        for wanted in sorted(lag + more for lag in recurrent for more in (0.0, 1.0))
        for name in names
    ]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Tremble of still and moving faces and of the error, and the error, over lag; lines are for filters."""
    from matplotlib.ticker import NullFormatter

    from prernn.reports.plots.figure import colors_of, legend_below, panel_grid, save_figure

    boxes = list(dict.fromkeys(row["box"] for row in rows))
    measures = ("tremble still", "tremble moving", "tremble error", "nme")
    figure, axes = panel_grid(len(boxes), len(measures), 3.9, 3.2)
    colors = colors_of(dict.fromkeys(row["network"] for row in rows))
    for box, line in zip(boxes, axes, strict=True):
        for measure, axis in zip(measures, line, strict=True):
            for name, color in colors.items():
                own = [row for row in rows if row["network"] == name and row["box"] == box]
                best = frontier(own, measure)
                dashes = "--" if "frame-wise" in name else "-"
                axis.plot([r["lag"] for r in best], [r[measure] for r in best], dashes, color=color, lw=1.2)
                axis.plot(own[0]["lag"], own[0][measure], "o", color=color)
            axis.set_xlabel("lag, frames")
            axis.set_ylabel(f"{measure}, inter-ocular")
            axis.set_title(box, fontsize=9)
            axis.set_xlim(-0.3, 5)
            if measure != "nme":
                axis.set_yscale("log")
                axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3)
    legend_below(figure, colors)
    figure.suptitle("Dots: without a filter; lines: with One-Euro filters (dashed: frame-wise)")
    return save_figure(figure, path)
