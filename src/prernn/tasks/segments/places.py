"""Where the pieces of a long video are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from prernn.media.pieces import Timeline
from prernn.tasks.segments.lists import SegmentVideo


class Piece(NamedTuple):
    """A piece of a video; in training one of as many as the video has, at a place that is redrawn each epoch."""

    path: str
    view: int
    video: SegmentVideo


class Steps(NamedTuple):
    """A video as the network sees it: when its frames are shown, which of them are steps, and what is in them."""

    line: Timeline
    picks: list[int]
    spans: list[tuple[int, int, int]]  # first step, the one after the last, label


def piece_places(steps: int, piece: int) -> list[tuple[int, int]]:
    """(first step, the one after the last) of the pieces into which a video of ``steps`` steps is cut.

    All have ``piece`` steps except the last, which may have fewer.
    """
    return [(start, min(start + piece, steps)) for start in range(0, steps, piece)]


def draw_place(
    steps: int, piece: int, spans: Sequence[tuple[int, int, int]], share: float, chance: torch.Generator
) -> int:
    """The first step of a piece at a random place.

    With probability ``share`` it contains a step, drawn uniformly, of a segment, drawn uniformly too; otherwise it is
    a piece without any, if there is one. In a video without segments, or without background, any place is possible.

    Args:
        steps: number of steps of the video.
        piece: number of steps of a piece.
        spans: (first step, the one after the last, label) of the segments, ascending, without overlap.
        share: share of the pieces that are in a segment.
        chance: the random generator.
    """
    last = max(0, steps - piece)  # place
    if spans and float(torch.rand((), generator=chance)) < share:
        begin, end, _ = spans[_below(len(spans), chance)]
        step = begin + _below(end - begin, chance)
        return min(max(step - _below(piece, chance), 0), last)
    free = free_places(last, piece, spans)
    if not free:
        return _below(last + 1, chance)
    sizes = [end - begin for begin, end in free]
    place = _below(sum(sizes), chance)
    for (begin, _), size in zip(free, sizes, strict=True):
        if place < size:
            return begin + place
        place -= size
    raise AssertionError("the sizes add up to more than the place")


def free_places(last: int, piece: int, spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Ranges of the places up to ``last`` at which a piece meets no segment."""
    free, begin = [], 0
    for start, end, _ in spans:
        if begin <= min(start - piece, last):
            free.append((begin, min(start - piece, last) + 1))
        begin = end
    return [*free, (begin, last + 1)] if begin <= last else free


def _below(count: int, chance: torch.Generator) -> int:
    return int(torch.randint(0, count, (), generator=chance))
