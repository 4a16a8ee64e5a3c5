"""Follows speech: reports each phoneme once it has ended."""

from typing import Any

import numpy as np

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.streaming.stream import Stream


class PhonemeWatcher:
    """Rows ``label``, ``start_s``, ``end_s`` and ``probability``, the mean over the windows, of each run of windows.

    Args:
        net: a network trained on `prernn.tasks.Phonemes`.
        blank: name of CTC's blank, which gives no row; None if there is none.
        window: duration of the last window in seconds.
    """

    def __init__(self, net: SequenceNetwork, *, blank: str | None, window: float) -> None:
        self._stream, self._blank, self._window = Stream(net), blank, window
        self._label, self._start, self._sum, self._count, self._time = "", 0.0, 0.0, 0, 0.0

    def see(self, index: int, time: float, frame: Any) -> list[dict[str, Any]]:
        """The row of a phoneme that has ended with the previous window."""
        probabilities = self._stream.probabilities(frame)
        assert probabilities is not None  # only a network of snippets may return None
        best = int(probabilities.argmax())
        label = str(best) if self._stream.labels is None else self._stream.labels[best]
        rows = self._row(time) if label != self._label else []
        if label != self._label:
            self._label, self._start, self._sum, self._count = label, time, 0.0, 0
        self._sum, self._count, self._time = self._sum + float(probabilities[best]), self._count + 1, time
        return rows

    def finish(self) -> list[dict[str, Any]]:
        """The row of the last phoneme."""
        return self._row(self._time + self._window)

    def _row(self, end: float) -> list[dict[str, Any]]:
        if not self._count or self._label == self._blank:
            return []
        values = {"start_s": round(self._start, 3), "end_s": round(end, 3), "probability": self._sum / self._count}
        return [{"label": self._label, **values}]

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """Raises NotImplementedError: there is no picture."""
        raise NotImplementedError("--video: expected a stream of pictures, got one of sound")
