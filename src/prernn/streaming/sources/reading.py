"""One connection to a source: the thread that reads it, and the queue between it and whoever takes the frames.

A thread that hangs in a driver or a socket can't be ended; one that waits for a pipe asks whether to go on. So the one
who takes has the time limit: it turns away, and a queue that was closed takes nothing any more. The thread knows its
own queue alone, so that what it reads at last can reach no newer connection.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from time import monotonic
from typing import NamedTuple

import numpy as np

from prernn.streaming.sources.policy import Policy

Pictures = Iterator[tuple[float, Callable[[], np.ndarray]]]
"""Times, and what makes each picture, as `prernn.media.video.read_pictures` yields them."""

GLANCE = 0.1
"""Seconds after which whoever waits looks whether it is to go on waiting."""


class Arrived(NamedTuple):
    """A frame in the queue.

    Attributes:
        number: in its connection, from 0.
        time: in seconds since the first of the connection.
        picture: uint8 ``(H, W, 3)``.
        at: reading of `time.monotonic` when it had been decoded.
    """

    number: int
    time: float
    picture: np.ndarray
    at: float


class FrameQueue:
    """Frames that wait, at most ``size``; a full one makes the reader wait, or loses the oldest.

    Attributes:
        read: frames that the source has given, dropped ones included.
        ended: whether the source has ended, of itself or with ``error``.
        error: that ended it.
        stored: whether the source is a recording; None as long as it is not open, and that isn't known.
    """

    def __init__(self, size: int, policy: Policy):
        self.read, self.ended = 0, False
        self.error: BaseException | None = None
        self.stored: bool | None = None
        self._size, self._policy = size, policy
        self._frames: deque[Arrived] = deque()
        self._jumps: list[float] = []
        self._closed = False
        self._alive = monotonic()  # when the reader last gave a sign of life
        self._changed = threading.Condition()

    def open(self, stored: bool, manner: tuple[int, Policy] | None = None) -> None:
        """Notes that the source is open, and in what size and policy it is read from now on, where they are others."""
        with self._changed:
            self.stored, self._alive = stored, monotonic()
            self._size, self._policy = manner or (self._size, self._policy)

    def jumped(self, seconds: float) -> None:
        """Notes a jump of the time stamps."""
        with self._changed:
            self._jumps.append(seconds)

    def put(self, time: float, picture: Callable[[], np.ndarray]) -> bool:
        """Takes a frame from the reader, or leaves it out; says whether to go on."""
        at, number = monotonic(), self.read
        wanted = number % self._policy.every == 0 and not self._closed
        frame = Arrived(number, time, picture(), at) if wanted else None  # outside of the lock, it takes a while
        with self._changed:
            while frame is not None and self._full() and self._policy.waits and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self.read, self._alive = number + 1, monotonic()
            if frame is not None:
                if self._full():
                    self._frames.popleft()
                self._frames.append(frame)
                self._changed.notify_all()
            return True

    def _full(self) -> bool:
        return len(self._frames) >= self._size

    def end(self, error: BaseException | None) -> None:
        """Notes that there are no further frames."""
        with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()

    def take(self, patience: float, over: Callable[[], bool]) -> Arrived | None:
        """The next frame; None when there is none any more, none came for ``patience`` seconds, or it is ``over``."""
        with self._changed:
            while not self._frames:
                left = self._alive + patience - monotonic()
                if self.ended or left <= 0 or over():
                    return None
                self._changed.wait(min(left, GLANCE))
            if over():
                return None
            if self._full() and self._policy.waits:
                self._alive = monotonic()  # the reader may have waited for this, and not for the source
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def jumps(self) -> tuple[float, ...]:
        """The jumps since the last call."""
        with self._changed:
            jumps, self._jumps = tuple(self._jumps), []
        return jumps

    def is_closed(self) -> bool:
        """Whether nobody takes frames any more."""
        return self._closed

    def close(self) -> None:
        """Forgets what waits, and ends the reader as soon as it has another frame."""
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._changed.notify_all()


def start_reading(open_pictures: Callable[[], Pictures], queue: FrameQueue, name: str) -> threading.Thread:
    """Reads into a queue, in a thread that no one has to wait for."""
    thread = threading.Thread(target=_read, args=(open_pictures, queue), name=f"prernn reads {name}", daemon=True)
    thread.start()
    return thread


def _read(open_pictures: Callable[[], Pictures], queue: FrameQueue) -> None:
    try:
        pictures = open_pictures()
        assert isinstance(pictures, Generator)  # so that what it has open can be closed
        with closing(pictures):
            for time, picture in pictures:
                if not queue.put(time, picture):
                    break
    except BaseException as error:
        queue.end(error)
    else:
        queue.end(None)
