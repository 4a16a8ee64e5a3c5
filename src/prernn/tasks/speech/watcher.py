"""Follows speech: reports the text so far at each new letter, and the whole text at each pause."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.streaming.stream import Stream
from prernn.tasks.events.ctc_decoders import Decoder, Event
from prernn.tasks.events.ctc_loss import log_probs

PAUSE = 1.0
"""Seconds without a letter after which a text is over. The network carries on: from a zero state it recognizes its
first word worse than after minutes (docs/sequences.md)."""

LONGEST = 20.0
"""Seconds after which a text is over at the next space, if there is no pause."""


class Text:
    """A text that grows letter by letter.

    Args:
        letters: letters of the outputs, from 1 on.
        step: duration of a step in seconds.
        delay: seconds by which letters are late.
    """

    def __init__(self, letters: str, step: float, delay: float) -> None:
        self._letters, self._step, self._delay = letters, step, delay
        self.text, self.start, self.last = "", 0.0, 0.0

    def add(self, label: int, time: float) -> list[dict[str, Any]]:
        """Adds a letter reported at ``time``; returns the row of the text if it has grown, or is over at a space."""
        letter = self._letters[label - 1]
        if letter == " ":
            over = bool(self.text) and time - self.start > LONGEST
            self.text += "" if self.text.endswith(" ") or not self.text else letter
            return self.end() if over else []
        self.start = self.start if self.text else time
        self.text, self.last = self.text + letter, time
        return [self._row(final=False)]

    def paused(self, time: float) -> bool:
        """Whether it is over at ``time``."""
        return bool(self.text) and time - self.last >= PAUSE

    def end(self) -> list[dict[str, Any]]:
        """The row of the whole text, if there is one; then it starts over."""
        rows = [self._row(final=True)] if self.text else []
        self.text = ""
        return rows

    def _row(self, *, final: bool) -> dict[str, Any]:
        start, end = (max(0.0, time - self._delay) for time in (self.start, self.last + self._step))
        return {"text": self.text.strip(), "start_s": round(start, 3), "end_s": round(end, 3), "final": final}


class SpeechWatcher:
    """Rows ``text``, ``start_s``, ``end_s`` and ``final``: one row whenever a text grows, and one when it is over.

    For a network that hears both directions, all rows of a recording come at its end.

    Args:
        net: a network trained on `prernn.tasks.Speech`.
        decoder: decoder of CTC's outputs.
        letters: letters of the outputs, from 1 on; 0 is the blank.
        step: duration of a step in seconds.
    """

    def __init__(self, net: SequenceNetwork, *, decoder: Decoder, letters: str, step: float) -> None:
        self._net, self._decoder, self._step = net, decoder, step
        self._stream = None if net.sees_ahead else Stream(net)
        self._text = Text(letters, step, net.delay * step)
        self._frames: list[Tensor] = []  # for a network that hears everything at once
        self._begin: float | None = None  # time of the first step

    def see(self, index: int, time: float, frame: Any) -> list[dict[str, Any]]:
        """The rows of a text that has grown, or is over."""
        self._begin = time if self._begin is None else self._begin
        if self._stream is None:
            self._frames.append(frame)
            return []
        out = self._stream(frame)
        assert out is not None  # there are no snippets
        rows = self._grown(self._decoder.push(log_probs(out)))
        return rows + (self._text.end() if self._text.paused(time) else [])

    def _grown(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for event in events:
            if event.kind == "begin":
                time = (self._begin or 0.0) + event.begin * self._step
                rows += self._text.end() if self._text.paused(time) else []
                rows += self._text.add(event.label, time)
        return rows

    def finish(self) -> list[dict[str, Any]]:
        """The row of the last text; for a network that hears everything at once, all rows."""
        if self._stream is not None:
            return self._grown(self._decoder.finish()) + self._text.end()
        if not self._frames:
            return []
        with torch.inference_mode(), evaluating(self._net):
            steps = torch.stack(self._frames).unsqueeze(0).to(next(self._net.parameters()).device)
            out, _ = self._net(steps)
        self._frames = []
        return self._grown(self._decoder.events(log_probs(out[0]))) + self._text.end()

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """Raises NotImplementedError: there is no picture."""
        raise NotImplementedError("--video: expected a stream of pictures, got one of sound")
