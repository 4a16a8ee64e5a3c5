"""What follows speech: the text so far, at each new letter, and whole at each pause."""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.streaming.stream import Stream
from prernn.tasks.events.ctc_decoders import Decoder
from prernn.tasks.events.ctc_loss import log_probs

PAUSE = 1.0
"""Seconds without a letter behind which a text is over, and the network hears as from new."""

AGAIN = 0.5
"""Seconds before that, which it hears again: a word may have begun, whose letters come late."""


class SpeechWatcher:
    """Rows ``text``, ``start_s``, ``end_s`` and ``final``: a row whenever a text grows, and one when it is over.

    A network that hears both directions gives the rows of a recording at its end.

    Args:
        net: that was trained on `prernn.tasks.Speech`.
        decoder: of CTC's outputs.
        letters: of the outputs, from 1 on; 0 is the blank.
        step: seconds that a step lasts.
    """

    def __init__(self, net: SequenceNetwork, *, decoder: Decoder, letters: str, step: float) -> None:
        self._net, self._decoder, self._letters, self._step = net, decoder, letters, step
        self._stream = None if net.sees_ahead else Stream(net)
        self._steps: list[Tensor] = []  # of a network that hears all at once
        self._latest: deque[Tensor] = deque(maxlen=round(AGAIN / step))
        self._begin()
        self._first = 0.0

    def _begin(self) -> None:
        self._text, self._start, self._last = "", 0.0, 0.0

    def see(self, index: int, time: float, frame: Any) -> list[dict[str, Any]]:
        """The row of a text that has grown, or is over."""
        if self._stream is None:
            self._first = time if not self._steps else self._first
            self._steps.append(frame)
            return []
        out = self._stream(frame)
        assert out is not None  # no snippets
        self._latest.append(frame)
        rows = self._heard(time, out)
        if rows and rows[-1]["final"]:
            self._stream.reset()
            for again in self._latest:
                out = self._stream(again)
                assert out is not None
                rows += self._heard(time, out)
        return rows

    def _heard(self, time: float, out: Tensor) -> list[dict[str, Any]]:
        rows = self._grown(time, self._decoder.push(log_probs(out)))
        if self._text and time - self._last >= PAUSE:
            rows += self._over(time)
        return rows

    def _grown(self, time: float, events: Any) -> list[dict[str, Any]]:
        new = "".join(self._letters[event.label - 1] for event in events if event.end is None)
        if not new:
            return []
        self._start = self._start if self._text else time
        self._text, self._last = self._text + new, time
        return [self._row(final=False)] if self._text.strip() else []

    def _over(self, time: float) -> list[dict[str, Any]]:
        """The row of a text that has ended, and a new beginning."""
        rows = self._grown(time, self._decoder.finish())
        rows += [self._row(final=True)] if self._text.strip() else []
        self._begin()
        return rows

    def _row(self, *, final: bool) -> dict[str, Any]:
        end = self._last + self._step
        return {"text": self._text.strip(), "start_s": round(self._start, 3), "end_s": round(end, 3), "final": final}

    def finish(self) -> list[dict[str, Any]]:
        """The row of the last text; of a network that hears all at once all rows."""
        if self._stream is not None:
            return self._over(self._last)
        if not self._steps:
            return []
        with torch.inference_mode(), evaluating(self._net):
            out, _ = self._net(torch.stack(self._steps).unsqueeze(0).to(next(self._net.parameters()).device))
        rows = [
            row for number, step in enumerate(out[0]) for row in self._heard(self._first + number * self._step, step)
        ]
        self._steps = []
        return rows + self._over(self._last)

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """Raises NotImplementedError: there is no picture."""
        raise NotImplementedError("--video: expected a stream of pictures, got one of sound")
