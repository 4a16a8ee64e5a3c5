"""Follows a stream of actions: the class of each moment."""

import os
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, TextIO

import numpy as np

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.streaming.drawing import EventStrip, annotate
from prernn.streaming.events import EventSpan, EventTracker
from prernn.streaming.pace import FOLDER_RATE, Rate, clock_for
from prernn.streaming.prediction import Prediction, predict
from prernn.streaming.rows import csv_rows
from prernn.streaming.stream import Stream
from prernn.tasks.confidence import Confidence

if TYPE_CHECKING:  # imported when first used, as it loads PyAV
    from prernn.media.source import Address
    from prernn.streaming.sources.source import Source
from prernn.streaming.watch import watch


class ClassWatcher:
    """Predicts the class of each moment: rows are `Prediction`, one per frame (per snippet, for networks of snippets).

    Args:
        nets: networks, or streams to continue; the probabilities of several are averaged (two-stream recognition).
        tracker: finds events in the probabilities, which are drawn on a strip of the last seconds.
        events: report the events as rows too, as `EventSpan`, when they begin and when they have ended.
        confidence: calibrates probabilities, and says below which an answer is "unknown"; None leaves them unchanged.

    Raises:
        ValueError: no network, or networks with different labels; ``events`` without a tracker.
    """

    def __init__(
        self,
        *nets: SequenceNetwork | Stream,
        tracker: EventTracker | None = None,
        events: bool = False,
        confidence: Confidence | None = None,
    ) -> None:
        if events and tracker is None:
            raise ValueError("events: expected a tracker that finds them, got None")
        self._tracker, self._events = tracker, events
        self._confidence = Confidence() if confidence is None else confidence
        self._strip = EventStrip()
        self.streams = [net if isinstance(net, Stream) else Stream(net) for net in nets]
        labels = [stream.labels for stream in self.streams]
        if not labels or any(other != labels[0] for other in labels):
            raise ValueError(f"expected one network, or several with the same labels, got the labels {labels}")
        self._flows: list[Callable[[np.ndarray], np.ndarray] | None] = []
        self._size: tuple[int, ...] = ()  # of the previous frame
        self._latest: Prediction | None = None

    def see(self, index: int, time: float, frame: np.ndarray) -> list[Prediction | EventSpan]:
        """The row of a frame, and those of events."""
        start = perf_counter()  # before the flow, which is part of the work on this frame
        if frame.shape != self._size:  # a live source may change its size: flow is reset
            self._size, self._flows = frame.shape, [_flow_of(stream.net) for stream in self.streams]
        for i, stream in enumerate(self.streams):
            if stream.look(frame, time):  # reset the flow too, which has no meaning from one shot to the next
                self._flows[i] = _flow_of(stream.net)
        more = {i: flow(frame) for i, flow in enumerate(self._flows) if flow is not None}
        prediction = predict(self.streams, index, time, frame, more, start)
        if prediction is None:
            return []
        prediction = self._latest = self._confidence.of(prediction)
        if self._tracker is None:
            return [prediction]
        found = self._tracker.push(index, time, prediction.probabilities)
        self._strip.add(found)
        return [prediction, *(found if self._events else [])]

    def interrupted(self) -> None:
        """Tells it that pictures are missing before the next one, so there is no flow between them."""
        self._size = ()
        for stream in self.streams:
            stream.interrupted()

    def finish(self) -> list[EventSpan]:
        """The events that end with the source."""
        found = self._tracker.finish() if self._tracker is not None else []
        self._strip.add(found)
        return found if self._events else []

    def draw(self, frame: np.ndarray) -> np.ndarray:
        if self._latest is None:
            return frame
        shown = annotate(frame, self._latest)
        return shown if self._tracker is None else self._strip.draw(shown, self._latest.time)


def _flow_of(net: SequenceNetwork) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function that makes stacked optical flow from a stream's frames, for a network of the flow stream."""
    options = net.recipe.task.options if net.recipe.task else {}
    if options.get("stream") != "flow":
        return None
    from prernn.media.flow import FlowSettings, FlowStack

    return FlowStack(FlowSettings(**options["flow"]), options["stack"])


def stream_video(
    net: SequenceNetwork | Stream,
    source: "Address | Source",
    *,
    csv: str | os.PathLike | TextIO | None = None,
    video: str | os.PathLike | None = None,
    on_prediction: Callable[[Prediction], None] | None = None,
    limit: int | None = None,
    fps: float | None = None,
    rate: Rate = None,
) -> int:
    """Runs a network that predicts classes over a source, like `watch`; returns how many frames it saw.

    Args:
        net: the network, or a stream to continue.
        source: anything that `prernn.media.video.read_frames` reads, or a `prernn.Source`.
        csv: where to write rows, see `prernn.streaming.rows.write_csv`; for a source that may lose frames or
            connections, with the columns dropped and reconnected.
        video: an mp4 with the annotated frames, at the rate at which they are seen.
        on_prediction: called with each prediction as it arrives.
        limit: stop after this many frames.
        fps: the rate of a folder of frames; None takes the network's, or else 25.
        rate: rate at which the network sees the source, as in `prernn.streaming.prediction.predictions`.

    Raises:
        ValueError, OSError: as in `watch`; a network without a transform.
    """
    from prernn.streaming.sources.source import as_source

    watcher = ClassWatcher(net)
    pace = clock_for([stream.net for stream in watcher.streams], rate)
    opened = as_source(source, fps=fps or pace.rate or FOLDER_RATE)
    rows = None if csv is None else csv_rows(csv, lost=not opened.lossless)
    return watch(watcher, opened, rows=rows, video=video, on_row=on_prediction, limit=limit, fps=fps, pace=pace)
