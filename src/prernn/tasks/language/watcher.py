"""Follows a text as it comes: how probable each word was, and which word was the most probable."""

from time import perf_counter
from typing import Any

import numpy as np

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.streaming.stream import Stream
from prernn.tasks.language.generation import step
from prernn.tasks.language.text import END, encode


class WordWatcher:
    """Predicts each word of a text before it comes: rows ``word``, ``probability``, ``most_probable``, ``latency_ms``.

    A text begins after an end of line.

    Args:
        net: a network trained on `prernn.tasks.Language`.
    """

    def __init__(self, net: SequenceNetwork) -> None:
        self.names = net.recipe.labels or []
        self._known = {name: number for number, name in enumerate(self.names)}
        self._stream = Stream(net)
        self._scores = step(self._stream, self._known[END])

    def see(self, index: int, time: float, frame: Any) -> list[dict[str, Any]]:
        """The row of a word. Raises TextError for an unknown word."""
        begin = perf_counter()
        (number,) = encode([frame], self._known, f"word {index + 1}")
        row = {
            "word": frame,
            "probability": float(self._scores.softmax(-1)[number]),
            "most_probable": self.names[int(self._scores.argmax())],
        }
        self._scores = step(self._stream, number)
        return [{**row, "latency_ms": round((perf_counter() - begin) * 1e3, 3)}]

    def finish(self) -> list[Any]:
        """None are due at the end."""
        return []

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """Raises NotImplementedError: there is no picture."""
        raise NotImplementedError("--video: expected a stream of pictures, got one of words")
