"""Running scores of events: how many were found, and how well their begins and ends agree."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from prernn.tasks.events.event_scores import LEVELS, Interval, f1, matches


class EventMetrics(Metric):
    """Event F1 at several thresholds of temporal IoU, and the mean IoU of what was matched, over all videos.

    ``hits``, ``found`` and ``true`` are counts over all videos and labels (micro average), and F1 is
    `prernn.tasks.events.event_scores.f1` of them, with the matches of `prernn.tasks.events.event_scores.matches`.
    """

    full_state_update = False
    hits: Tensor
    found: Tensor
    true: Tensor
    overlap: Tensor
    matched: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(len(LEVELS), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("found", "true", "overlap", "matched"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: Sequence[Interval], true: Sequence[Interval]) -> None:
        """Adds a video's events; found ones in the order in which they were reported."""
        hits = [len(matches(found, true, level)) for level in LEVELS]
        self.hits += torch.tensor(hits, dtype=torch.float64, device=self.hits.device)
        self.found += len(found)
        self.true += len(true)
        pairs = matches(found, true, 0.0)
        self.matched += len(pairs)
        self.overlap += sum(pair.iou for pair in pairs)

    def compute(self) -> dict[str, Tensor]:
        """``event_f1_10``, ``event_f1_25``, ``event_f1_50``, F1 at these percentages of IoU, and ``mean_iou``, scalars.

        ``mean_iou`` is over the found events that overlap a true one of their label. NaN if there is none to count.
        """
        found, true = float(self.found), float(self.true)
        scores = {
            f"event_f1_{round(100 * level)}": self.hits.new_tensor(f1(hits, found, true), dtype=torch.float32)
            for level, hits in zip(LEVELS, self.hits.tolist(), strict=True)
        }
        return {**scores, "mean_iou": (self.overlap / self.matched).float()}
