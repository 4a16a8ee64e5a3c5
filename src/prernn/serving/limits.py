"""What a client of the server may do, so that one can't take what is all others'."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from prernn.layers.arguments import real, whole


@dataclass(frozen=True)
class Limits:
    """Bounds for each client; `prernn serve` has options for most.

    Attributes:
        clients: streams at a time, those of `POST /predict` among them.
        pixels: of a picture; the size is read before it is decoded.
        message_bytes: of a message.
        fps: frames a second, on average; what comes faster is dropped, or left unread where nothing may be dropped.
        bytes_per_second: on average, with what is dropped.
        video_bytes: of a video that is uploaded.
        queue: frames that wait for their turn.
        idle: seconds without a message after which a client is sent away.
        hello: seconds that a client has to say what it wants.
        refusals: frames in a row that can't be used after which a client is sent away.
        unread: answers that a client has not read after which it is sent away.

    Raises:
        ValueError: numbers below 1, or not above 0.
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
    """So much a second on average, and a second's worth at once: a bucket that fills by itself.

    Example:
        >>> now = 0.0
        >>> frames = Allowance(2, lambda: now)
        >>> [frames.take() for _ in range(3)]
        [0.0, 0.0, 0.5]
        >>> now = 0.5
        >>> frames.take()
        0.0

    Args:
        rate: what comes in, a second.
        clock: seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = monotonic):
        self._rate, self._clock, self._most = rate, clock, max(1.0, rate)
        self._held, self._latest = self._most, clock()

    def take(self, amount: float = 1.0) -> float:
        """Takes so much and gives 0; or takes nothing and gives the seconds until there is enough.

        More than fits is taken when it is full, and owed.
        """
        now = self._clock()
        self._held = min(self._most, self._held + (now - self._latest) * self._rate)
        self._latest = now
        wanted = min(amount, self._most)
        if self._held < wanted - 1e-9:
            return max((wanted - self._held) / self._rate, math.ulp(1.0))
        self._held -= amount
        return 0.0
