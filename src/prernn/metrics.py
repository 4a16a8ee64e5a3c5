"""Metrics of clip classification, by torchmetrics, so that they add up over batches and processes."""

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from prernn.tasks.action import clip_scores, valid_frames


class ClipMetrics(nn.Module):
    """Running accuracy of frame logits `(B, T, K)` against clip labels `(B,)`.

    A clip's class is the best of its mean softmax over valid frames. Frames from `lengths` `(B,)` on are
    padding and count for nothing. Move it with `.to(device)`; torchmetrics sums over processes in `compute`.
    Raises ValueError for fewer than 2 classes, or logits of another K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.clips = MulticlassConfusionMatrix(num_classes)
        self.frames = MulticlassAccuracy(num_classes, average="micro")

    def update(self, logits: Tensor, label: Tensor, lengths: Tensor) -> None:
        """Add a batch; an empty one (B = 0) adds nothing."""
        if logits.shape[0] == 0:
            return
        if logits.shape[-1] != self.num_classes:
            raise ValueError(f"logits: expected {self.num_classes} classes, got {logits.shape[-1]}")
        mask = valid_frames(logits, lengths)  # (B, T)
        self.clips.update(clip_scores(logits, lengths).argmax(-1), label)
        self.frames.update(logits.argmax(-1)[mask], label[:, None].expand_as(mask)[mask])

    def compute(self) -> dict[str, Tensor]:
        """Return clip_accuracy and frame_accuracy (scalars), class_accuracy `(K,)`, confusion `(K, K)`.

        Rows of the confusion matrix are true classes, columns predicted ones. A class without clips has an
        accuracy of NaN.
        """
        confusion = self.clips.compute()  # (K, K)
        hits = confusion.diagonal().float()
        return {
            "clip_accuracy": hits.sum() / confusion.sum(),
            "frame_accuracy": self.frames.compute(),
            "class_accuracy": hits / confusion.sum(1),
            "confusion": confusion,
        }

    def reset(self) -> None:
        """Forget all batches."""
        self.clips.reset()
        self.frames.reset()
