"""From a gesture network's outputs to what is scored: its gestures, a decoder's events, and when they were seen."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from prernn.tasks.classification import without_best
from prernn.tasks.events.ctc_decoders import BLANK, Event, label_scores
from prernn.tasks.events.ctc_loss import log_probs


def classified(out: Tensor, batch: dict[str, Any], snippet: int, temperature: float = 1.0) -> Iterator[Tensor]:
    """For each video of a batch, the `prernn.tasks.events.ctc_decoders.label_scores` ``(N, K - 1)`` of its N gestures.

    They are NaN if the network has diverged.
    """
    for video in range(len(out)):
        parts = parts_of(out, batch, video, snippet, temperature)
        values = torch.stack([label_scores(part) for part in parts])
        yield values.fill_(torch.nan) if _diverged(out, batch, video) else values


def parts_of(out: Tensor, batch: dict[str, Any], video: int, snippet: int, temperature: float = 1.0) -> list[Tensor]:
    """The log-probabilities ``(T, K)`` of each gesture's part of one video."""
    scores = steps_of(out, batch, video, temperature)  # (T, K)
    count = int((batch["target"][video] > 0).sum())
    cuts = part_cuts(batch["intervals"][video][:count].tolist(), len(scores), snippet)
    return [scores[a:b] for a, b in itertools.pairwise(cuts)]


def spikes(out: Tensor, batch: dict[str, Any], snippet: int) -> tuple[Tensor, Tensor]:
    """The most confident step in each gesture's part: log-probabilities ``(N, K)``; and labels."""
    found, labels = [], []
    for video in range(len(out)):
        for part, label in zip(parts_of(out, batch, video, snippet), batch["target"][video].tolist(), strict=False):
            found.append(part[part[:, BLANK].argmin()])
            labels.append(label)
    return torch.stack(found), torch.tensor(labels)


def part_cuts(intervals: Sequence[Sequence[int]], steps: int, snippet: int) -> list[int]:
    """Steps that cut a video into one part per gesture, as close to halfway between neighbors as possible: N + 1 steps.

    Every part has at least one step, so there must be at least as many steps as intervals.
    """
    cuts = [0]
    for n, (before, after) in enumerate(itertools.pairwise(intervals), start=1):
        middle = round((before[1] + after[0]) / 2 / snippet)
        cuts.append(min(max(middle, cuts[-1] + 1), steps - len(intervals) + n))
    return [*cuts, steps]


def seen_frames(event: Event, snippet: int, frames: int) -> int:
    """Number of frames of a video that had come when an event was reported: up to the end of its snippet."""
    return min((event.step + 1) * snippet, frames)


def detections(
    seen: Sequence[tuple[int, int]], labels: Sequence[int], intervals: Sequence[Sequence[int]], tolerance: int
) -> list[int]:
    """Delays in frames of the gestures that the events detect.

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


def steps_of(out: Tensor, batch: dict[str, Any], video: int, temperature: float = 1.0) -> Tensor:
    """Log-probabilities ``(T, K)`` of one video, on the CPU; if the network has diverged, of no gesture."""
    steps = out[video, : int(batch["lengths"][video])].detach().cpu()
    if _diverged(out, batch, video):
        steps = torch.zeros_like(steps)
        steps[:, 0] = 1.0
    return log_probs(steps, temperature)


def _diverged(out: Tensor, batch: dict[str, Any], video: int) -> bool:
    return bool(without_best(out[video, : int(batch["lengths"][video])]).any())


def begins_and_ends(events: list[Event]) -> tuple[list[Event], list[Event]]:
    """Events of a whole sequence as two lists of the same length."""
    return [event for event in events if event.kind == "begin"], [event for event in events if event.kind == "end"]
