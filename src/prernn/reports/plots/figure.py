"""What the pictures share: colours, panels, legends, and saving them whole."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from prernn.reports.files import whole_file

matplotlib.use("Agg")  # no window: these run on servers and in tests

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8B5A2B", "#7F7F7F", "#9ACD32")

MARKERS = "os^Dv"

MOST_INSIDE = 5
"""Lines whose legend still fits into a panel."""


def panel_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``(rows, columns)``, each panel of so many inches."""
    size = (width * columns, height * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def colours_of(shown: Iterable[str], names: Sequence[str] = ()) -> dict[str, str]:
    """A colour for each name that is shown, by its place in ``names`` where it stands there."""
    used = set(shown := list(shown))
    unique = list(dict.fromkeys([*names, *shown]))
    colours = dict(zip(unique, colour_cycle(len(unique)), strict=True))
    return {name: colour for name, colour in colours.items() if name in used}


def legend_below(figure: Figure, colours: Mapping[str, str]) -> None:
    """One legend below all panels, as many entries a line as fit."""
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    longest = max((len(name) for name in colours), default=1)
    across = int(figure.get_size_inches()[0] * 11 / (longest + 6))  # about 11 characters an inch
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, across), fontsize=8, frameon=False)


def colour_cycle(count: int) -> list[str]:
    """So many colours, from the first again where they do not suffice."""
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


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
