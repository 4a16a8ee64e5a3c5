"""How well gestures are told apart, found, and how early: metrics of a network trained with CTC."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.text import WordErrorRate

from prernn.tasks.classification import answers
from prernn.tasks.ctc_decoders import Decoder, Event, label_scores


class GestureMetrics(nn.Module):
    """Running metrics of outputs ``(B, T, K)``; torchmetrics sums them over batches and processes.

    Classification asks for the gesture of each annotated one's part of the video, cut halfway between neighbours:
    the best of `prernn.tasks.ctc_decoders.label_scores`. The others are of the events that ``decoder`` gives step by
    step. An event is seen with the last frame of the snippet that gave it. It detects the first gesture of its label
    that was not detected yet and in which, or in the ``tolerance`` frames after, it is seen; else it is a false alarm.

    Args:
        gestures: K - 1, at least 2.
        decoder: gives the events.
        snippet: frames of a step.
        tolerance: frames.

    Raises:
        ValueError: fewer than 2 gestures.
    """

    def __init__(self, gestures: int, decoder: Decoder, *, snippet: int = 8, tolerance: int = 16) -> None:
        super().__init__()
        if gestures < 2:
            raise ValueError(f"gestures: expected at least 2, got {gestures}")
        self.decoder, self.snippet, self.tolerance = decoder, snippet, tolerance
        self.gestures = gestures
        self.confusion = MulticlassConfusionMatrix(gestures + 1)  # and one for outputs that are no numbers
        self.edits = WordErrorRate()
        self.true, self.hits, self.alarms = SumMetric(), SumMetric(), SumMetric()  # gestures, and events
        self.delays, self.minutes = SumMetric(), SumMetric()  # frames, and of video

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch; an empty one adds nothing. Raises ValueError for outputs of another K."""
        if len(out) == 0:
            return
        if out.shape[-1] != self.gestures + 1:
            raise ValueError(f"expected {self.gestures + 1} outputs, got {out.shape[-1]}")
        for video, scores in enumerate(classified(out, batch, self.snippet)):
            target = batch["target"][video]
            true = target[target > 0]
            device = self.confusion.device
            self.confusion.update(answers(scores).to(device), true.to(device) - 1)
            events, _ = begins_and_ends(self.decoder.events(steps_of(out, batch, video)))
            self.edits.update(_sentence(event.label for event in events), _sentence(true.tolist()))
            frames = int(batch["frames"][video])
            seen = [(event.label, seen_frames(event, self.snippet, frames)) for event in events]
            intervals = batch["intervals"][video][: len(true)].tolist()
            delays = detections(seen, true.tolist(), intervals, self.tolerance)
            self.true.update(float(len(true)))
            self.hits.update(float(len(delays)))
            self.delays.update(float(sum(delays)))
            self.alarms.update(float(len(events) - len(delays)))
            self.minutes.update(frames / float(batch["fps"][video]) / 60)

    def compute(self) -> dict[str, Tensor]:
        """Scalars, NaN where there is nothing to count, and two arrays over the gestures.

        ``accuracy``: share of gestures classified rightly; ``mean_class_accuracy``: mean of each gesture's.
        ``edit_distance``: insertions, deletions and substitutions that make the decoded labels the true ones, for each
        true gesture. ``detected``: share of the gestures. ``delay``: mean frames from a gesture's begin to its
        detection. ``false_alarms``: for each minute of video. ``class_accuracy`` ``(K - 1,)``; ``confusion``
        ``(K - 1, K - 1)``, true gestures as rows. A gesture in a video whose outputs are not numbers counts as wrong
        and undetected, and is in no column.
        """
        counts = self.confusion.compute()[:-1]  # (K - 1, K)
        confusion = counts[:, :-1]
        right = confusion.diagonal().float()
        class_accuracy = right / counts.sum(1)
        hits = self.hits.compute()
        return {
            "accuracy": right.sum() / counts.sum(),
            "mean_class_accuracy": class_accuracy.nanmean(),
            "edit_distance": self.edits.compute(),
            "detected": hits / self.true.compute(),
            "delay": self.delays.compute() / hits,
            "false_alarms": self.alarms.compute() / self.minutes.compute(),
            "class_accuracy": class_accuracy,
            "confusion": confusion,
        }

    def reset(self) -> None:
        """Forgets all batches."""
        for metric in (self.confusion, self.edits, self.true, self.hits, self.alarms, self.delays, self.minutes):
            metric.reset()


