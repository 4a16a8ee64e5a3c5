"""Metrics of online action detection: labels at the frames of untrimmed video, and events."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision, multiclass_confusion_matrix
from torchmetrics.utilities import dim_zero_cat

from prernn.streaming.events import EventRule, events_of
from prernn.tasks.classification import answers, class_accuracies
from prernn.tasks.clips.clip_metrics import path_number
from prernn.tasks.events.event_metrics import EventMetrics
from prernn.tasks.events.event_scores import Interval, first_right
from prernn.tasks.segments.frame_scores import average_precision
from prernn.tasks.task import valid_steps


class SegmentMetrics(nn.Module):
    """Running metrics of frame logits ``(B, T, K)`` against frame labels ``(B, T)``, 0 for background.

    The pieces of a video are put together, in whatever order they come, and its events are found as in a stream.
    Steps of warm-up and padding are ignored.

    Args:
        labels: K names, the background first.
        rule: what makes an event.
        temperature: divides the logits before the softmax.

    Raises:
        ValueError: fewer than 2 labels, or logits of another K.
    """

    def __init__(self, labels: Sequence[str], rule: EventRule, temperature: float = 1.0) -> None:
        super().__init__()
        if len(labels) < 2:
            raise ValueError(f"labels: expected the background and at least one class, got {list(labels)}")
        self.labels, self.rule, self.temperature = list(labels), rule, temperature
        self.frames = _Frames()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch with what `prernn.tasks.Segments.read` returns; an empty one adds nothing."""
        if out.shape[0] == 0:
            return
        if out.shape[-1] != len(self.labels):
            raise ValueError(f"logits: expected {len(self.labels)} classes, got {out.shape[-1]}")
        steps = torch.arange(out.shape[1], device=out.device)
        mask = valid_steps(batch["lengths"], out.shape[1]) & (steps >= batch["warm_up"][:, None])  # (B, T)
        for i, path in enumerate(batch["path"]):
            scores, label = (out[i][mask[i]].float() / self.temperature).softmax(-1), batch["label"][i][mask[i]]
            self.frames.update(scores, label, path, int(batch["start"][i]), float(batch["rate"][i]))

    def compute(self) -> dict[str, Tensor]:
        """The metrics, with C = K - 1 classes.

        Scalars: ``frame_map``, mean over the classes that occur of `average_precision` of their frames against all
        others; ``frame_cmap``, calibrated; ``frame_accuracy``, including background; ``mean_class_accuracy`` of frames;
        ``event_f1_10``, ``_25``, ``_50`` and ``mean_iou`` (`event_metrics.EventMetrics`); ``delay``, mean number of
        steps from a segment's begin to the first correct answer in it; ``answered``, share of segments with one. Then
        ``average_precision`` ``(C,)``; ``class_accuracy`` ``(K,)`` and ``confusion`` ``(K, K)``, in frames, with true
        classes as rows.
        """
        videos = self.frames.compute()
        scores = torch.cat([scores for scores, _, _ in videos.values()])  # (N, K)
        label = torch.cat([label for _, label, _ in videos.values()])  # (N,)
        known = answers(scores)
        size = len(self.labels) + 1
        of_classes = class_accuracies(multiclass_confusion_matrix(known, label, size)[:-1])
        scores = scores.nan_to_num(0.0)
        each = [(scores[:, k], label == k) for k in range(1, len(self.labels))]
        plain = [_precision(score, positive) for score, positive in each]
        calibrated = [average_precision(score, positive, calibrated=True) for score, positive in each]
        return {
            "frame_map": torch.stack(plain).nanmean(),
            "frame_cmap": torch.stack(calibrated).nanmean(),
            "frame_accuracy": of_classes.pop("accuracy"),
            **of_classes,
            **self._events(videos),
            "average_precision": torch.stack(plain),
        }

    def _events(self, videos: dict[int, tuple[Tensor, Tensor, float]]) -> dict[str, Tensor]:
        scored, delays = EventMetrics(), list[int | None]()
        for scores, label, rate in videos.values():
            true = runs(label.tolist())
            times = [i / rate for i in range(len(scores))]
            found = events_of(times, scores, self.labels, self.rule, quiet=(0,))
            number = {name: k for k, name in enumerate(self.labels)}
            spans = [Interval(number[e.label], e.start * rate, (e.end or 0.0) * rate) for e in found]
            scored.update(spans, true)
            delays += first_right(answers(scores).tolist(), true)
        known = [float(delay) for delay in delays if delay is not None]
        share = torch.tensor(len(known) / len(delays) if delays else torch.nan)
        return {**scored.compute(), "delay": torch.tensor(known).mean(), "answered": share}

    def reset(self) -> None:
        """Forgets all batches."""
        self.frames.reset()


class _Frames(Metric):
    """The frames of videos, put together from their pieces."""

    full_state_update = False
    scores: list[Tensor]
    label: list[Tensor]
    video: list[Tensor]
    step: list[Tensor]
    rate: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scores", "label", "video", "step", "rate"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, label: Tensor, path: str, start: int, rate: float) -> None:
        """Adds a piece: ``scores (T, K)``, ``label (T,)``, the video, its first step there, steps a second."""
        steps = torch.arange(start, start + len(label), device=label.device)
        self.scores.append(scores)
        self.label.append(label)
        self.step.append(steps)
        self.video.append(torch.full_like(steps, path_number(path)))
        self.rate.append(torch.full_like(steps, rate, dtype=torch.float64))

    def compute(self) -> dict[int, tuple[Tensor, Tensor, float]]:
        """Scores ``(T, K)``, labels ``(T,)`` and steps a second of each video, in order of time, on the CPU."""
        states = (self.scores, self.label, self.video, self.step, self.rate)
        scores, label, video, step, rate = (dim_zero_cat(state).cpu() for state in states)
        found = {}
        for number in video.unique().tolist():
            own = (video == number).nonzero().flatten()
            own = own[step[own].argsort(stable=True)]
            found[number] = (scores[own], label[own], float(rate[own[0]]))
        return found


def runs(labels: Sequence[int]) -> list[Interval]:
    """The segments in labels of steps: runs of one label other than 0. Adjacent runs of a label are one segment."""
    found, begin = [], 0
    for label, group in groupby(labels):
        end = begin + sum(1 for _ in group)
        if label:
            found.append(Interval(label, begin, end))
        begin = end
    return found


def _precision(score: Tensor, positive: Tensor) -> Tensor:
    """torchmetrics' average precision; NaN if no frame is positive, for which it would warn."""
    return torch.as_tensor(binary_average_precision(score, positive.long()) if bool(positive.any()) else torch.nan)
