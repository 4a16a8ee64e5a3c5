"""A source on a network's clock: the picture seen at each tick, and what happened to the source before it."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from prernn.streaming.pace import Pace
from prernn.streaming.sources.frames import SourceFrame


class Moment(NamedTuple):
    """What a network sees at one tick.

    Attributes:
        time: in seconds.
        picture: uint8 ``(H, W, 3)``.
        dropped: frames that the source's policy dropped since the previous moment; not those that the clock drops.
        reconnected: how often the source was lost and came back since the previous moment.
    """

    time: float
    picture: Any
    dropped: int = 0
    reconnected: int = 0


def moments(source: Iterable[SourceFrame], pace: Pace) -> Iterator[Moment]:
    """Yields what is seen at each tick of a clock, which counts the source's irregular time stamps."""
    before = (0, 0)
    for time, (picture, *now) in pace(_arriving(source, pace)):
        yield Moment(time, picture, now[0] - before[0], now[1] - before[1])
        before = (now[0], now[1])


def _arriving(source: Iterable[SourceFrame], pace: Pace) -> Iterator[tuple[float, tuple[Any, int, int]]]:
    """Times, and pictures with the totals of dropped and reconnected so far, because the clock may drop any of them."""
    dropped, reconnected = 0, 0
    for frame in source:
        for seconds in frame.jumps:
            pace.jumped_back(seconds)
        if frame.late:
            pace.fell_behind()
        dropped, reconnected = dropped + frame.dropped, reconnected + frame.reconnected
        yield frame.time, (frame.picture, dropped, reconnected)
