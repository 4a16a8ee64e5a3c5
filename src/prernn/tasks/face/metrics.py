"""Loss and metrics of face alignment."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prernn.tasks.face import landmarks
from prernn.tasks.face.box import from_box
from prernn.tasks.face.landmarks import POINTS
from prernn.tasks.task import valid_steps


def landmark_loss(out: Tensor, points: Tensor, lengths: Tensor) -> Tensor:
    """The l2 loss: half the squared Euclidean distance over the 136 coordinates, a mean over frames, then clips.

    .. math:: L = \\frac1B \\sum_b \\frac{1}{T_b} \\sum_{t \\le T_b} \\frac12 \\|\\hat y_{bt} - y_{bt}\\|^2

    The paper says "l2 loss" and no more; this is what was usual then (Caffe's EuclideanLoss).

    Args:
        out: ``(B, T, 136)``.
        points: ``(B, T, 136)`` in box coordinates.
        lengths: ``(B,)`` frames of each clip; what comes after them counts for nothing.

    Raises:
        ValueError: shapes that differ, lengths outside 1..T.
    """
    if out.ndim != 3 or out.shape != points.shape:
        raise ValueError(f"expected outputs and points (B, T, K), got {tuple(out.shape)} and {tuple(points.shape)}")
    if out.shape[0] == 0:
        return out.sum()
    mask = valid_steps(lengths, out.shape[1])  # (B, T)
    # masked before the square, because a NaN in the padding would survive a zero gradient
    error = (out - points).masked_fill(~mask[..., None], 0)
    return (error.square().sum((1, 2)) / (2 * lengths)).mean()


def landmarks_in_pixels(out: Tensor, batch: dict[str, Any]) -> Tensor:
    """Outputs ``(B, T, 136)`` as points ``(B, T, 68, 2)`` in pixels of the picture."""
    return from_box(out.unflatten(-1, (POINTS, 2)), batch["boxes"])


class FaceMetrics(Metric):
    """Running errors of outputs ``(B, T, 136)`` against batches of `Face.read`, over all frames of all clips.

    ``compute`` gives, see `prernn.tasks.face.landmarks` for the first four:
        nme: mean normalised error, in inter-ocular distances.
        auc: area under the cumulative error curve up to ``threshold``.
        failure_rate: share of frames with an error above ``threshold``.
        jitter: mean motion error from frame to frame, within clips; NaN where all have one frame.
        distance: mean Euclidean distance of the 136 outputs from the true box coordinates (the testing loss of the
            supplement's Table 1, as far as it says what that is).
        errors: normalised errors of all frames ``(N,)``, ascending.
    """

    full_state_update = False
    errors: list[Tensor]
    motions: list[Tensor]
    distances: list[Tensor]

    def __init__(self, threshold: float = 0.08) -> None:
        super().__init__()
        self.threshold = threshold
        for name in ("errors", "motions", "distances"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch; an empty one (B = 0) adds nothing."""
        if out.shape[0] == 0:
            return
        out, truth, lengths = out.float(), batch["truth"], batch["lengths"]
        pixels = landmarks_in_pixels(out, batch)  # (B, T, 68, 2)
        mask = valid_steps(lengths, out.shape[1])  # (B, T)
        self.errors.append(landmarks.normalised_errors(pixels[mask], truth[mask]))
        self.distances.append(torch.linalg.vector_norm(out[mask] - batch["points"][mask], dim=-1))
        clips = zip(pixels, truth, lengths.tolist(), strict=True)
        self.motions += [landmarks.motion_errors(guess[:n], true[:n]) for guess, true, n in clips]

    def compute(self) -> dict[str, Tensor]:
        """The values above; NaN where no frame was seen."""
        errors, motions, distances = (_joined(values) for values in (self.errors, self.motions, self.distances))
        failed = ~(errors <= self.threshold)  # NaN fails too
        return {
            "nme": errors.mean(),
            "auc": landmarks.auc(errors, self.threshold).float(),
            "failure_rate": failed.float().mean(),
            "jitter": motions.mean(),
            "distance": distances.mean(),
            "errors": errors.sort().values,
        }


def _joined(values: list[Tensor] | Tensor) -> Tensor:
    return dim_zero_cat(values) if len(values) else torch.zeros(0)


def plot_errors(errors: Mapping[str, Sequence[float]], path: str | Path, threshold: float = 0.08) -> Path:
    """Cumulative error curves as PNG (PreRNN, Figure 3), one for each name, with its AUC.

    Args:
        errors: normalised errors of all frames, for each network.
        path: of the PNG.
        threshold: where the curves end.
    """
    import matplotlib.pyplot as plt

    from prernn.reports.plots.figure import COLOURS, save_figure

    figure, axis = plt.subplots(figsize=(5.2, 3.8))
    for (name, values), colour in zip(errors.items(), itertools.cycle(COLOURS)):
        levels, shares = landmarks.cumulative_error(torch.tensor(values), threshold, bins=400)
        score = float(landmarks.auc(torch.tensor(values), threshold))
        axis.plot(levels, shares, color=colour, label=f"{name} AUC {score:.3f}".strip())
    axis.set_xlim(0, threshold)
    axis.set_ylim(0, 1)
    axis.set_xlabel("point-to-point error / inter-ocular distance")
    axis.set_ylabel("share of frames")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="best")
    return save_figure(figure, path)
