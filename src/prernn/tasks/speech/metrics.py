"""How well speech is transcribed: errors per letter and per word."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchmetrics.text import CharErrorRate, WordErrorRate

Heard = Callable[[Tensor], str]
"""From scores ``(T, K)`` to their text."""


class LetterMetrics(nn.Module):
    """Character and word error rate: insertions, deletions and substitutions per true letter and word.

    Args:
        heard: returns the text of a recording's scores.
        said: returns the text of a target.
    """

    def __init__(self, heard: Heard, said: Callable[[Tensor], str]) -> None:
        super().__init__()
        self.letters, self.words = CharErrorRate(), WordErrorRate()
        self._heard, self._said = heard, said

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds outputs ``(B, T, K)``, the blank first, of sequences ``batch["target"] (B, N)``, 0 after their ends."""
        for row, steps in enumerate(batch["lengths"].tolist()):
            heard, said = self._heard(out[row, :steps]), self._said(batch["target"][row])
            self.letters.update(heard, said)
            self.words.update(heard, said)

    def compute(self) -> dict[str, Tensor]:
        """``character_error_rate`` and ``word_error_rate``."""
        return {"character_error_rate": self.letters.compute(), "word_error_rate": self.words.compute()}

    def reset(self) -> None:
        """Forgets all batches."""
        self.letters.reset()
        self.words.reset()
