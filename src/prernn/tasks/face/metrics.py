"""Running metrics of face alignment."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prernn.tasks.face import landmarks, motion
from prernn.tasks.face.errors import landmarks_in_pixels
from prernn.tasks.face.smoothing import Smoothing
from prernn.tasks.task import valid_steps


class FaceMetrics(Metric):
    """Running errors of outputs ``(B, T, 136)`` against batches of `Face.read`, over all frames of all clips.

    ``compute`` gives, see `prernn.tasks.face.landmarks` for the first four:
        nme: mean normalised error, in inter-ocular distances.
        auc: area under the cumulative error curve up to ``threshold``.
        failure_rate: share of frames with an error above ``threshold``.
        jitter: mean motion error from frame to frame, within clips; NaN where all have one frame.
        tremble: mean second difference of the points within clips, in inter-ocular distances
            (`prernn.tasks.face.motion.trembles`); NaN where all have fewer than three frames. ``tremble_still`` and
            ``tremble_moving`` are over frames where the true face is still (`prernn.tasks.face.motion.still`) and
            moves; NaN where there are none.
        true_tremble: that of the annotation.
        distance: mean Euclidean distance of the 136 outputs from the true box coordinates (the testing loss of the
            supplement's Table 1, as far as it says what that is), without smoothing.
        errors: normalised errors of all frames ``(N,)``, ascending.

    Args:
        threshold: of AUC and failure rate.
        smoothing: the filter that points go through, within each clip; None for none.
    """

    full_state_update = False
    errors: list[Tensor]
    motions: list[Tensor]
    distances: list[Tensor]
    trembles: list[Tensor]
    true_trembles: list[Tensor]
    still: list[Tensor]

    def __init__(self, threshold: float = 0.08, smoothing: Smoothing | None = None) -> None:
        super().__init__()
        self.threshold, self.smoothing = threshold, smoothing
        for name in ("errors", "motions", "distances", "trembles", "true_trembles", "still"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch; an empty one (B = 0) adds nothing."""
        if out.shape[0] == 0:
            return
        out, truth, lengths = out.float(), batch["truth"], batch["lengths"]
        pixels = landmarks_in_pixels(out, batch, self.smoothing)  # (B, T, 68, 2)
        mask = valid_steps(lengths, out.shape[1])  # (B, T)
        self.errors.append(landmarks.normalised_errors(pixels[mask], truth[mask]))
        self.distances.append(torch.linalg.vector_norm(out[mask] - batch["points"][mask], dim=-1))
        for guess, true, n in zip(pixels, truth, lengths.tolist(), strict=True):
            self._add_motion(guess[:n], true[:n])

    def _add_motion(self, guess: Tensor, true: Tensor) -> None:
        """Adds how a clip's points ``(T, 68, 2)`` move, and those of its annotation."""
        self.motions.append(landmarks.motion_errors(guess, true))
        size = landmarks.inter_ocular(true)
        self.trembles.append(motion.trembles(guess, size))
        self.true_trembles.append(motion.trembles(true, size))
        self.still.append(motion.still(true).float())

    def compute(self) -> dict[str, Tensor]:
        """The values above; NaN where no frame was seen."""
        errors, motions, distances = (_joined(values) for values in (self.errors, self.motions, self.distances))
        trembles, true, still = (_joined(values) for values in (self.trembles, self.true_trembles, self.still))
        failed = ~(errors <= self.threshold)  # NaN fails too
        return {
            "nme": errors.mean(),
            "auc": landmarks.auc(errors, self.threshold).float(),
            "failure_rate": failed.float().mean(),
            "jitter": motions.mean(),
            "tremble": trembles.mean(),
            "tremble_still": trembles[still > 0].mean(),
            "tremble_moving": trembles[still == 0].mean(),
            "true_tremble": true.mean(),
            "distance": distances.mean(),
            "errors": errors.sort().values,
        }


def _joined(values: list[Tensor] | Tensor) -> Tensor:
    return dim_zero_cat(values) if len(values) else torch.zeros(0)
