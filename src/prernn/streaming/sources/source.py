"""A robust source: what is read from it, when it counts as lost, and how it comes back."""

import math
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

from prernn.layers.arguments import whole
from prernn.media.source import Address, VideoError, locate
from prernn.media.video import Reading, read_pictures
from prernn.streaming.sources.clock import Clock
from prernn.streaming.sources.frames import SourceCounts, SourceFrame
from prernn.streaming.sources.policy import BACK_OFF, BY_KIND, STORED, Policy, drop_policy, pause
from prernn.streaming.sources.reading import GLANCE, Arrived, FrameQueue, start_reading

READ_AHEAD = 4
"""Queue size when no frame may be lost, so that reading continues while the network computes."""

MOST_LEFT = 4
"""Number of reading threads that may hang in a driver or socket; with one more the source is given up."""

OPENING = 10.0
"""Seconds that opening a source may take even if ``timeout`` is less, as FFmpeg first looks at seconds of a stream."""

FAREWELL = 1.0
"""Seconds that `Source.close` waits for the reading thread, which ends with the frame it is reading."""

Reconnect = int | Literal["never", "always"]


class Source:
    """Reads a video file, a folder of frames, a camera, a network stream or a pipe as frames: iterate over it.

    It is read in its own thread. If it is lost, it is reconnected, and if frames come faster than they are taken, a
    policy decides which are dropped. The defaults depend on the kind of source:

    | source | ``drop`` | ``timeout`` | ``reconnect`` |
    |---|---|---|---|
    | file, folder | "none" | never | 0 |
    | named pipe, "-" | "none" | 10 s | 0 |
    | camera, network stream | "oldest" | 10 s | 8 |
    | network stream that states its length, a recording | "none" | 10 s | 0 |

    A source counts as lost when no frame has come for ``timeout`` seconds (at least 10 while it is being opened), for
    whatever reason; when reading fails; or when it ends though it states no length. Then it is reconnected, after 0.5,
    1, 2, ... 30 s, up to ``reconnect`` times until a frame comes. Across reconnections, times follow this machine's
    clock. A source that has never delivered a frame is not retried, because its name may be wrong. A thread that hangs
    is abandoned; what it finally reads is discarded.

    Example:
        >>> import prernn, numpy as np, tempfile
        >>> from prernn.media.encoding import write_video
        >>> path = tempfile.mkdtemp() + "/a.mp4"
        >>> write_video(path, np.zeros((6, 48, 64, 3), np.uint8), fps=10)
        6
        >>> with prernn.Source(path, drop="every:2") as source:
        ...     [(frame.index, frame.time, frame.dropped) for frame in source]
        [(0, 0.0, 0), (2, 0.2, 1), (4, 0.4, 1)]
        >>> str(source.counts)
        '3 of 6 frames dropped'

    Args:
        address: anything that `prernn.media.video.read_frames` reads.
        drop: "none", "oldest" or "every:N" (`prernn.streaming.sources.policy`).
        queue: number of frames that may wait; None is 1 for "oldest", so that each frame taken is the newest, else 4.
        timeout: seconds without a frame; infinity waits forever.
        reconnect: number of consecutive attempts, "never" (0) or "always".
        back_off: seconds before the first attempt, and the maximum.
        fps: the rate of a folder of frames.
        deinterlace: deinterlace frames that are marked as interlaced.

    Attributes:
        address: as given.
        kind: "file", "folder", "camera", "stream" or "pipe".
        live: whether it is one of the last three, which can be read only once.
        counts: what became of the frames, up to the last one taken.

    Raises:
        ValueError: an invalid option; also VideoError, a ValueError, for a source that doesn't exist and (at the first
            frame or later) for one that can't be read or is lost for good.
    """

    def __init__(
        self,
        address: Address,
        *,
        drop: str | None = None,
        queue: int | None = None,
        timeout: float | None = None,
        reconnect: Reconnect | None = None,
        back_off: tuple[float, float] = BACK_OFF,
        fps: float = 25.0,
        deinterlace: bool = False,
    ):
        place = locate(address)
        defaults = BY_KIND[place.kind]
        self.address, self.kind, self.live, self.counts = address, place.kind, place.live, SourceCounts()
        self._drop, self._size = drop_policy(drop or defaults.drop), queue
        self._timeout = _checked_timeout(defaults.timeout if timeout is None else timeout)
        self._tries = _tries(defaults.reconnect if reconnect is None else reconnect)
        if self._tries and (not place.live or address == "-"):
            raise ValueError(f"reconnect: expected a source that can be opened again, got {address}")
        if queue is not None:
            whole("queue", queue, 1)
        self._stored_differs = (drop is None, reconnect is None) if place.kind == "stream" else (False, False)
        self._back_off, self._fps, self._deinterlace = back_off, fps, deinterlace
        self._queue: FrameQueue | None = None
        self._forget: Callable[[], object] = lambda: None
        self._thread: threading.Thread | None = None
        self._over = False
        self._failed, self._hanging = 0, list[threading.Thread]()  # attempts since the latest frame
        self._base, self._fresh, self._told = (
            0,
            True,
            0,
        )  # frames of earlier connections; no frame of this one yet; dropped frames already reported
        self._clock, self._time = Clock(bursts=place.kind in ("camera", "stream")), 0.0  # of the latest frame
        self._shape: tuple[int, ...] = ()

    @property
    def lossless(self) -> bool:
        """Whether each frame is taken, and the source is never reconnected."""
        return self._drop == Policy() and not self._tries

    def __iter__(self) -> Iterator[SourceFrame]:
        return self

    def __next__(self) -> SourceFrame:
        if self._queue is None and not self._over:
            self._connect()
        while not self._over:
            assert self._queue is not None
            arrived = self._queue.take(self._patience(self._queue), lambda: self._over)
            if arrived is not None:
                return self._handed_out(arrived)
            if not self._over:
                self._go_on(self._queue)
        self.close()
        raise StopIteration

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def stop(self) -> None:
        """Ends the iteration, at once even while it waits: for a signal handler, or another thread."""
        self._over = True

    def close(self) -> None:
        """Ends the reading thread; frames that were read ahead are discarded, and not counted."""
        self._over = True
        if self._queue is not None:
            self._queue.close()
        if self._thread is not None:
            self._thread.join(0 if self._thread in self._hanging else FAREWELL)

    def _connect(self) -> None:
        queue = FrameQueue(self._queue_size(self._drop), self._drop)
        stored = drop_policy(STORED.drop) if self._stored_differs[0] else self._drop
        on_open = partial(_opened, queue, self.kind == "stream", self._queue_size(stored), stored)
        limits = (self._timeout, OPENING, queue.is_closed)
        reading = Reading(self._fps, False, self._deinterlace, queue.jumped, on_open, *limits)
        self._base, self._fresh, self._queue = self.counts.read, True, queue
        self._forget()
        self._forget = weakref.finalize(self, queue.close)  # a garbage-collected source leaves no thread behind
        self._thread = start_reading(partial(read_pictures, self.address, reading), queue, str(self.address))

    def _queue_size(self, policy: Policy) -> int:
        return self._size or (READ_AHEAD if policy.waits else 1)

    def _patience(self, queue: FrameQueue) -> float:
        """Seconds to wait for a sign of life."""
        return max(self._timeout, OPENING) if queue.stored is None else self._timeout

    def _handed_out(self, arrived: Arrived) -> SourceFrame:
        counts, reconnected = self.counts, self._fresh and self.counts.shown > 0
        gap, self._time = arrived.at - self._clock.arrived, self._clock.time_of(arrived, reconnected)
        if reconnected:
            counts.reconnected += 1
            self._say(f"back after {gap:.1f} s, at {self._time:.1f} s")
        self._fresh, self._failed = False, 0
        counts.shown += 1
        self._count(self._base + arrived.number + 1)
        dropped, self._told = counts.dropped - self._told, counts.dropped
        resized = bool(self._shape) and arrived.picture.shape != self._shape
        counts.resized += resized
        self._shape = arrived.picture.shape
        assert self._queue is not None
        jumps, index = self._queue.jumps(), self._base + arrived.number
        late = dropped > 0 and not self._drop.waits and not reconnected
        return SourceFrame(index, self._time, arrived.picture, dropped, reconnected, resized, jumps, arrived.at, late)

    def _count(self, read: int) -> None:
        self.counts.read, self.counts.dropped = read, read - self.counts.shown

    def _go_on(self, queue: FrameQueue) -> None:
        """Handles a missing frame: ends, raises, or reconnects."""
        frozen = not queue.ended
        queue.close()
        self._count(self._base + queue.read)
        error = queue.error
        if error is not None and not isinstance(error, VideoError):
            self.close()
            raise error
        if frozen:
            self.counts.timeouts += 1
            error = VideoError(f"{self.address}: no frame for {self._patience(queue):g} s")
        tries = 0 if queue.stored and self._stored_differs[1] else self._tries
        if error is None and (not tries or queue.stored):
            self.close()
            return
        if not tries or self.counts.shown == 0:
            self.close()
            raise error or VideoError(f"{self.address}: ended before its first frame")
        reason = "it ended" if error is None else str(error).removeprefix(f"{self.address}: ")
        self._connect_again(reason, tries)

    def _connect_again(self, reason: str, tries: float) -> None:
        if self._failed >= tries:
            self.close()
            many = "a try" if self._failed == 1 else f"{self._failed} tries"
            raise VideoError(f"{self.address}: lost at {self._time:.1f} s, and for good after {many}: {reason}")
        if not self._failed:
            self._say(f"lost at {self._time:.1f} s, connecting again: {reason}")
        until = time.monotonic() + pause(self._failed, self._back_off)
        while not self._over and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, GLANCE))
        self._note_hanging()
        if self._over:
            return
        self._failed += 1
        self.counts.tries += 1
        self._connect()

    def _note_hanging(self) -> None:
        """Keeps track of threads that do not end.

        Raises:
            VideoError: too many threads hang.
        """
        if self._thread is not None and self._thread.is_alive():
            self._hanging.append(self._thread)
            self.counts.abandoned += 1
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) > MOST_LEFT:
            self.close()
            many = len(self._hanging)
            raise VideoError(f"{self.address}: given up, as {many} readers hang in its driver or socket")

    def _say(self, text: str) -> None:
        warnings.warn(f"{self.address}: {text}", RuntimeWarning, stacklevel=4)


def as_source(source: "Address | Source", *, fps: float = 25.0, deinterlace: bool = False) -> Source:
    """A source unchanged, or one made from an address."""
    return source if isinstance(source, Source) else Source(source, fps=fps, deinterlace=deinterlace)


def _opened(queue: FrameQueue, may_be_stored: bool, size: int, policy: Policy, stored: bool) -> None:
    """Tells the queue that the source is open: a recording is read in its own way."""
    stored = stored and may_be_stored
    queue.open(stored, (size, policy) if stored else None)


def _checked_timeout(seconds: float) -> float:
    if not seconds > 0:
        raise ValueError(f"timeout: expected seconds above 0, got {seconds}")
    return seconds


def _tries(reconnect: Reconnect) -> float:
    """Number of attempts to reconnect, infinity for "always"."""
    words = {"never": 0, "always": math.inf}
    tries = words.get(reconnect, reconnect) if isinstance(reconnect, str) else reconnect
    if isinstance(tries, str) or not (tries == math.inf or (tries >= 0 and tries == int(tries))):
        raise ValueError(f"reconnect: expected a number of tries from 0 on, never or always, got {reconnect!r}")
    return tries
