"""Where pieces of a long video lie."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from prernn.media.pieces import Timeline
from prernn.tasks.segments.lists import SegmentVideo


class Piece(NamedTuple):
    """A piece of a video: in training one of as many as the video has, at a place that is drawn anew each epoch."""

    path: str
    view: int
    video: SegmentVideo


class Steps(NamedTuple):
    """A video as the network sees it: when frames are shown, which of them are its steps, and what is in them."""

    line: Timeline
    picks: list[int]
    spans: list[tuple[int, int, int]]  # first step, the one after the last, label


def piece_places(steps: int, piece: int) -> list[tuple[int, int]]:
    """(first step, the one after the last) of the pieces that a video of ``steps`` steps falls into.

    All have ``piece`` steps but the last, which may have fewer.
    """
    return [(start, min(start + piece, steps)) for start in range(0, steps, piece)]


def draw_place(
    steps: int, piece: int, spans: Sequence[tuple[int, int, int]], share: float, chance: torch.Generator
) -> int:
    """The first step of a piece at a random place.

    With probability ``share`` it holds a step, drawn evenly, of a segment, drawn evenly too; else it is one of those
    without any, where there are such. A video without segments gives any place, and so does one without background.

    Args:
        steps: of the video.
        piece: steps of a piece.
        spans: (first step, the one after the last, label) of the segments, ascending, without overlap.
        share: of the places that are in a segment.
        chance: of the drawing.
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
