"""What the plots share: colors, panels, legends, and saving to a file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from prernn.reports.files import whole_file

matplotlib.use("Agg")  # no window: these run on servers and in tests

COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#8B5A2B",
    "#7F7F7F",
    "#9ACD32",
    "#882255",
    "#44AA99",
)

MARKERS = "os^Dv"

MOST_INSIDE = 5
"""The largest number of lines whose legend still fits inside a panel."""


def panel_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``(rows, columns)``; ``width`` and ``height`` of each panel are in inches."""
    size = (width * columns, height * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def colors_of(shown: Iterable[str], names: Sequence[str] = ()) -> dict[str, str]:
    """A color for each name that is shown, chosen by its position in ``names`` if it is listed there."""
    used = set(shown := list(shown))
    unique = list(dict.fromkeys([*names, *shown]))
    colors = dict(zip(unique, color_cycle(len(unique)), strict=True))
    return {name: color for name, color in colors.items() if name in used}


def legend_below(figure: Figure, colors: Mapping[str, str]) -> None:
    """One legend below all panels, with as many entries per row as fit."""
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    longest = max((len(name) for name in colors), default=1)
    across = int(figure.get_size_inches()[0] * 11 / (longest + 6))  # about 11 characters per inch
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, across), fontsize=8, frameon=False)


def color_cycle(count: int) -> list[str]:
    """``count`` colors, starting again from the first when there are not enough."""
    return [COLORS[k % len(COLORS)] for k in range(count)]


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG and closes it; see `prernn.reports.files.whole_file`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=110, bbox_inches="tight")
    finally:
        plt.close(figure)
    return path


def count_epochs(axis: Axes) -> None:
    """Whole numbers along an axis of epochs, even for a single epoch."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def name_measure(axis: Axes, measure: str) -> None:
    """Labels the axis with the measure; for accuracies the axis covers the full range from 0 to 1."""
    axis.set_ylabel(measure.replace("_", " "))
    if "accuracy" in measure:
        axis.set_ylim(-0.02, 1.02)


class Apart:
    """Line styles for one panel: a line equal to earlier ones is dashed, with larger markers, so that all show."""

    def __init__(self) -> None:
        self.drawn: list[np.ndarray] = []

    def style(self, values: Sequence[float] | np.ndarray) -> dict[str, Any]:
        """Keyword arguments of ``axis.plot`` for the next line."""
        line = np.asarray(values)
        same = sum(np.array_equal(line, other, equal_nan=True) for other in self.drawn)
        self.drawn.append(line)
        dashes = {"linestyle": (0, (3, 3 * same)), "markerfacecolor": "none"} if same else {}
        return {"markersize": 4 + 3 * same, **dashes}
