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
    """Cross entropy of frame logits with frame labels, averaged over each clip's counted frames, then over clips.

    Args:
        logits: ``(B, T, K)``.
        label: ``(B, T)``, 0 for background.
        counted: ``(B, T)``, False for padding and for warm-up steps.
        background: weight of background frames; "balanced" gives all of them in a batch together the weight of an
            average other class in it, and never more than 1 each.
        weight: ``(B, T)`` of each frame; a clip without any weight is ignored.

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
    # Masked before and after, because a NaN in the padding would survive a zero gradient.
    clean = logits.masked_fill(~counted[..., None], 0)
    loss = F.cross_entropy(clean.transpose(1, 2), label, reduction="none") * share  # (B, T)
    rows = loss.masked_fill(~counted, 0).sum(1) / (given * counted).sum(1).clamp(min=1e-12)
    return rows.mean() if weight is None else rows.sum() / counted.any(1).sum().clamp(min=1)


def _balance(label: Tensor) -> Tensor:
    """The weight of a background frame that makes all of them count as an average class of ``label (N,)``."""
    others = label[label > 0]
    quiet = len(label) - len(others)
    if not len(others) or not quiet:
        return label.new_ones((), dtype=torch.float32)
    mean = len(others) / len(others.unique())
    return label.new_tensor(min(1.0, mean / quiet), dtype=torch.float32)
