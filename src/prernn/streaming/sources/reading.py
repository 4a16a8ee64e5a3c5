"""One connection to a source: the thread that reads it, and the queue between it and the consumer of the frames.

A thread that hangs in a driver or a socket can't be ended; one that waits for a pipe polls whether to continue. So the
consumer has the time limit: it abandons the thread, and a closed queue accepts nothing more. The thread knows only its
own queue, so what it finally reads can't reach a newer connection.
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
"""Times, and functions that make each picture, as `prernn.media.video.read_pictures` yields them."""

GLANCE = 0.1
"""Interval in seconds at which a waiting thread checks whether to keep waiting."""


class Arrived(NamedTuple):
    """A frame in the queue.

    Attributes:
        number: its number in the connection, from 0.
        time: seconds since the first frame of the connection.
        picture: uint8 ``(H, W, 3)``.
        at: value of `time.monotonic` when it had been decoded.
    """

    number: int
    time: float
    picture: np.ndarray
    at: float


class FrameQueue:
    """Frames that wait, at most ``size``; when it is full, the reader waits or the oldest frame is lost.

    Attributes:
        read: frames that the source has delivered, including dropped ones.
        ended: whether the source has ended, normally or with ``error``.
        error: the exception that ended it.
        stored: whether the source is a recording; None while this is unknown because it is not open yet.
    """

    def __init__(self, size: int, policy: Policy):
        self.read, self.ended = 0, False
        self.error: BaseException | None = None
        self.stored: bool | None = None
        self._size, self._policy = size, policy
        self._frames: deque[Arrived] = deque()
        self._jumps: list[float] = []
        self._closed = False
        self._alive = monotonic()  # when the reader last showed a sign of life
        self._changed = threading.Condition()

    def open(self, stored: bool, manner: tuple[int, Policy] | None = None) -> None:
        """Notes that the source is open, and the size and policy with which it is read from now on, if they change."""
        with self._changed:
            self.stored, self._alive = stored, monotonic()
            self._size, self._policy = manner or (self._size, self._policy)

    def jumped(self, seconds: float) -> None:
        """Notes a jump of the time stamps."""
        with self._changed:
            self._jumps.append(seconds)

    def put(self, time: float, picture: Callable[[], np.ndarray]) -> bool:
        """Takes a frame from the reader, or skips it; returns whether to continue."""
        at, number = monotonic(), self.read
        wanted = number % self._policy.every == 0 and not self._closed
        frame = Arrived(number, time, picture(), at) if wanted else None  # outside the lock, because it takes a while
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
        """The next frame; None if there are no more, none came for ``patience`` seconds, or ``over`` becomes true."""
        with self._changed:
            while not self._frames:
                left = self._alive + patience - monotonic()
                if self.ended or left <= 0 or over():
                    return None
                self._changed.wait(min(left, GLANCE))
            if over():
                return None
            if self._full() and self._policy.waits:
                self._alive = monotonic()  # the reader may have been waiting for this, not for the source
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def jumps(self) -> tuple[float, ...]:
        """The jumps since the last call."""
        with self._changed:
            jumps, self._jumps = tuple(self._jumps), []
        return jumps

    def is_closed(self) -> bool:
        """Whether frames are no longer taken."""
        return self._closed

    def close(self) -> None:
        """Discards the waiting frames, and ends the reader as soon as it has another frame."""
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._changed.notify_all()


def start_reading(open_pictures: Callable[[], Pictures], queue: FrameQueue, name: str) -> threading.Thread:
    """Reads into a queue, in a daemon thread that needs no join."""
    thread = threading.Thread(target=_read, args=(open_pictures, queue), name=f"prernn reads {name}", daemon=True)
    thread.start()
    return thread


def _read(open_pictures: Callable[[], Pictures], queue: FrameQueue) -> None:
    try:
        pictures = open_pictures()
        assert isinstance(pictures, Generator)  # so that it can be closed, with everything it has open
        with closing(pictures):
            for time, picture in pictures:
                if not queue.put(time, picture):
                    break
    except BaseException as error:
        queue.end(error)
    else:
        queue.end(None)
