"""How well single frames of untrimmed video are classified, when most of them show background.

Source: De Geest, Gavves, Ghodrati, Li, Snoek and Tuytelaars, "Online Action Detection", ECCV 2016.
"""

import torch
from torch import Tensor


def average_precision(score: Tensor, positive: Tensor, *, calibrated: bool = False) -> Tensor:
    """Average precision of frames ranked by a score, a scalar; NaN if no frame is positive.

    ``AP = sum_k P(k) I(k) / sum_k I(k)``: k runs over the frames from the highest score down, I(k) is 1 if frame k is
    positive, and ``P(k) = TP / (TP + FP)`` of the frames up to k; equal scores come all at once. Calibrated,
    ``P(k) = TP / (TP + FP / w)`` with ``w`` the number of negative frames over that of positive ones, so that the share
    of positive frames has no effect: a random ranking has 0.5 (De Geest et al., section 4).

    Args:
        score: ``(N,)``.
        positive: ``(N,)``, bool.
        calibrated: whether to calibrate.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> score, positive = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, False, False])
        >>> average_precision(score.flip(0), positive), average_precision(score.flip(0), positive, calibrated=True)
        (tensor(0.2500), tensor(0.5000))
    """
    if score.ndim != 1 or score.shape != positive.shape:
        raise ValueError(f"expected score and positive (N,), got {tuple(score.shape)} and {tuple(positive.shape)}")
    total = int(positive.sum())
    if not total:
        return torch.tensor(torch.nan)
    ratio = (len(score) - total) / total if calibrated else 1.0
    order = score.argsort(descending=True, stable=True)
    ranked = positive[order].double()
    true = ranked.cumsum(0)
    false = (1 - ranked).cumsum(0)
    last = torch.ones_like(ranked, dtype=torch.bool)  # the last of the frames with its score
    last[:-1] = score[order].diff() != 0
    true, false = true[last], false[last]
    precision = true / (true + (false / ratio if ratio else false))  # if all are positive, none is false
    gained = true.diff(prepend=true.new_zeros(1))
    return (precision * gained).sum().div(total).float()
