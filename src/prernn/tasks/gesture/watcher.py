"""Watches a video stream for hand gestures: when each begins and ends, and the command that it stands for."""

import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch

from prernn.conversion.recipe import KeptTask
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.reports.files import configuration
from prernn.streaming.drawing import EventStrip, annotate
from prernn.streaming.events import EventSpan
from prernn.streaming.prediction import Prediction
from prernn.streaming.stream import Stream
from prernn.tasks.confidence import Confidence
from prernn.tasks.events.ctc_decoders import BLANK, BeamDecoder, Decoder, Event
from prernn.tasks.events.ctc_loss import log_probs
from prernn.tasks.gesture.extent import DEFAULT_EXTENT, WholeGestures, gesture_decoder
from prernn.tasks.gesture.sure import SureGestures


class GestureWatcher:
    """Follows a source frame by frame and reports the gestures it sees; a `prernn.streaming.watch.Watcher`.

    Rows are plain data: ``event`` ("begin" or "end"); ``label``; ``begin_frame`` and ``begin_s``, the first frame of
    the gesture and its time in seconds; ``end_frame`` and ``end_s``, of the first frame after it, None in a "begin"
    (if the source ended with the gesture, ``end_s`` is the time of the last frame); ``frame`` and ``time_s`` at which
    the row was reported; ``probability``; and in a "begin" the ``command``, if the label has one. Their precision is
    the length of the network's snippets.

    Args:
        net: the network, whose recipe has labels, the first of them for no gesture; or a stream to continue.
        commands: from label to command, see `load_commands`.
        decoder: "greedy", "beam", or a decoder object; None takes that of the network's task, else greedy.
        events: also report each gesture that has ended as an `EventSpan`, with its begin and end.

    Attributes:
        probabilities: of all labels at the latest snippet, float32 ``(K,)`` on the CPU; None before the first.

    Raises:
        ValueError: a network without labels, commands for labels it does not have, an unknown decoder, several
            parallel streams.
    """

    def __init__(
        self,
        net: SequenceNetwork | Stream,
        *,
        commands: Mapping[str, str] | None = None,
        decoder: str | Decoder | None = None,
        events: bool = False,
    ) -> None:
        self.stream = net if isinstance(net, Stream) else Stream(net)
        if self.stream.batch_size != 1:
            raise ValueError(f"expected one stream for one source, got batch_size={self.stream.batch_size}")
        if not self.stream.labels:
            raise ValueError("expected a network whose recipe has labels, no gesture first, got one without")
        self.labels, self.commands = self.stream.labels, dict(commands or {})
        self._confidence = _confidence(self.stream.net.recipe.task)
        _check_labels(self.commands, self.labels[1:], "commands")
        self.decoder = _decoder(self.stream.net.recipe.task, decoder)
        self._now = (0, 0.0)  # number and time of the latest frame
        self._first: tuple[int, float] | None = None  # ... of the first frame of the snippet that is being collected
        # ... of the first frames of the latest snippets, as far back as the decoder may name one
        reach = _reach(self.decoder)
        self._starts: deque[tuple[int, float]] = deque(maxlen=None if reach is None else reach + 2)
        self._begun: dict[str, Any] = {}  # the row of the latest gesture that began
        self._label = ""  # of that gesture, which it keeps until its end
        self._steps = 0
        self.probabilities: torch.Tensor | None = None
        self._rest = 1.0  # latest probability of no gesture
        self._latency_ms = 0.0  # of the latest snippet
        self._command = ""
        self._events, self._strip = events, EventStrip()

    def see(self, index: int, time: float, frame: np.ndarray) -> list[dict[str, Any] | EventSpan]:
        """Takes the next frame, uint8 ``(H, W, 3)`` at ``time`` seconds; returns the rows that are due.

        Raises:
            ValueError: a frame that the stream can't take, outputs that don't match the labels, or are NaN.
        """
        start = perf_counter()
        self._now = (index, time)
        anew = self.stream.look(frame, time)  # together with an unfinished snippet
        self._first = self._now if anew else self._first or self._now
        out = self.stream(frame)
        if out is None:
            return []
        scores = log_probs(out, self._confidence.temperature).cpu()  # this waits for the device
        self._latency_ms = (perf_counter() - start) * 1e3
        if len(out) != len(self.labels):
            raise ValueError(f"expected {len(out)} labels, one an output, got {len(self.labels)}")
        self._starts.append(self._first)
        self._first = None
        self._steps += 1
        self.probabilities = scores.exp().float()
        self._rest = math.exp(scores[BLANK].item())
        return [row for event in self.decoder.push(scores) for row in self._rows(event)]

    def interrupted(self) -> None:
        """Tells it that pictures are missing before the next one."""
        self.stream.interrupted()

    def finish(self) -> list[dict[str, Any] | EventSpan]:
        """The rows that are due when the source has ended; then the watcher is reset, for another source."""
        rows = [row for event in self.decoder.finish() for row in self._rows(event)]
        self.stream.reset()
        self._starts.clear()
        self._first, self._steps, self._begun = None, 0, {}
        self._rest, self._command, self.probabilities = 1.0, "", None
        return rows

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A copy of ``frame`` with the gesture that is going on, or none, its probability, and the last command."""
        going = self.decoder.open
        label, probability = (self._named(going), going.probability) if going else (self.labels[BLANK], self._rest)
        shown = Prediction(*self._now, label, probability, self._latency_ms, torch.empty(0))
        return _with_line(self._strip.draw(annotate(frame, shown), self._now[1]), self._command)

    def _rows(self, event: Event) -> list[dict[str, Any] | EventSpan]:
        """The row of an event of the decoder, and the whole event if it has ended and is asked for."""
        row = self._row(event)
        span = EventSpan(
            label=row["label"],
            start=row["begin_s"],
            end=row["end_s"],
            score=event.probability,
            start_frame=row["begin_frame"],
            end_frame=row["end_frame"],
        )
        self._strip.add([span])
        return [row, span] if self._events and span.end is not None else [row]

    def _row(self, event: Event) -> dict[str, Any]:
        frame, time = self._now
        label = self._named(event) if event.kind == "begin" else self._label
        row: dict[str, Any] = {"event": event.kind, "label": label}
        if event.kind == "begin":
            begin_frame, begin_s = self._place(event.begin)
            self._begun, self._label = {"begin_frame": begin_frame, "begin_s": begin_s}, label
            if label in self.commands:
                self._command = self.commands[label]
                row["command"] = self._command
        end_frame, end_s = (None, None) if event.end is None else self._place(event.end)
        row |= {**self._begun, "end_frame": end_frame, "end_s": end_s, "frame": frame, "time_s": round(time, 3)}
        return row | {"probability": round(event.probability, 4)}

    def _named(self, event: Event) -> str:
        return self._confidence.named(self.labels[event.label], event.probability)

    def _place(self, step: int) -> tuple[int, float]:
        """Number and time of the first frame of a step."""
        if step >= self._steps:  # the source has ended
            return self._now[0] + 1, round(self._now[1], 3)
        frame, time = self._starts[max(0, step - self._steps + len(self._starts))]
        return frame, round(time, 3)


def load_commands(path: str | os.PathLike[str], labels: Sequence[str] | None = None) -> dict[str, str]:
    """A table from label to command, read from a YAML or JSON file with one mapping of texts.

    Args:
        path: of the file.
        labels: the network's labels; None skips the check.

    Raises:
        ValueError: no such file, other contents, a label that is not in ``labels``; the message names the file.
    """
    import yaml

    path = configuration(path)
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of commands") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML or JSON, got {' '.join(str(error).split())}") from error
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path}: expected lines 'label: command', got {table!r}")
    for label, command in table.items():
        if not isinstance(label, str) or not isinstance(command, str):  # YAML reads on, yes and 1 as something else
            raise ValueError(f"{path}: expected text, in quotes if it looks like more, got {label!r}: {command!r}")
    if labels is not None:
        _check_labels(table, labels, str(path))
    return table


def _with_line(frame: np.ndarray, text: str) -> np.ndarray:
    """The frame with a line of text near its upper edge, below what `annotate` draws there."""
    from PIL import Image, ImageDraw, ImageFont

    if not text:
        return frame
    size = max(10, round(min(frame.shape[:2]) / 16))  # font size, as in `annotate`
    font, margin, top = ImageFont.load_default(size), size // 3, 2 * size
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rectangle((0, top, font.getlength(text) + 2 * margin, top + size + margin), fill=(0, 0, 0, 170))
    draw.text((margin, top + (size + margin) / 2), text, "white", font, anchor="lm")
    return np.array(image)


def _check_labels(table: Mapping[str, str], labels: Sequence[str], where: str) -> None:
    if unknown := sorted(set(table) - set(labels)):
        raise ValueError(f"{where}: expected labels among {list(labels)}, got {unknown}")


def _decoder(task: KeptTask | None, decoder: str | Decoder | None) -> Decoder:
    if isinstance(decoder, Decoder):
        return decoder
    options = {} if task is None else task.options
    extent, threshold = options.get("extent", DEFAULT_EXTENT), options.get("threshold", 0.0)
    if decoder is None and "decoder" in options:
        return gesture_decoder(options["decoder"], options.get("decoder_options"), extent, threshold)
    return gesture_decoder(decoder or "greedy", extent=extent, threshold=threshold)


def _confidence(task: KeptTask | None) -> Confidence:
    options = {} if task is None else task.options
    return Confidence(options.get("temperature", 1.0), options.get("unknown_below", 0.0))


def _reach(decoder: Decoder) -> int | None:
    """Number of steps that a decoder may look back; None for any number."""
    if isinstance(decoder, WholeGestures | SureGestures):
        within = _reach(decoder.decoder)
        more = decoder.reach if isinstance(decoder, WholeGestures) else decoder.patience
        return None if within is None else within + more
    return decoder.patience if isinstance(decoder, BeamDecoder) else 1
