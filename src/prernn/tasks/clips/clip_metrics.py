"""Running accuracies of clips and videos for a network that predicts classes."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from prernn.tasks.classification import answers, class_accuracies, clip_scores, late_scores
from prernn.tasks.task import valid_steps


class ClipMetrics(nn.Module):
    """Running accuracy of frame logits ``(B, T, K)`` against clip labels ``(B,)``.

    A clip's class is the best of its mean softmax over valid frames, a video's the best of its clips' mean. Frames
    from ``lengths`` ``(B,)`` on are padding and are ignored. Move it with ``.to(device)``; torchmetrics sums over
    processes in `compute`.

    Raises:
        ValueError: fewer than 2 classes, or logits of another K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
        self.num_classes = num_classes
        # one extra class for outputs that are not numbers, which no clip has
        self.clips = MulticlassConfusionMatrix(num_classes + 1)
        self.frames = MulticlassAccuracy(num_classes + 1, average="micro")
        self.late = MulticlassAccuracy(num_classes + 1, average="micro")
        self.delays = Delays()
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
        self.late.update(answers(late_scores(out, lengths)), label)
        self.delays.update((answers(out) == label[:, None]) & mask, lengths)
        self.videos.update(scores, label, batch["path"])

    def compute(self) -> dict[str, Tensor]:
        """The accuracies.

        Scalars: clip_accuracy; late_accuracy, of clips by the mean over their second half; video_accuracy if some
        video has several clips; frame_accuracy; frames_until_right, the median number of frames, over clips that get
        there, until the answer is right and stays right, and never_right, the share of the other clips; and
        mean_class_accuracy, over the classes that have clips. Then class_accuracy ``(K,)`` and confusion ``(K, K)``,
        with true classes of clips as rows and predicted ones as columns. The accuracy of a class without clips is NaN.
        A clip whose outputs are not numbers counts as wrong, and is in no column.
        """
        of_classes, videos = class_accuracies(self.clips.compute()[:-1]), self.videos.compute()
        return {
            "clip_accuracy": of_classes.pop("accuracy"),
            "late_accuracy": self.late.compute(),
            **({} if bool(videos.isnan()) else {"video_accuracy": videos}),
            "frame_accuracy": self.frames.compute(),
            **self.delays.compute(),
            **of_classes,
        }

    def reset(self) -> None:
        """Forgets all batches."""
        for metric in (self.clips, self.frames, self.late, self.delays, self.videos):
            metric.reset()


class Delays(Metric):
    """How many frames of a clip it takes until the answer is right and stays right."""

    full_state_update = False
    frames: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("frames", [], dist_reduce_fx="cat")

    def update(self, right: Tensor, lengths: Tensor) -> None:
        """Adds clips: whether each frame's answer is right ``(B, T)``, False in padding, and ``lengths (B,)``."""
        number = torch.arange(1, right.shape[1] + 1, device=right.device)
        valid = number <= lengths[:, None]
        wrong = torch.where(valid & ~right, number, 0).amax(1)  # the last wrong frame, from 1
        self.frames.append(torch.where(wrong == lengths, 0, wrong + 1))  # 0: never

    def compute(self) -> dict[str, Tensor]:
        """``frames_until_right``, NaN if no clip gets there, and ``never_right``."""
        frames = dim_zero_cat(self.frames)
        known = frames[frames > 0].float()
        middle = known.median() if len(known) else known.new_tensor(torch.nan)
        return {"frames_until_right": middle, "never_right": (frames == 0).float().mean()}


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
        """Adds clips: ``scores`` ``(B, K)``, ``label`` ``(B,)``, and the B videos to which they belong."""
        self.scores.append(scores.float())
        self.label.append(label)
        self.video.append(torch.tensor([path_number(name) for name in path], device=label.device))

    def compute(self) -> Tensor:
        """The share, a scalar; NaN if every video has one clip, because clip_accuracy then says the same."""
        scores, label, video = (dim_zero_cat(value) for value in (self.scores, self.label, self.video))
        _, group = video.unique(return_inverse=True)  # (N,)
        count = int(group.max()) + 1
        if count == len(group):
            return scores.new_tensor(torch.nan)
        total = scores.new_zeros(count, scores.shape[1]).index_add_(0, group, scores)  # (videos, K)
        truth = label.new_zeros(count).index_put_((group,), label)  # (videos,)
        return (answers(total) == truth).float().mean()


def path_number(name: str) -> int:
    """A number for a path, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")
