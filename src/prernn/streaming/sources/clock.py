"""The time of a source over several connections, each of which counts from zero."""

from prernn.streaming.sources.reading import Arrived

BURST = 0.5
"""Share of the time between two frames' stamps below which the second comes at once, as it had waited somewhere."""

AT_ONCE = 0.01
"""Seconds in which it does in any case: the first stamps of a stream may be one."""


class Clock:
    """Times that go on: by the stamps of each connection, and over reconnections by the clock of this machine.

    When a connection is made, FFmpeg first looks at some seconds of it, and then gives these frames at once. In the
    first connection their stamps tell their times. In a later one they would make the source's time run ahead of the
    world's by those seconds, each time. So there they are of the moment at which they come, until they come one by one.

    Args:
        bursts: whether that is so: it is of what sends at its own pace, and not of a file that another program writes
            into a pipe.

    Attributes:
        arrived: reading of `time.monotonic` when the latest frame had been decoded.
    """

    def __init__(self, *, bursts: bool):
        self.arrived = 0.0
        self._bursts, self._bursting = bursts, False
        self._shift, self._time, self._stamp = 0.0, 0.0, 0.0

    def time_of(self, frame: Arrived, reconnected: bool) -> float:
        """The time of the next frame, which is the first of a new connection or not; never before the last one's."""
        waited, apart = frame.at - self.arrived, frame.time - self._stamp
        self._bursting = self._bursts if reconnected else self._bursting and waited < max(BURST * apart, AT_ONCE)
        if reconnected or self._bursting:
            self._shift = self._time + max(waited, 0.0) - frame.time
        self.arrived, self._stamp = frame.at, frame.time
        self._time = max(self._time, frame.time + self._shift)
        return self._time
