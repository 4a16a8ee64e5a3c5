"""Errors of landmarks: the loss, and curves of the errors."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.tasks.face import landmarks
from prernn.tasks.face.box import from_box
from prernn.tasks.face.landmarks import POINTS
from prernn.tasks.face.smoothing import PointFilter, smooth, smooth_on
from prernn.tasks.task import Verdict, valid_steps


def landmark_loss(
    out: Tensor,
    points: Tensor,
    lengths: Tensor,
    motion_weight: float = 0.0,
    weight: Tensor | None = None,
    begins: Tensor | None = None,
) -> Tensor:
    """The l2 loss: half the squared Euclidean distance over the 136 coordinates, averaged over frames, then clips.

    .. math:: L = \\frac1B \\sum_b \\frac{1}{T_b} \\sum_{t \\le T_b} \\frac12 \\|e_{bt}\\|^2
        + \\frac{w}{2} \\|e_{bt} - e_{b,t-1}\\|^2, \\quad e = \\hat y - y

    The paper says no more than "l2 loss"; this is what was common at the time (Caffe's EuclideanLoss). The second term,
    which is not in the paper, is the error of the motion from frame to frame: a network with a constant error pays
    nothing there, one that trembles or lags does.

    Args:
        out: ``(B, T, 136)``.
        points: ``(B, T, 136)`` in box coordinates.
        lengths: ``(B,)`` frames of each clip; what follows is ignored.
        motion_weight: w.
        weight: ``(B, T)`` of each frame, for a weighted mean over all frames of all clips; 0 if all weights are.
        begins: ``(B, T)``, True where a new face begins in a row of several; there is no motion to that frame.

    Raises:
        ValueError: shapes that differ, lengths outside 1..T.
    """
    if out.ndim != 3 or out.shape != points.shape:
        raise ValueError(f"expected outputs and points (B, T, K), got {tuple(out.shape)} and {tuple(points.shape)}")
    if out.shape[0] == 0:
        return out.sum()
    mask = valid_steps(lengths, out.shape[1])  # (B, T)
    if weight is not None:
        mask = mask & (weight > 0)
    # masked before the square, because a NaN in the padding would survive a zero gradient
    error = (out - points).masked_fill(~mask[..., None], 0)
    frames = error.square().sum(2)  # (B, T)
    if motion_weight:
        both = mask[:, 1:] & mask[:, :-1] if begins is None else mask[:, 1:] & mask[:, :-1] & ~begins[:, 1:]
        motion = (error.diff(dim=1) * both[..., None]).square().sum(2)
        frames = torch.cat([frames[:, :1], frames[:, 1:] + motion_weight * motion], 1)
    if weight is None:
        return (frames.sum(1) / (2 * lengths)).mean()
    return (frames * weight).sum() / (2 * weight[mask].sum()) if bool(mask.any()) else frames.sum()


def landmarks_in_pixels(out: Tensor, batch: dict[str, Any], smoothing: PointFilter | None = None) -> Tensor:
    """Outputs ``(B, T, 136)`` as points ``(B, T, 68, 2)`` in pixels of the picture, optionally filtered."""
    boxes = batch["boxes"]
    points = from_box(out.unflatten(-1, (POINTS, 2)), boxes)
    return points if smoothing is None else smooth(points, batch["time"], boxes[..., 2] - boxes[..., 0], smoothing)


def place_of(batch: dict[str, Any], row: int) -> tuple[str, int]:
    """The video of a row of a batch, and which of its boxes are used, see `prernn.tasks.face.task.Face.detector`."""
    return batch["path"][row], int(batch["way"][row]) if "way" in batch else 0


class FilteredPoints:
    """Outputs as points in pixels after a filter that continues over consecutive pieces of a video.

    Args:
        smoothing: the filter; None for none.
    """

    def __init__(self, smoothing: PointFilter | None) -> None:
        self.smoothing = smoothing
        self._states: dict[tuple[str, int], Any] = {}

    def __call__(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Outputs ``(B, T, 136)`` as points ``(B, T, 68, 2)``."""
        if self.smoothing is None or "goes_on" not in batch:
            return landmarks_in_pixels(out, batch, self.smoothing)
        points, side = landmarks_in_pixels(out, batch), batch["boxes"][..., 2] - batch["boxes"][..., 0]
        for row, steps in enumerate(batch["lengths"].tolist()):
            place = place_of(batch, row)
            state = self._states.get(place) if batch["goes_on"][row] else None
            own, time, size = (value[row, :steps] for value in (points, batch["time"], side))
            points[row, :steps], self._states[place] = smooth_on(own, time, size, self.smoothing, state)
        return points


WAYS = ("", " (detected boxes)")
"""The suffix of a prediction's path."""


def prediction_rows(pixels: Tensor, batch: dict[str, Any], normaliser: str) -> list[dict[str, Any]]:
    """One row per frame of points ``(B, T, 68, 2)``: path, number from 1, normalized error, points in pixels."""
    mask = valid_steps(batch["lengths"], pixels.shape[1])  # (B, T)
    errors = landmarks.normalized_errors(pixels[mask], batch["truth"][mask], normaliser).tolist()
    columns = [f"{axis}{i}" for i in range(POINTS) for axis in "xy"]
    paths = [batch["path"][b] + WAYS[place_of(batch, b)[1]] for b in mask.nonzero()[:, 0].tolist()]
    rows = zip(paths, batch["frame"][mask].tolist(), errors, pixels[mask].flatten(1).tolist(), strict=True)
    return [
        {"path": path, "frame": frame, "nme": round(error, 6)}
        | {name: round(value, 3) for name, value in zip(columns, values, strict=True)}
        for path, frame, error, values in rows
    ]


def point_verdicts(out: Tensor, batch: dict[str, Any], normaliser: str) -> list[Verdict]:
    """The mean normalized error of each clip of outputs ``(B, T, 136)``, and its points in the box."""
    pixels, found = landmarks_in_pixels(out, batch), list[Verdict]()
    for row, steps in enumerate(batch["lengths"].tolist()):
        errors = landmarks.normalized_errors(pixels[row, :steps], batch["truth"][row, :steps], normaliser)
        points = out[row, :steps].unflatten(-1, (POINTS, 2)) + 0.5
        found.append(Verdict(f"error {float(errors.mean()):.3f}", "", float(errors.mean()), points.numpy(force=True)))
    return found


MEASURED_IN = {"eyes": "inter-ocular distance", "pupils": "distance of the pupils", "box": "root of the box's area"}
"""What errors are divided by, in words."""


def plot_errors(
    errors: Mapping[str, Sequence[float]], path: str | Path, threshold: float = 0.08, normaliser: str = "eyes"
) -> Path:
    """Cumulative error curves as PNG (PreRNN, Figure 3), one per name, with its AUC.

    Args:
        errors: normalized errors of all frames, for each network.
        path: of the PNG.
        threshold: the error at which the curves end.
        normaliser: what the errors were divided by.
    """
    import matplotlib.pyplot as plt

    from prernn.reports.plots.figure import COLORS, save_figure

    figure, axis = plt.subplots(figsize=(5.2, 3.8))
    for (name, values), color in zip(errors.items(), itertools.cycle(COLORS)):
        levels, shares = landmarks.cumulative_error(torch.tensor(values), threshold, bins=400)
        score = float(landmarks.auc(torch.tensor(values), threshold))
        axis.plot(levels, shares, color=color, label=f"{name} AUC {score:.3f}".strip())
    axis.set_xlim(0, threshold)
    axis.set_ylim(0, 1)
    axis.set_xlabel(f"point-to-point error / {MEASURED_IN[normaliser]}")
    axis.set_ylabel("share of frames")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="best")
    return save_figure(figure, path)
