"""A frame of a source with what happened before it, and the counts of what became of all frames."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class SourceFrame:
    """A frame, and what happened between the previous one taken and this one.

    Attributes:
        index: its number among all frames that the source gave, dropped ones included.
        time: seconds since the first frame, by the source's time stamps; across a reconnection by this machine's clock.
            Never less than that of the previous frame.
        picture: uint8 RGB ``(H, W, 3)``.
        dropped: frames that the policy dropped.
        reconnected: whether the source was lost and has come back with this frame.
        resized: whether its size has changed.
        jumps: seconds of each jump back in the time stamps.
        arrived: value of `time.monotonic` when the frame had been decoded.
        late: whether some were dropped because their consumer is slower than the source.
    """

    index: int
    time: float
    picture: np.ndarray
    dropped: int = 0
    reconnected: bool = False
    resized: bool = False
    jumps: tuple[float, ...] = ()
    arrived: float = 0.0
    late: bool = False


@dataclass
class SourceCounts:
    """What became of a source's frames, up to the last one taken: ``read = shown + dropped``.

    Attributes:
        read: frames that the source gave.
        shown: frames that were taken.
        dropped: frames that the policy dropped because they came faster than they were taken.
        reconnected: how often the source was lost and came back.
        tries: total number of attempts to reconnect.
        timeouts: how often no frame came for too long.
        abandoned: reading threads that were abandoned because they hung in a driver or socket.
        resized: how often the size changed.
    """

    read: int = 0
    shown: int = 0
    dropped: int = 0
    reconnected: int = 0
    tries: int = 0
    timeouts: int = 0
    abandoned: int = 0
    resized: int = 0

    def __str__(self) -> str:
        """The counts in words, without those that are 0; empty if all are."""
        parts = {
            f"{self.dropped} of {self.read} frames dropped": self.dropped,
            f"reconnected {_times(self.reconnected)}": self.reconnected,
            f"{_count(self.tries, 'try', 'tries')} to connect again": self.tries,
            f"no frame for too long {_times(self.timeouts)}": self.timeouts,
            f"{_count(self.abandoned, 'reader', 'readers')} left hanging": self.abandoned,
            f"its size changed {_times(self.resized)}": self.resized,
        }
        return ", ".join(text for text, count in parts.items() if count)


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