def log_probs(out: Tensor) -> Tensor:
    """Log-softmax of outputs, in float32 at least; of logarithms of probabilities, these again."""
    return (out if out.dtype == torch.float64 else out.float()).log_softmax(-1)


def classified(out: Tensor, batch: dict[str, Any], snippet: int) -> Iterator[Tensor]:
    """For each video of a batch the `prernn.tasks.ctc_decoders.label_scores` ``(N, K - 1)`` of its N gestures.

    They are NaN where the network has diverged.
    """
    for video in range(len(out)):
        scores = steps_of(out, batch, video)  # (T, K)
        count = int((batch["target"][video] > 0).sum())
        cuts = part_cuts(batch["intervals"][video][:count].tolist(), len(scores), snippet)
        values = torch.stack([label_scores(scores[a:b]) for a, b in itertools.pairwise(cuts)])
        yield values.fill_(torch.nan) if _diverged(out, batch, video) else values


def part_cuts(intervals: Sequence[Sequence[int]], steps: int, snippet: int) -> list[int]:
    """Steps that cut a video into one part a gesture, as near as can be to halfway between neighbours: N + 1 of them.

    Every part has at least one step, so there have to be as many steps as intervals.
    """
    cuts = [0]
    for n, (before, after) in enumerate(itertools.pairwise(intervals), start=1):
        middle = round((before[1] + after[0]) / 2 / snippet)
        cuts.append(min(max(middle, cuts[-1] + 1), steps - len(intervals) + n))
    return [*cuts, steps]


def seen_frames(event: Event, snippet: int, frames: int) -> int:
    """Frames of a video that had come when an event was given: at the end of its snippet."""
    return min((event.step + 1) * snippet, frames)


def detections(
    seen: Sequence[tuple[int, int]], labels: Sequence[int], intervals: Sequence[Sequence[int]], tolerance: int
) -> list[int]:
    """Delays in frames of the gestures that events detect.

    Args:
        seen: (label, frame) of each event, in order.
        labels: of the gestures, in order.
        intervals: (begin, end) of the gestures, in frames.
        tolerance: frames after the end in which an event still counts.
    """
    left, delays = list(zip(labels, intervals, strict=True)), []
    for label, frame in seen:
        for gesture in left:
            begin, end = gesture[1]
            if gesture[0] == label and begin < frame <= end + tolerance:
                delays.append(frame - begin)
                left.remove(gesture)
                break
    return delays


def steps_of(out: Tensor, batch: dict[str, Any], video: int) -> Tensor:
    """Log-probabilities ``(T, K)`` of one video, on the CPU; of a network that has diverged, of no gesture at all."""
    steps = out[video, : int(batch["lengths"][video])].detach().cpu()
    if _diverged(out, batch, video):
        steps = torch.zeros_like(steps)
        steps[:, 0] = 1.0
    return log_probs(steps)


def _diverged(out: Tensor, batch: dict[str, Any], video: int) -> bool:
    return bool(out[video, : int(batch["lengths"][video])].isnan().any())


def begins_and_ends(events: list[Event]) -> tuple[list[Event], list[Event]]:
    """Events of a whole sequence as two lists of the same length."""
    return [event for event in events if event.kind == "begin"], [event for event in events if event.kind == "end"]


def _sentence(labels: Any) -> str:
    return " ".join(map(str, labels))
