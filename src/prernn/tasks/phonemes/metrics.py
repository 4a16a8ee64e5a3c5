"""How well phonemes are recognized, window by window and as a sequence."""

from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.text import WordErrorRate

from prernn.tasks.classification import answers, class_accuracies
from prernn.tasks.events.best_path import best_path
from prernn.tasks.events.ctc_decoders import BLANK
from prernn.tasks.task import valid_steps


class WindowMetrics(nn.Module):
    """Accuracy over all windows that have a phoneme, and which phonemes are confused.

    Args:
        phonemes: their number K.
    """

    def __init__(self, phonemes: int) -> None:
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(phonemes + 1)  # plus one for outputs that are no numbers

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds outputs ``(B, T, K)`` of windows with ``batch["label"] (B, T)``, -1 where a window does not count."""
        label = batch["label"]
        counted = valid_steps(batch["lengths"], out.shape[1]) & (label >= 0)
        self.confusion.update(answers(out[counted]), label[counted])

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``mean_class_accuracy``, ``class_accuracy (K,)`` and ``confusion (K, K)``."""
        return class_accuracies(self.confusion.compute()[:-1])

    def reset(self) -> None:
        """Forgets all batches."""
        self.confusion.reset()


class SequenceMetrics(nn.Module):
    """Phoneme error rate: insertions, deletions and substitutions per true phoneme, for the best path of CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.edits = WordErrorRate()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds outputs ``(B, T, K)``, the blank first, of sequences ``batch["target"] (B, N)``, 0 after their ends."""
        for row, steps in enumerate(batch["lengths"].tolist()):
            target = batch["target"][row]
            said, true = best_path(out[row, :steps]), target[target != BLANK].tolist()
            self.edits.update(" ".join(map(str, said)), " ".join(map(str, true)))

    def compute(self) -> dict[str, Tensor]:
        """``phoneme_error_rate``."""
        return {"phoneme_error_rate": self.edits.compute()}

    def reset(self) -> None:
        """Forgets all batches."""
        self.edits.reset()
