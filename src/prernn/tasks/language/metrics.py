"""How well a network predicts words."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from prernn.tasks.task import valid_steps


class WordMetrics(nn.Module):
    """Perplexity over all words, and the share of words that were the most probable ones.

    ``perplexity = exp(-mean ln p(word))``; ``bits`` per word is its base-2 logarithm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.surprise, self.right = MeanMetric(), MeanMetric()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds scores ``(B, T, V)`` of the words ``batch["target"] (B, T)``."""
        valid = valid_steps(batch["lengths"], out.shape[1])
        scores, target = out[valid], batch["target"][valid]
        # in double precision, because about 80,000 of them are added up
        self.surprise.update(F.cross_entropy(scores, target, reduction="none").double().mean(), len(target))
        self.right.update((scores.argmax(-1) == target).double().mean(), len(target))

    def compute(self) -> dict[str, Tensor]:
        """``perplexity``, ``bits`` and ``accuracy``."""
        surprise = self.surprise.compute()
        bits = surprise / torch.log(torch.tensor(2.0, device=surprise.device))
        return {"perplexity": surprise.exp(), "bits": bits, "accuracy": self.right.compute()}

    def reset(self) -> None:
        """Forgets all batches."""
        self.surprise.reset()
        self.right.reset()
