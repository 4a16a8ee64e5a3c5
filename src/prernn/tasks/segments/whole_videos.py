"""Puts pieces of videos together again."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from prernn.streaming.events import EventRule, EventSpan, events_of


def events_by_video(
    pieces: Iterable[dict[str, Any]], labels: Sequence[str], rule: EventRule
) -> dict[str, list[EventSpan]]:
    """The events of each video, by path, as a stream would report them.

    Args:
        pieces: each with ``path``, ``frame`` (its first step), ``rate`` (steps a second) and ``probabilities (T, K)``.
        labels: names of the K outputs; the first makes no events.
        rule: what makes an event.
    """
    videos: dict[str, list[dict[str, Any]]] = {}
    for piece in sorted(pieces, key=lambda piece: (piece["path"], piece["frame"])):
        videos.setdefault(piece["path"], []).append(piece)
    found = {}
    for path, parts in videos.items():
        probabilities = torch.cat([part["probabilities"] for part in parts])
        times = [(parts[0]["frame"] + i) / parts[0]["rate"] for i in range(len(probabilities))]
        found[path] = events_of(times, probabilities, labels, rule, quiet=(0,))
    return found
