"""How many clips and videos are told apart: running accuracies of a network that gives classes."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from prernn.tasks.classification import answers, class_accuracies, clip_scores
from prernn.tasks.task import valid_steps


class ClipMetrics(nn.Module):
    """Running accuracy of frame logits ``(B, T, K)`` against clip labels ``(B,)``.

    A clip's class is the best of its mean softmax over valid frames, a video's the best of its clips' mean. Frames
    from ``lengths`` ``(B,)`` on are padding and count for nothing. Move it with ``.to(device)``; torchmetrics sums over
    processes in `compute`.

    Raises:
        ValueError: fewer than 2 classes, or logits of another K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
        self.num_classes = num_classes
        # one class more stands for outputs that are no numbers, which are the class that no clip has
        self.clips = MulticlassConfusionMatrix(num_classes + 1)
        self.frames = MulticlassAccuracy(num_classes + 1, average="micro")
        self.videos = VideoAccuracy()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch with ``label``, ``lengths`` and ``path``; an empty one (B = 0) adds nothing."""
        if out.shape[0] == 0:
            return
        if out.shape[-1] != self.num_classes:
            raise ValueError(f"logits: expected {self.num_classes} classes, got {out.shape[-1]}")
        label, lengths = batch["label"], batch["lengths"]
        scores = clip_scores(out, lengths)  # (B, K)
        mask = valid_steps(lengths, out.shape[1])  # (B, T)
        self.clips.update(answers(scores), label)
        self.frames.update(answers(out)[mask], label[:, None].expand_as(mask)[mask])
        self.videos.update(scores, label, batch["path"])

    def compute(self) -> dict[str, Tensor]:
        """What it comes to.

        Scalars clip_accuracy, video_accuracy where some video is of several clips, frame_accuracy, and
        mean_class_accuracy, over the classes that have clips; class_accuracy ``(K,)`` and confusion ``(K, K)``. Rows of
        the confusion matrix are true classes of clips, columns predicted ones. A class without clips has an accuracy
        of NaN. A clip whose outputs are not numbers counts as wrong, and is in no column.
        """
        of_classes, videos = class_accuracies(self.clips.compute()[:-1]), self.videos.compute()
        return {
            "clip_accuracy": of_classes.pop("accuracy"),
            **({} if bool(videos.isnan()) else {"video_accuracy": videos}),
            "frame_accuracy": self.frames.compute(),
            **of_classes,
        }

    def reset(self) -> None:
        """Forgets all batches."""
        for metric in (self.clips, self.frames, self.videos):
            metric.reset()


class VideoAccuracy(Metric):
    """Share of videos whose class is the best of the mean of their clips' scores."""

    full_state_update = False
    scores: list[Tensor]
    label: list[Tensor]
    video: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scores", "label", "video"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, label: Tensor, path: list[str]) -> None:
        """Adds clips: ``scores`` ``(B, K)``, ``label`` ``(B,)``, and the B videos that they are of."""
        self.scores.append(scores.float())
        self.label.append(label)
        self.video.append(torch.tensor([path_number(name) for name in path], device=label.device))

    def compute(self) -> Tensor:
        """The share, a scalar; NaN where every video is of one clip, whose share says it all."""
        scores, label, video = (dim_zero_cat(value) for value in (self.scores, self.label, self.video))
        _, group = video.unique(return_inverse=True)  # (N,)
        count = int(group.max()) + 1
        if count == len(group):
            return scores.new_tensor(torch.nan)
        total = scores.new_zeros(count, scores.shape[1]).index_add_(0, group, scores)  # (videos, K)
        truth = label.new_zeros(count).index_put_((group,), label)  # (videos,)
        return (answers(total) == truth).float().mean()


def path_number(name: str) -> int:
    """A number for a path that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")
