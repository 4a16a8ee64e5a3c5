"""The loss of a network that labels every frame."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def frame_cross_entropy(
    logits: Tensor,
    label: Tensor,
    counted: Tensor,
    *,
    background: float | Literal["balanced"] = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of frame logits against frame labels, a mean over clips of the mean over their counted frames.

    Args:
        logits: ``(B, T, K)``.
        label: ``(B, T)``, 0 for background.
        counted: ``(B, T)``, False for padding and for what only warms the state up.
        background: weight of frames of background; "balanced" lets all of the batch's together weigh as much as those
            of a mean other class in it, and never more than one each.
        weight: ``(B, T)`` of each frame; a clip without any counts for nothing.

    Raises:
        ValueError: shapes that don't match.
    """
    if logits.ndim != 3 or label.shape != logits.shape[:2] or counted.shape != label.shape:
        shapes = f"{tuple(logits.shape)}, {tuple(label.shape)} and {tuple(counted.shape)}"
        raise ValueError(f"expected logits (B, T, K), label and counted (B, T), got {shapes}")
    if len(logits) == 0:
        return logits.sum()
    given = torch.ones_like(label, dtype=logits.dtype) if weight is None else weight
    counted = counted & (given > 0)
    quiet = label == 0
    share = torch.where(quiet, _balance(label[counted]) if background == "balanced" else background, 1.0) * given
    # Masked before as well as after, because a NaN in the padding would survive a zero gradient.
    clean = logits.masked_fill(~counted[..., None], 0)
    loss = F.cross_entropy(clean.transpose(1, 2), label, reduction="none") * share  # (B, T)
    rows = loss.masked_fill(~counted, 0).sum(1) / (given * counted).sum(1).clamp(min=1e-12)
    return rows.mean() if weight is None else rows.sum() / counted.any(1).sum().clamp(min=1)


def _balance(label: Tensor) -> Tensor:
    """The weight of a frame of background that makes all of them a mean class of ``label (N,)``."""
    others = label[label > 0]
    quiet = len(label) - len(others)
    if not len(others) or not quiet:
        return label.new_ones((), dtype=torch.float32)
    mean = len(others) / len(others.unique())
    return label.new_tensor(min(1.0, mean / quiet), dtype=torch.float32)
