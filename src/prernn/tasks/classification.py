"""What tasks with classes share: loss, scores and the report of a test."""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.reports.files import write_table
from prernn.tasks.task import valid_steps


def report_classes(results: dict[str, Any], labels: list[str], root: Path) -> dict[str, Any]:
    """Writes ``confusion.png`` and ``classes.csv`` (class, videos, hits, accuracy, most often taken for).

    Args:
        results: with ``confusion``, K rows of K counts, true classes as rows, and ``class_accuracy``, K numbers.
        labels: K names.
        root: the folder.

    Returns:
        The results, with ``class_accuracy`` by name, and ``labels`` restricted to the confusion matrix: a network may
        have outputs that are no class, such as that for no gesture.
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
    return {**results, "class_accuracy": accuracy, "labels": labels}


def class_accuracies(counts: Tensor) -> dict[str, Tensor]:
    """Accuracies from counts ``(K, K + 1)``: rows are true classes, the last column counts outputs that are no numbers.

    ``accuracy`` and ``mean_class_accuracy`` (over the classes that occur), scalars; ``class_accuracy`` ``(K,)``;
    ``confusion`` ``(K, K)``, the counts without their last column.
    """
    confusion = counts[:, :-1]
    hits = confusion.diagonal().float()
    each = hits / counts.sum(1)
    mean = {"accuracy": hits.sum() / counts.sum(), "mean_class_accuracy": each.nanmean()}
    return {**mean, "class_accuracy": each, "confusion": confusion}


def without_best(scores: Tensor) -> Tensor:
    """True where K scores ``(..., K)`` have no finite best: NaN, infinity, only -infinity."""
    return ~scores.amax(-1).isfinite()


def answers(scores: Tensor) -> Tensor:
    """The best of K scores ``(..., K)``; K, which is no class, if they are `without_best`."""
    return scores.argmax(-1).masked_fill(without_best(scores), scores.shape[-1])


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
    # Masked before and after, because a NaN in the padding would survive a zero gradient.
    clean = logits.masked_fill(~mask[..., None], 0)
    loss = F.cross_entropy(clean.transpose(1, 2), label[:, None].expand_as(mask), reduction="none")  # (B, T)
    return (loss.masked_fill(~mask, 0).sum(1) / lengths).mean()


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of frame logits ``(B, T, K)`` against labels ``(B, T)``, averaged with weights ``(B, T)``.

    Steps without weight, padding among them, change neither loss nor gradient; if all weights are 0, so is the result.

    Raises:
        ValueError: shapes that do not match.
    """
    if label.shape != logits.shape[:2] or weight.shape != label.shape:
        shapes = f"{tuple(logits.shape)}, {tuple(label.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"expected logits (B, T, K), labels and weights (B, T), got {shapes}")
    if not bool((weight > 0).any()):
        return logits.masked_fill(weight[..., None] == 0, 0).sum()
    # Masked before and after, because a NaN in the padding would survive a zero gradient.
    clean = logits.masked_fill(weight[..., None] == 0, 0)
    loss = F.cross_entropy(clean.transpose(1, 2), label, reduction="none")  # (B, T)
    return (loss * weight).sum() / weight.sum()


def clip_scores(logits: Tensor, lengths: Tensor, mode: Literal["mean", "last"] = "mean") -> Tensor:
    """Class probabilities of clips ``(B, K)`` from frame logits ``(B, T, K)``.

    Args:
        logits: ``(B, T, K)``.
        lengths: ``(B,)`` valid frames.
        mode: "mean" averages softmax over the valid frames; "last" takes the last of them.

    Raises:
        ValueError: as in `masked_cross_entropy`.
    """
    if mode not in ("mean", "last"):
        raise ValueError(f'mode: expected "mean" or "last", got {mode!r}')
    mask = _valid(logits, lengths)  # (B, T)
    if mode == "last" or logits.shape[0] == 0:
        return _last(logits, lengths).softmax(-1)
    return logits.softmax(-1).masked_fill(~mask[..., None], 0).sum(1) / lengths[:, None]


def late_scores(logits: Tensor, lengths: Tensor) -> Tensor:
    """Class probabilities of clips ``(B, K)``, the mean over the second half, by which the answer can be known.

    For an odd number of frames the middle one is included. Arguments and errors as in `masked_cross_entropy`.
    """
    late = _valid(logits, lengths) & (torch.arange(logits.shape[1], device=logits.device) >= (lengths // 2)[:, None])
    return logits.softmax(-1).masked_fill(~late[..., None], 0).sum(1) / late.sum(1, keepdim=True)


def _valid(logits: Tensor, lengths: Tensor) -> Tensor:
    if logits.ndim != 3 or lengths.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"expected logits (B, T, K) and lengths (B,), got {shapes}")
    return valid_steps(lengths, logits.shape[1])


def _last(logits: Tensor, lengths: Tensor) -> Tensor:
    return logits[torch.arange(len(lengths), device=logits.device), lengths - 1]  # (B, K)
