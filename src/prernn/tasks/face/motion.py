"""How landmarks move: how much they tremble, when a face is still, and how far they lag."""

import torch
from torch import Tensor

from prernn.tasks.face.landmarks import inter_ocular

STILL = 0.005
"""A face is still if its points move by less than this, in inter-ocular distances a frame: a fifth of a pixel if the
eyes are 40 pixels apart."""

MOST_LAG = 10
"""Number of frames that `lag` looks back."""

MOST_LEAD = 2
"""Number of frames that it looks ahead."""


def trembles(points: Tensor, size: Tensor) -> Tensor:
    """Mean second difference of points ``(..., T, N, 2)`` in face sizes, ``(..., T-2)``.

    .. math:: q_t = \\frac{1}{N d_t} \\sum_i \\|p_{t+1,i} - 2 p_{t,i} + p_{t-1,i}\\|

    It is the mean size of the acceleration, per frame squared: 0 for points that rest or move uniformly. For points
    drawn independently at every frame with standard deviation s in x and y it is 3.07 s.

    Args:
        points: in pixels.
        size: ``(..., T)`` of the face in pixels, such as `prernn.tasks.face.landmarks.inter_ocular`.
    """
    return torch.linalg.vector_norm(points.diff(n=2, dim=-3), dim=-1).mean(-1) / size[..., 1:-1]


def still(true: Tensor) -> Tensor:
    """Where the true points ``(..., T, 68, 2)`` move by at most `STILL` before and after a frame, ``(..., T-2)``."""
    motion = torch.linalg.vector_norm(true.diff(dim=-3), dim=-1).mean(-1) / inter_ocular(true)[..., 1:]  # (..., T-1)
    calm = motion <= STILL
    return calm[..., 1:] & calm[..., :-1]


def lag(predicted: Tensor, true: Tensor) -> float:
    """The number of frames by which predicted points lag behind the true ones; negative if they are ahead.

    It is the shift k, to a fraction of a frame, at which the error is smallest, after subtracting each point's own mean
    over time (a network that puts the chin too low everywhere is not late):

    .. math:: E(k) = \\sum_{b,t,i} \\| (\\hat y_{b,t,i} - y_{b,t-k,i}) / d_b - mean_t \\|^2

    The best integer k between `MOST_LEAD` ahead and `MOST_LAG` behind is refined by the vertex of the parabola through
    it and its neighbors. NaN if nothing moves.

    Args:
        predicted: ``(..., T, 68, 2)``.
        true: ``(..., T, 68, 2)``.

    Raises:
        ValueError: different shapes, or too few frames to look back and ahead.
    """
    steps = true.shape[-3]
    if predicted.shape != true.shape or steps < MOST_LAG + MOST_LEAD + 3:
        wanted = f"points of one shape with at least {MOST_LAG + MOST_LEAD + 3} frames"
        raise ValueError(f"lag: expected {wanted}, got {tuple(predicted.shape)} and {tuple(true.shape)}")
    size = inter_ocular(true).mean(-1)[..., None, None, None]
    known, seen = true / size, (predicted / size)[..., MOST_LAG : steps - MOST_LEAD, :, :]
    shifts = list(range(-MOST_LEAD, MOST_LAG + 1))
    errors = []
    for shift in shifts:
        error = seen - known[..., MOST_LAG - shift : steps - MOST_LEAD - shift, :, :]
        errors.append((error - error.mean(-3, keepdim=True)).square().sum().item())
    best = min(range(len(errors)), key=errors.__getitem__)
    if max(errors) - min(errors) <= 1e-9 * max(errors):
        return float("nan")
    if best in (0, len(errors) - 1):
        return float(shifts[best])
    before, at, after = errors[best - 1 : best + 2]
    return shifts[best] + (before - after) / (2 * (before - 2 * at + after))
