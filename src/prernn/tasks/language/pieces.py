"""A text in pieces: training goes from piece to piece through parallel streams, evaluation through one stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prernn.tasks.task import Subset

SHORTEST = 2
"""Minimum number of words of a piece, however much its length varies."""


@dataclass(frozen=True)
class Piece:
    """One piece of one stream.

    Attributes:
        path: path of the text.
        subset: subset that the text is.
        row: number of the stream.
        number: number of the piece in its stream, from 0.
    """

    path: str
    subset: Subset
    row: int
    number: int


def pieces(path: str, subset: Subset, streams: int, count: int) -> list[Piece]:
    """The pieces of ``streams`` streams of ``count`` pieces each, one stream after the other."""
    return [Piece(path, subset, row, number) for row in range(streams) for number in range(count)]


@dataclass(frozen=True)
class Cuts:
    """Where the pieces of an epoch begin and end in each stream, and where the first stream begins in the text.

    Truncated back-propagation goes back to the begin of a piece; if that were the same in each epoch, some words would
    never learn from those before them. So the lengths are drawn (Merity, Keskar and Socher, "Regularizing and
    Optimizing LSTM Language Models", ICLR 2018, section 4), the same for all streams, and the text is treated as a ring
    that is entered at a different word each time.

    Attributes:
        start: position in the text of the first stream's first word.
        bounds: bounds of the pieces, in words of a stream, ascending from 0.
    """

    start: int
    bounds: Sequence[int]

    @classmethod
    def drawn(cls, words: int, streams: int, steps: int, spread: float, seed: int) -> "Cuts":
        """Cuts for an epoch with this seed: as many pieces as for ``steps`` words each, each end off by ``spread``.

        The deviation is normal, with ``spread`` as its standard deviation.
        """
        chance = np.random.default_rng(seed)
        even = cls.even(words, streams, steps).bounds
        moved = np.asarray(even[1:-1]) + np.round(chance.normal(0, spread, len(even) - 2)).astype(int)
        bounds = [0]
        for place, bound in enumerate(moved.tolist(), 1):
            left = even[-1] - SHORTEST * (len(even) - 1 - place)  # leaves room for the remaining pieces
            bounds.append(min(max(bound, bounds[-1] + SHORTEST), left))
        return cls(int(chance.integers(words)), [*bounds, even[-1]])

    @classmethod
    def even(cls, words: int, streams: int, steps: int) -> "Cuts":
        """Pieces of ``steps`` words from the text's first on, the last one shorter; excess words are left out."""
        length = words // streams
        bounds = list(range(0, length, steps))
        if length - bounds[-1] < SHORTEST and len(bounds) > 1:
            bounds.pop()
        return cls(0, [*bounds, length])
