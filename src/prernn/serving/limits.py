"""What a client of the server may do, so that one client can't take the resources of all others."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from prernn.layers.arguments import real, whole


@dataclass(frozen=True)
class Limits:
    """Limits for each client; `prernn serve` has options for most of them.

    Attributes:
        clients: concurrent streams, including those of `POST /predict`.
        pixels: of a picture; the size is read before the picture is decoded.
        message_bytes: of a message.
        fps: frames a second, on average; faster frames are dropped, or left unread if none may be dropped.
        bytes_per_second: on average, including dropped frames.
        video_bytes: of an uploaded video.
        queue: frames that may wait for their turn.
        idle: seconds without a message after which a client is disconnected.
        hello: seconds within which a client must send its hello.
        refusals: consecutive unusable frames after which a client is disconnected.
        unread: answers that a client has not read after which it is disconnected.

    Raises:
        ValueError: a number below 1, or not above 0.
    """

    clients: int = 64
    pixels: int = 9_000_000
    message_bytes: int = 8 * 2**20
    fps: float = 60.0
    bytes_per_second: float = 64 * 2**20
    video_bytes: int = 2 * 10**9
    queue: int = 4
    idle: float = 60.0
    hello: float = 10.0
    refusals: int = 20
    unread: int = 500

    def __post_init__(self) -> None:
        for name in ("clients", "pixels", "message_bytes", "video_bytes", "queue", "refusals", "unread"):
            whole(f"limit {name}", getattr(self, name))
        for name in ("fps", "bytes_per_second", "idle", "hello"):
            real(f"limit {name}", getattr(self, name), 0, above=True)


class Allowance:
    """A token bucket: a fixed amount per second on average, and at most one second's worth at once.

    Example:
        >>> now = 0.0
        >>> frames = Allowance(2, lambda: now)
        >>> [frames.take() for _ in range(3)]
        [0.0, 0.0, 0.5]
        >>> now = 0.5
        >>> frames.take()
        0.0

    Args:
        rate: the amount that is added per second.
        clock: returns the time in seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = monotonic):
        self._rate, self._clock, self._most = rate, clock, max(1.0, rate)
        self._held, self._latest = self._most, clock()

    def take(self, amount: float = 1.0) -> float:
        """Takes an amount and returns 0; or takes nothing and returns the seconds until there is enough.

        More than the bucket holds can be taken when it is full; the rest is owed.
        """
        now = self._clock()
        self._held = min(self._most, self._held + (now - self._latest) * self._rate)
        self._latest = now
        wanted = min(amount, self._most)
        if self._held < wanted - 1e-9:
            return max((wanted - self._held) / self._rate, math.ulp(1.0))
        self._held -= amount
        return 0.0
