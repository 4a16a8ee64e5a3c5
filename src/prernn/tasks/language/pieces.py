"""A text in pieces: streams side by side, through which training goes from piece to piece, and evaluation in one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prernn.tasks.task import Subset

SHORTEST = 2
"""Words of a piece, however far its length is off."""


@dataclass(frozen=True)
class Piece:
    """One piece of one stream.

    Attributes:
        path: of the text.
        subset: that the text is.
        row: number of the stream.
        number: of the piece in its stream, from 0.
    """

    path: str
    subset: Subset
    row: int
    number: int


def pieces(path: str, subset: Subset, streams: int, count: int) -> list[Piece]:
    """The pieces of ``streams`` streams of ``count`` pieces each, a stream after the other."""
    return [Piece(path, subset, row, number) for row in range(streams) for number in range(count)]


@dataclass(frozen=True)
class Cuts:
    """Where the pieces of an epoch begin and end in each stream, and where the first stream begins in the text.

    Truncated back-propagation goes back to the begin of a piece; were that the same in each epoch, some words would
    never learn from those before them. So the lengths are drawn (Merity, Keskar and Socher, "Regularizing and
    Optimizing LSTM Language Models", ICLR 2018, section 4), the same for all streams, and the text is taken as a ring
    that is entered at another word each time.

    Attributes:
        start: word of the text that the first stream begins with.
        bounds: of the pieces, in words of a stream, ascending from 0.
    """

    start: int
    bounds: Sequence[int]

    @classmethod
    def drawn(cls, words: int, streams: int, steps: int, spread: float, seed: int) -> "Cuts":
        """Of an epoch with this seed: as many pieces as ``steps`` words make, each end off by a normal ``spread``."""
        chance = np.random.default_rng(seed)
        even = cls.even(words, streams, steps).bounds
        moved = np.asarray(even[1:-1]) + np.round(chance.normal(0, spread, len(even) - 2)).astype(int)
        bounds = [0]
        for place, bound in enumerate(moved.tolist(), 1):
            left = even[-1] - SHORTEST * (len(even) - 1 - place)  # the pieces to come have room
            bounds.append(min(max(bound, bounds[-1] + SHORTEST), left))
        return cls(int(chance.integers(words)), [*bounds, even[-1]])

    @classmethod
    def even(cls, words: int, streams: int, steps: int) -> "Cuts":
        """Pieces of ``steps`` words from the text's first on, the last one shorter; words over are left out."""
        length = words // streams
        bounds = list(range(0, length, steps))
        if length - bounds[-1] < SHORTEST and len(bounds) > 1:
            bounds.pop()
        return cls(0, [*bounds, length])
