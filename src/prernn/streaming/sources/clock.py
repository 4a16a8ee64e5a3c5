"""The time of a source across several connections, each of which counts from zero."""

from prernn.streaming.sources.reading import Arrived

BURST = 0.5
"""A frame that follows sooner than this share of the time between its stamp and the previous one had been waiting."""

AT_ONCE = 0.01
"""A frame that follows within this many seconds had been waiting in any case, as the first stamps may be equal."""


class Clock:
    """Continuous times: from the stamps within each connection, and across reconnections from this machine's clock.

    When a connection is made, FFmpeg first looks at a few seconds of it, and then delivers these frames at once. In the
    first connection their stamps give their times. In a later one they would move the source's time ahead of real time
    by those seconds, each time. So there, frames get the time at which they arrive, until they arrive one by one.

    Args:
        bursts: whether connections begin with such a burst: true for what sends at its own pace, not for a file that
            another program writes into a pipe.

    Attributes:
        arrived: value of `time.monotonic` when the latest frame had been decoded.
    """

    def __init__(self, *, bursts: bool):
        self.arrived = 0.0
        self._bursts, self._bursting = bursts, False
        self._shift, self._time, self._stamp = 0.0, 0.0, 0.0

    def time_of(self, frame: Arrived, reconnected: bool) -> float:
        """The time of the next frame, which may be the first of a new connection; never before the previous frame's."""
        waited, apart = frame.at - self.arrived, frame.time - self._stamp
        self._bursting = self._bursts if reconnected else self._bursting and waited < max(BURST * apart, AT_ONCE)
        if reconnected or self._bursting:
            self._shift = self._time + max(waited, 0.0) - frame.time
        self.arrived, self._stamp = frame.at, frame.time
        self._time = max(self._time, frame.time + self._shift)
        return self._time
