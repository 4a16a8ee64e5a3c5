"""The CTC loss, and what it requires of a sequence: see `prernn.tasks.events.ctc_decoders`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.tasks.events.ctc_decoders import BLANK
from prernn.tasks.task import valid_steps


def log_probs(out: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-softmax of outputs over the temperature, at least in float32; at 1 it leaves log-probabilities unchanged."""
    return ((out if out.dtype == torch.float64 else out.float()) / temperature).log_softmax(-1)


def least_steps(target: Tensor) -> int:
    """The minimum number of steps of a CTC path through labels ``(N,)``: a blank separates two equal labels."""
    return len(target) + int((target[1:] == target[:-1]).sum())


def ctc_losses(out: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """``-log p(labels)`` of each sequence ``(B,)``; 0 if no path is as short as the sequence.

    Args:
        out: outputs ``(B, T, K)``, the blank first.
        target: labels ``(B, N)``, blanks after their ends.
        lengths: number of steps ``(B,)`` without padding.

    Raises:
        ValueError: lengths outside 1..T.
    """
    mask = valid_steps(lengths, out.shape[1])[..., None]  # (B, T, 1)
    # Masked before the softmax, because a NaN in the padding would survive a zero gradient.
    scores = log_probs(out.masked_fill(~mask, 0)).transpose(0, 1)  # (T, B, K)
    counts = (target > BLANK).sum(1)
    return F.ctc_loss(scores, target, lengths, counts, reduction="none", zero_infinity=True)


def loss_of_each_label(out: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """`ctc_losses` per label of a sequence, averaged over the batch."""
    counts = (target > BLANK).sum(1)
    return (ctc_losses(out, target, lengths) / counts.clamp(min=1)).mean()
