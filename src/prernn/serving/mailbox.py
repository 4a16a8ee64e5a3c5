"""Messages that a client has sent but are not processed yet: a queue from the server's loop to a stream's thread."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

Order = Literal["reset", "state"]


class Arrived(NamedTuple):
    """A frame that has arrived.

    Attributes:
        number: of the client's frames, from 0, including dropped ones.
        time: of arrival, a value of `time.perf_counter`.
        data: the message.
        late: whether frames before it were dropped because earlier ones took too long.
    """

    number: int
    time: float
    data: bytes
    late: bool = False


class Mailbox:
    """Frames and orders in order of arrival, with at most ``size`` frames.

    Args:
        size: number of frames that may wait.
        drops: whether a frame that arrives when it is full replaces the oldest; otherwise `full` says that the client
            must wait.
        on_room: called, by the thread that takes, when a frame has been taken.

    Attributes:
        dropped: number of frames that were replaced.
    """

    def __init__(self, size: int, drops: bool, on_room: Callable[[], None] = lambda: None):
        self.dropped = 0
        self._size, self._drops, self._on_room = size, drops, on_room
        self._waiting: deque[Arrived | Order] = deque()
        self._frames, self._ended, self._stopped = 0, False, False
        self._late = False  # whether the next frame is late
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether it accepts nothing more."""
        return self._ended

    @property
    def stopped(self) -> bool:
        """Whether it was ended at once: what was taken is not to be processed any more."""
        return self._stopped

    @property
    def full(self) -> bool:
        """Whether another frame has to wait."""
        return not self._drops and self._frames >= self._size

    def put(self, item: Arrived | Order) -> Arrived | None:
        """Adds a frame or an order; returns the frame that it replaced. After the end nothing is added."""
        with self._changed:
            if self._ended:
                return None
            gone = None
            if isinstance(item, Arrived) and self._frames >= self._size:
                gone = next(waiting for waiting in self._waiting if isinstance(waiting, Arrived))
                self._waiting.remove(gone)
                self.dropped += 1
                self._late = True
            elif isinstance(item, Arrived):
                self._frames += 1
            self._waiting.append(item)
            self._changed.notify()
            return gone

    def take(self) -> Arrived | Order | None:
        """The next item, once there is one; None when it has ended and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            if isinstance(item, Arrived):
                self._frames -= 1
                item, self._late = item._replace(late=self._late), False
        if isinstance(item, Arrived):
            self._on_room()
        return item

    def end(self, *, at_once: bool = False) -> None:
        """Accepts nothing more; waiting items can still be taken, unless it is to end at once."""
        with self._changed:
            self._ended = True
            if at_once:
                self._stopped = True
                self._waiting.clear()
                self._frames = 0
            self._changed.notify()
        self._on_room()  # a thread that waits for room must see that it has ended
