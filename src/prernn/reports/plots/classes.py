"""Plots of classes: a strip of streamed labels, a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from prernn.reports.plots.figure import color_cycle, save_figure


def strip(
    frames: Sequence[np.ndarray],
    probabilities: np.ndarray,
    labels: Sequence[str],
    path: str | Path,
    *,
    title: str = "",
) -> Path:
    """The frames of a video side by side, above a plot of each class's probability at each frame.

    Args:
        frames: T pictures, uint8 ``(H, W, 3)``.
        probabilities: ``(T, K)``.
        labels: names of the K classes.
        path: where to write the PNG.
    """
    figure = plt.figure(figsize=(max(6.0, 1.1 * len(frames)), 4.2))
    grid = figure.add_gridspec(2, len(frames), height_ratios=(1, 2.2), hspace=0.25, wspace=0.04)
    for time, frame in enumerate(frames):
        axis = figure.add_subplot(grid[0, time])
        axis.imshow(frame)
        axis.set_axis_off()
        axis.set_title(labels[int(probabilities[time].argmax())], fontsize=7)
    axis = figure.add_subplot(grid[1, :])
    for k, color in zip(range(len(labels)), color_cycle(len(labels)), strict=True):
        axis.plot(range(len(frames)), probabilities[:, k], label=labels[k], color=color, marker="o", markersize=3)
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
    """A confusion matrix ``(K, K)`` of counts, true classes as rows; ValueError unless there are K labels."""
    if len(labels) != len(matrix):
        raise ValueError(f"confusion: expected {len(matrix)} labels, got {len(labels)}")
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
