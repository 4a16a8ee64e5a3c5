"""What a client has sent and nobody has looked at yet: a queue between the server's loop and a stream's thread."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

Order = Literal["reset", "state"]


class Arrived(NamedTuple):
    """A frame that has come.

    Attributes:
        number: of the client's frames, from 0, those that were dropped counted.
        time: of arrival, reading of `time.perf_counter`.
        data: the message.
        late: whether some before it were dropped, as those before took too long.
    """

    number: int
    time: float
    data: bytes
    late: bool = False


class Mailbox:
    """Frames and orders in the order in which they came; of frames at most ``size``.

    Args:
        size: frames that wait.
        drops: whether a frame that comes when it is full takes the place of the oldest; else `full` says that the
            client is to wait.
        on_room: called, by the thread that takes, when a frame has been taken.

    Attributes:
        dropped: frames whose place was taken.
    """

    def __init__(self, size: int, drops: bool, on_room: Callable[[], None] = lambda: None):
        self.dropped = 0
        self._size, self._drops, self._on_room = size, drops, on_room
        self._waiting: deque[Arrived | Order] = deque()
        self._frames, self._ended, self._stopped = 0, False, False
        self._late = False  # whether the next frame is
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether nothing more is taken in."""
        return self._ended

    @property
    def stopped(self) -> bool:
        """Whether it has ended at once: what was taken is not to be followed any more."""
        return self._stopped

    @property
    def full(self) -> bool:
        """Whether another frame has to wait."""
        return not self._drops and self._frames >= self._size

    def put(self, item: Arrived | Order) -> Arrived | None:
        """Adds a frame or an order; gives the frame that had to go for it. After the end nothing is added."""
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
        """The next one, once there is one; None when it has ended and nothing is left."""
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
        """Takes nothing more; what waits is still given, unless it is to end at once."""
        with self._changed:
            self._ended = True
            if at_once:
                self._stopped = True
                self._waiting.clear()
                self._frames = 0
            self._changed.notify()
        self._on_room()  # who waits for it is to see that it has ended
