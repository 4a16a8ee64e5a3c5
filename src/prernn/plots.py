"""Pictures of runs: training curves and per-frame predictions, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no window: these run on servers and in tests
import matplotlib.pyplot as plt

from prernn.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8B5A2B", "#7F7F7F", "#9ACD32")


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
        axis.legend(fontsize=8, loc="best")
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


def _cycle(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def save_figure(figure, path: str | Path) -> Path:
    """Writes a figure as PNG and closes it; see `prernn.files.whole_file`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=110, bbox_inches="tight")
    finally:
        plt.close(figure)
    return path
