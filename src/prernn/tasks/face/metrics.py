"""Running metrics of face alignment."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prernn.tasks.face import landmarks, motion
from prernn.tasks.face.errors import FilteredPoints, place_of
from prernn.tasks.face.smoothing import PointFilter
from prernn.tasks.task import valid_steps

BEFORE = 2
"""Frames of the previous piece that the second difference of the points needs."""

DETECTED = "detected"
"""Prefix of the names of metrics in a detector's boxes."""


class FaceMetrics(Metric):
    """Running errors of outputs ``(B, T, 136)`` for batches of `Face.read`, over all frames of all clips.

    ``compute`` returns (see `prernn.tasks.face.landmarks` for the first four):
        nme: mean normalized error, in face sizes as ``normaliser`` measures them.
        auc: area under the cumulative error curve up to ``threshold``.
        failure_rate: share of frames with an error above ``threshold``.
        jitter: mean motion error from frame to frame in inter-ocular distances, within clips, or over a whole video
            if its pieces continue each other; NaN if all have one frame.
        tremble: mean second difference of the points, over the same frames, in inter-ocular distances
            (`prernn.tasks.face.motion.trembles`); NaN if all have fewer than three frames. ``tremble_still`` and
            ``tremble_moving`` are over frames in which the true face is still (`prernn.tasks.face.motion.still`) or
            moves; NaN if there are none.
        true_tremble: that of the annotation.
        distance: mean Euclidean distance of the 136 outputs from the true box coordinates (the testing loss of the
            supplement's Table 1, as far as it says what that is), without a filter.
        errors: normalized errors of all frames ``(N,)``, ascending.

    Args:
        threshold: for AUC and failure rate.
        smoothing: the filter applied to points, within each clip or whole video; None for none.
        normaliser: the size of a face by which errors are divided, a key of `prernn.tasks.face.landmarks.SIZES`.
    """

    full_state_update = False
    errors: list[Tensor]
    motions: list[Tensor]
    distances: list[Tensor]
    trembles: list[Tensor]
    true_trembles: list[Tensor]
    still: list[Tensor]

    def __init__(self, threshold: float = 0.08, smoothing: PointFilter | None = None, normaliser: str = "eyes") -> None:
        super().__init__()
        self.threshold, self.normaliser = threshold, normaliser
        self._points = FilteredPoints(smoothing)
        self._ends: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}  # the last points of videos that continue
        for name in ("errors", "motions", "distances", "trembles", "true_trembles", "still"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch; an empty one (B = 0) adds nothing."""
        if out.shape[0] == 0:
            return
        out, truth, lengths = out.float(), batch["truth"], batch["lengths"]
        pixels = self._points(out, batch)  # (B, T, 68, 2)
        mask = valid_steps(lengths, out.shape[1])  # (B, T)
        self.errors.append(landmarks.normalized_errors(pixels[mask], truth[mask], self.normaliser))
        self.distances.append(torch.linalg.vector_norm(out[mask] - batch["points"][mask], dim=-1))
        for row, (guess, true, n) in enumerate(zip(pixels, truth, lengths.tolist(), strict=True)):
            self._add_motion(*self._on_from(batch, row, guess[:n], true[:n]))

    def _on_from(self, batch: dict[str, Any], row: int, guess: Tensor, true: Tensor) -> tuple[Tensor, Tensor, int]:
        """A clip's points after the last ones of the piece that it continues, and how many of those there are."""
        if "goes_on" not in batch:
            return guess, true, 0
        place, known = place_of(batch, row), 0
        if batch["goes_on"][row] and place in self._ends:
            before = self._ends[place]
            known = len(before[0])
            guess, true = torch.cat([before[0], guess]), torch.cat([before[1], true])
        self._ends[place] = guess[-BEFORE:], true[-BEFORE:]
        return guess, true, known

    def _add_motion(self, guess: Tensor, true: Tensor, known: int) -> None:
        """Adds how a clip's points ``(T, 68, 2)`` and those of its annotation move; the first ``known`` are not new."""
        first = max(known - 1, 0)
        self.motions.append(landmarks.motion_errors(guess[first:], true[first:]))
        size = landmarks.inter_ocular(true)
        self.trembles.append(motion.trembles(guess, size))
        self.true_trembles.append(motion.trembles(true, size))
        self.still.append(motion.still(true).float())

    def compute(self) -> dict[str, Tensor]:
        """The values above; NaN if no frame was seen."""
        errors, motions, distances = (_joined(values) for values in (self.errors, self.motions, self.distances))
        trembles, true, still = (_joined(values) for values in (self.trembles, self.true_trembles, self.still))
        failed = ~(errors <= self.threshold)  # NaN counts as failed
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


class BesideDetected(nn.Module):
    """`FaceMetrics` in the annotation's boxes and, under ``detected_...``, in a detector's boxes.

    ``detected_missed`` is the share of frames in which the detector found no face, so that the previous box stayed.

    Args:
        make: creates new metrics.
    """

    def __init__(self, make: Callable[[], FaceMetrics]) -> None:
        super().__init__()
        self.ways = nn.ModuleList([make(), make()])
        self.seen = _Share()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch, whose ``way (B,)`` is 1 for a detector's boxes."""
        for way, metric in enumerate(self.ways):
            rows = (batch["way"] == way).nonzero()[:, 0] if out.shape[0] else torch.zeros(0, dtype=torch.long)
            if len(rows):
                assert isinstance(metric, FaceMetrics)
                metric.update(out[rows], _rows(batch, rows))
        if out.shape[0]:
            counted = valid_steps(batch["lengths"], out.shape[1]) & (batch["way"] == 1)[:, None]
            self.seen.update(batch["missed"][counted])

    def compute(self) -> dict[str, Tensor]:
        """Both."""
        true, found = (metric.compute() for metric in self.ways)  # type: ignore[operator]  # a ModuleList's
        named = {f"{DETECTED}_{name}": value for name, value in found.items() if name != "true_tremble"}
        return true | named | {f"{DETECTED}_missed": self.seen.compute()}

    def reset(self) -> None:
        """Forgets all batches."""
        for metric in (*self.ways, self.seen):
            metric.reset()  # type: ignore[operator]


class _Share(Metric):
    """Share of Boolean values that are true."""

    full_state_update = False
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        self.values.append(values.float())

    def compute(self) -> Tensor:
        return _joined(self.values).mean()


def _rows(batch: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Some rows of a batch."""
    numbers = rows.tolist()
    return {
        name: value[rows] if isinstance(value, Tensor) else [value[i] for i in numbers]
        for name, value in batch.items()
        if name != "skipped"
    }


def _joined(values: list[Tensor] | Tensor) -> Tensor:
    return dim_zero_cat(values) if len(values) else torch.zeros(0)
