"""One client's stream: its frames arrive on the server's loop, and are processed in the stream's own thread."""

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from prernn.serving.limits import Limits
from prernn.serving.mailbox import Arrived, Mailbox, Order
from prernn.serving.messages.activity import Activity
from prernn.serving.messages.answers import most_probable, plain_row
from prernn.serving.messages.hello import Hello, packed_state, unpacked_state
from prernn.serving.messages.pictures import picture, stamped
from prernn.serving.metrics import Metrics
from prernn.serving.model import Model, streams_of

Answer = Callable[[dict[str, Any]], None]
"""Takes a client's messages, from any thread."""

LOG = logging.getLogger("prernn.serving")


class _Shown(NamedTuple):
    """A frame on its way through the clock."""

    arrived: Arrived
    picture: np.ndarray


class Session:
    """Follows a client's frames with the task's watcher, and answers each.

    Each message has a ``type``. "started" is the first. Each of the client's frames has one answer, with the frame's
    number as ``message``: "frame" if the network sees it, with ``frame`` and ``time_s`` of the network's clock,
    ``rows`` as `prernn stream` writes them, ``dropped`` so far, and ``waited_ms`` from arrival to answer; "skipped" if
    the clock does not need it; "dropped" if newer or too many frames came; "refused" with the ``error`` if it is
    invalid. A tick without a new frame gives one more "frame" with ``held`` true. Orders are answered by "reset" and
    "state"; at the end comes "end" with the rows that were still due, and counts. If the hello asks for them, a
    "frame" has ``top`` for a task whose rows are events (gestures), and ``activity``, as returned by `Activity`.

    Args:
        model: what is served.
        hello: what the client wants.
        limits: what it may do.
        metrics: the counters to update.
        answer: takes its messages, from any thread.
        on_room: called, from any thread, when there is room for another frame.
        on_end: called with the reason, from the session's thread, when it has sent its last message.
        state: a state to continue from, as bytes of safetensors; None starts from zero.

    Attributes:
        mailbox: the frames waiting to be processed.
        counts: number of frames by outcome.

    Raises:
        ValueError: the network can't do what the hello asks for.
    """

    def __init__(
        self,
        model: Model,
        hello: Hello,
        limits: Limits,
        metrics: Metrics,
        answer: Answer,
        on_room: Callable[[], None] = lambda: None,
        on_end: Callable[[str], None] = lambda why: None,
        state: bytes | None = None,
    ):
        self.model, self.hello, self.limits, self.metrics = model, hello, limits, metrics
        self._answer, self._on_end = answer, on_end
        self._raw = hello.raw(limits.pixels)
        if isinstance(hello.fps, float) and hello.fps > limits.fps:
            raise ValueError(f"fps: expected at most the limit of {limits.fps:g} frames a second, got {hello.fps:g}")
        self._watcher, self._pace = model.watcher(hello.reset), model.clock(hello.fps)
        self._load(state)
        self._activity = Activity(hello.activity) if hello.activity else None
        self.mailbox = Mailbox(limits.queue, hello.drop == "oldest", on_room)
        self.counts: Counter[str] = Counter()
        self._refused_in_a_row, self._ending, self._begin = 0, "", perf_counter()
        self._ticks, self._latest = itertools.count(), -1  # ticks of the clock; the number of the latest frame shown
        self._clocks: list[str] = []  # what each clock counted
        self._anew = False  # whether the clock's frames ended with a reset order
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def start(self, number: int) -> None:
        """Sends the first message to the client, and begins."""
        known = {"labels": self.model.labels, "task": self.model.task.name, "fps": self._pace.rate}
        begun = "state" if self.hello.state else "zero"
        self._answer({"type": "started", "stream": number, "from": begun, **known})
        self._thread.start()

    def offer(self, data: bytes) -> None:
        """Takes a frame, on the server's loop; if the mailbox is full and may drop frames, the oldest is dropped."""
        if self.mailbox.ended:
            return
        number = self.counts["received"]
        self.counts["received"] += 1
        if (gone := self.mailbox.put(Arrived(number, perf_counter(), data))) is not None:
            self._drop(gone.number)

    def skip(self) -> None:
        """Drops a frame that came too fast."""
        if not self.mailbox.ended:
            self.counts["received"] += 1
            self.counts["too many"] += 1
            self._drop(self.counts["received"] - 1)

    def _drop(self, number: int) -> None:
        self.metrics.frames.labels("dropped").inc()
        self._say("dropped", message=number)

    def order(self, order: Order) -> None:
        """Takes an order, which is carried out after the frames before it."""
        self.mailbox.put(order)

    def end(self, why: str, *, at_once: bool = False) -> None:
        """Takes no more; waiting frames are still answered, unless it is to end at once.

        That a client has left is no reason if there is one already: who is sent away leaves too, maybe before the
        session's thread reports why.
        """
        if why != "left" or not self._ending:
            self._ending = why
        self.mailbox.end(at_once=at_once)

    def _run(self) -> None:
        torch.set_num_threads(1)  # in this thread: its work is small, and there are many threads
        try:
            while not self._follow_clock():
                pass
            if not self.mailbox.stopped:
                self._say("end", rows=self._plain(self._watcher.finish()), **self._totals())
        except Exception:
            self._ending = "error"
            LOG.exception("a stream ended")
            self._say("error", error="internal error; the server's log has it")
        self._on_end(self._ending or "end")

    def _follow_clock(self) -> bool:
        """Follows frames by one clock, until the end or a reset order; returns whether it was the end."""
        self._anew = False
        for time, shown in self._pace(self._frames()):
            if self.mailbox.stopped:
                return True
            self._follow(time, shown)
        self._clocks += [str(self._pace.counts)] if str(self._pace.counts) else []
        if self._anew:
            rows = self._plain(self._watcher.finish())
            self._watcher, self._pace = self.model.watcher(self.hello.reset), self.model.clock(self.hello.fps)
            if self._activity is not None:
                self._activity.forget()
            self._say("reset", rows=rows)
        return not self._anew

    def _frames(self) -> Iterator[tuple[float, _Shown]]:
        """The usable frames with their times, as they come, until the end or a reset order."""
        while (item := self.mailbox.take()) is not None:
            if item == "reset":
                self._anew = True
                return
            if item == "state":
                self._give_state()
            elif isinstance(item, Arrived) and (usable := self._usable(item)) is not None:
                if item.late:
                    self._pace.fell_behind()
                yield usable
                if (
                    self._latest < item.number and not self.mailbox.stopped
                ):  # the clock needs another frame, or this one later
                    self._latest = item.number
                    self.counts["skipped"] += 1
                    self.metrics.frames.labels("skipped").inc()
                    self._say("skipped", message=item.number)

    def _usable(self, item: Arrived) -> tuple[float, _Shown] | None:
        time, data = item.time - self._begin, item.data
        try:
            if self.hello.times:
                time, data = stamped(data)
            return time, _Shown(item, picture(data, self._raw, self.limits.pixels))
        except ValueError as error:
            self._refuse(item.number, error)
            self._latest = item.number
            return None

    def _follow(self, time: float, shown: _Shown) -> None:
        number, tick = shown.arrived.number, next(self._ticks)
        held, self._latest = number <= self._latest, max(number, self._latest)
        try:
            rows = self._watcher.see(tick, time, shown.picture)
        except (ValueError, NotImplementedError) as error:
            self._refuse(number, error)
            return
        self._refused_in_a_row = 0
        waited = perf_counter() - shown.arrived.time
        self.counts["held" if held else "answered"] += 1
        self.metrics.frames.labels("held" if held else "answered").inc()
        at = {"message": number, "frame": tick, "time_s": round(time, 3), **self._more()}
        if held:
            at["held"] = True
        else:
            self.metrics.answer.observe(waited)
        self._say("frame", **at, rows=self._plain(rows), dropped=self.dropped, waited_ms=round(waited * 1e3, 2))

    def _more(self) -> dict[str, Any]:
        """What the client asked for in addition to rows."""
        more: dict[str, Any] = {}
        probabilities = getattr(self._watcher, "probabilities", None)
        if self.hello.top and probabilities is not None:
            more["top"] = most_probable(probabilities, self.model.labels, self.hello.top)
        if self._activity is not None:
            more["activity"] = self._activity(streams_of(self._watcher))
        return more

    def _refuse(self, number: int, error: Exception) -> None:
        self.counts["refused"] += 1
        self._refused_in_a_row += 1
        self.metrics.frames.labels("refused").inc()
        self._say("refused", message=number, error=str(error))
        if self._refused_in_a_row >= self.limits.refusals:
            self._say("error", error=f"{self._refused_in_a_row} frames in a row could not be used")
            self.end("refused", at_once=True)

    def _give_state(self) -> None:
        try:
            self._say("state", state=packed_state([stream.state_dict() for stream in streams_of(self._watcher)]))
        except NotImplementedError as error:
            self._say("refused", error=str(error))

    def _load(self, state: bytes | None) -> None:
        """Continues from a state that a client has saved."""
        if state is None:
            return
        streams = streams_of(self._watcher)
        try:
            for stream, values in zip(streams, unpacked_state(state, len(streams)), strict=True):
                stream.load_state_dict(values)
        except ValueError:
            raise
        except Exception as error:  # tensors that never came from a stream
            raise ValueError(f"state: expected one of this network's streams: {error}") from error

    @property
    def dropped(self) -> int:
        """Frames that were not processed because newer or too many frames came."""
        return self.mailbox.dropped + self.counts["too many"]

    def _totals(self) -> dict[str, Any]:
        counts = {name: self.counts[name] for name in ("received", "answered", "skipped", "refused", "held")}
        return {**counts, "dropped": self.dropped, "clock": "; ".join(self._clocks)}

    def _plain(self, rows: list[Any]) -> list[dict[str, Any]]:
        return [plain_row(row, self.model.labels, self.hello.top) for row in rows]

    def _say(self, kind: str, **values: Any) -> None:
        self._answer({"type": kind, **values})
