"""What tasks with classes share: loss, scores, metrics and the report of a test."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from prernn.reports.files import write_table
from prernn.tasks.task import valid_steps


def report_classes(results: dict[str, Any], labels: list[str], root: Path) -> dict[str, Any]:
    """Writes ``confusion.png`` and ``classes.csv`` (class, videos, hits, accuracy, most often taken for).

    Args:
        results: with ``confusion``, K rows of K counts, true classes as rows, and ``class_accuracy``, K numbers.
        labels: K names.
        root: the folder.

    Returns:
        The results, with ``class_accuracy`` by name and ``confusion`` as a dict of its ``labels`` and ``counts``: a
        network may have outputs that are no class, such as that of no gesture.
    """
    from prernn.reports.plots import classes

    confusion = torch.tensor(results["confusion"])  # (K, K)
    classes.confusion(confusion.numpy(), labels, root / "confusion.png")
    accuracy = dict(zip(labels, results["class_accuracy"], strict=True))
    rows = []
    for k, label in enumerate(labels):
        wrong = confusion[k].clone()
        wrong[k] = 0
        taken = labels[int(wrong.argmax())] if wrong.sum() else ""
        count = {"videos": int(confusion[k].sum()), "hits": int(confusion[k, k])}
        rows.append({"class": label, **count, "accuracy": f"{accuracy[label]:.4f}", "most often taken for": taken})
    write_table(root / "classes.csv", rows)
    named = {"labels": labels, "counts": results["confusion"]}
    return {**results, "class_accuracy": accuracy, "confusion": named}


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
        counts = self.clips.compute()[:-1]  # (K, K + 1)
        confusion = counts[:, :-1]
        hits = confusion.diagonal().float()
        class_accuracy = hits / counts.sum(1)
        videos = self.videos.compute()
        return {
            "clip_accuracy": hits.sum() / counts.sum(),
            **({} if bool(videos.isnan()) else {"video_accuracy": videos}),
            "frame_accuracy": self.frames.compute(),
            "mean_class_accuracy": class_accuracy.nanmean(),
            "class_accuracy": class_accuracy,
            "confusion": confusion,
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
        self.video.append(torch.tensor([_number(name) for name in path], device=label.device))

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


def answers(scores: Tensor) -> Tensor:
    """The best of K scores ``(..., K)``; K, which is no class, where one of them is not a number."""
    return scores.argmax(-1).masked_fill(scores.isnan().any(-1), scores.shape[-1])


def _number(name: str) -> int:
    """A number for a path that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def masked_cross_entropy(
    logits: Tensor, label: Tensor, lengths: Tensor, *, steps: Literal["all", "last"] = "all"
) -> Tensor:
    """Cross entropy of frame logits ``(B, T, K)`` against clip labels ``(B,)``, a scalar.

    Frames from ``lengths`` on are padding and change neither loss nor gradient. An empty batch gives 0.

    Args:
        logits: ``(B, T, K)``.
        label: ``(B,)``.
        lengths: ``(B,)``.
        steps: "all" averages over the valid frames of each clip, then over clips; "last" takes each clip's last valid
            frame.

    Raises:
        ValueError: shapes that do not match, lengths outside 1..T, or another ``steps``.
    """
    if steps not in ("all", "last"):
        raise ValueError(f'steps: expected "all" or "last", got {steps!r}')
    mask = _valid(logits, lengths)  # (B, T)
    if label.shape != lengths.shape:
        raise ValueError(f"label: expected shape {tuple(lengths.shape)}, got {tuple(label.shape)}")
    if logits.shape[0] == 0:
        return logits.sum()
    if steps == "last":
        return F.cross_entropy(_last(logits, lengths), label)
    # Masked before as well as after, because a NaN in the padding would survive a zero gradient.
    clean = logits.masked_fill(~mask[..., None], 0)
    loss = F.cross_entropy(clean.transpose(1, 2), label[:, None].expand_as(mask), reduction="none")  # (B, T)
    return (loss.masked_fill(~mask, 0).sum(1) / lengths).mean()


def clip_scores(logits: Tensor, lengths: Tensor, mode: Literal["mean", "last"] = "mean") -> Tensor:
    """Class probabilities of clips ``(B, K)`` from frame logits ``(B, T, K)``.

    Args:
        logits: ``(B, T, K)``.
        lengths: ``(B,)`` valid frames.
        mode: "mean" averages softmax over the valid frames; "last" takes the last of them.

    Raises:
        ValueError: as `masked_cross_entropy`.
    """
    if mode not in ("mean", "last"):
        raise ValueError(f'mode: expected "mean" or "last", got {mode!r}')
    mask = _valid(logits, lengths)  # (B, T)
    if mode == "last" or logits.shape[0] == 0:
        return _last(logits, lengths).softmax(-1)
    return logits.softmax(-1).masked_fill(~mask[..., None], 0).sum(1) / lengths[:, None]


def _valid(logits: Tensor, lengths: Tensor) -> Tensor:
    if logits.ndim != 3 or lengths.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"expected logits (B, T, K) and lengths (B,), got {shapes}")
    return valid_steps(lengths, logits.shape[1])


def _last(logits: Tensor, lengths: Tensor) -> Tensor:
    return logits[torch.arange(len(lengths), device=logits.device), lengths - 1]  # (B, K)
