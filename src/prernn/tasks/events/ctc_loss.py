"""The loss of CTC, and what it asks of a sequence: see `prernn.tasks.events.ctc_decoders`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.tasks.events.ctc_decoders import BLANK
from prernn.tasks.task import valid_steps


def log_probs(out: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-softmax of outputs over the temperature, in float32 at least; at 1 that of log-probabilities is these."""
    return ((out if out.dtype == torch.float64 else out.float()) / temperature).log_softmax(-1)


def least_steps(target: Tensor) -> int:
    """Steps that a path of CTC through labels ``(N,)`` has at least: a blank parts two of the same."""
    return len(target) + int((target[1:] == target[:-1]).sum())


def ctc_losses(out: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """``-log p(labels)`` of each sequence ``(B,)``; 0 where no path is as short as the sequence.

    Args:
        out: outputs ``(B, T, K)``, the blank first.
        target: labels ``(B, N)``, blanks behind their ends.
        lengths: steps ``(B,)`` that are no padding.

    Raises:
        ValueError: lengths outside 1..T.
    """
    mask = valid_steps(lengths, out.shape[1])[..., None]  # (B, T, 1)
    # Masked before the softmax, because a NaN in the padding would survive a zero gradient.
    scores = log_probs(out.masked_fill(~mask, 0)).transpose(0, 1)  # (T, B, K)
    counts = (target > BLANK).sum(1)
    return F.ctc_loss(scores, target, lengths, counts, reduction="none", zero_infinity=True)


def loss_of_each_label(out: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """`ctc_losses` for each label of a sequence, a mean over the batch."""
    counts = (target > BLANK).sum(1)
    return (ctc_losses(out, target, lengths) / counts.clamp(min=1)).mean()
