"""Running metrics of face alignment."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prernn.tasks.face import landmarks
from prernn.tasks.face.errors import landmarks_in_pixels
from prernn.tasks.task import valid_steps


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
