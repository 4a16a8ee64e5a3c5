"""A source on a network's clock: what is seen at each tick, and what happened to the source before it."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from prernn.streaming.pace import Pace
from prernn.streaming.sources.frames import SourceFrame


class Moment(NamedTuple):
    """What a network sees at once.

    Attributes:
        time: in seconds.
        picture: uint8 ``(H, W, 3)``.
        dropped: frames that the source's policy left out since the moment before; those that the clock drops are none.
        reconnected: how often the source was lost and came back since the moment before.
    """

    time: float
    picture: Any
    dropped: int = 0
    reconnected: int = 0


def moments(source: Iterable[SourceFrame], pace: Pace) -> Iterator[Moment]:
    """Yields what is seen at each tick of a clock, which counts the source's odd time stamps."""
    before = (0, 0)
    for time, (picture, *now) in pace(_arriving(source, pace)):
        yield Moment(time, picture, now[0] - before[0], now[1] - before[1])
        before = (now[0], now[1])


def _arriving(source: Iterable[SourceFrame], pace: Pace) -> Iterator[tuple[float, tuple[Any, int, int]]]:
    """Times, and pictures with all that were dropped and reconnected so far: the clock may leave out any of them."""
    dropped, reconnected = 0, 0
    for frame in source:
        for seconds in frame.jumps:
            pace.jumped_back(seconds)
        if frame.late:
            pace.fell_behind()
        dropped, reconnected = dropped + frame.dropped, reconnected + frame.reconnected
        yield frame.time, (frame.picture, dropped, reconnected)
