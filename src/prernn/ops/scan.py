"""A parallel scan over time for the linear diagonal recurrence, in ``log2 T`` steps of plain torch.

For devices and types without a kernel: a loop takes T dependent steps. Differentiable, any type.
"""

import torch
from torch import Tensor

from prernn.ops.reference import State, without_padding


def sequence(
    scale: float, weight: Tensor, bias: Tensor | None, u: Tensor, state: State, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """``h_t = scale (u_t + w h_{t-1} + b)``, and ``h_1 = u_1`` in rows that have not started.

    With ``a = scale w`` and ``x_t = scale (u_t + b)`` the sum of ``a^k x_{t-k}`` over the last ``2^n`` steps doubles
    its reach each time: ``x_t + a^{2^n} x_{t-2^n}`` (Hillis and Steele's scan with a constant factor).

    Args:
        scale: 1/2 or 1.
        weight: ``(D,)``, the diagonal.
        bias: ``(1, D)`` or None.
        u: ``(T, N, 1, D)``.
        state: ``h (N, D)`` and ``started (N, 1)``.
        lengths: as `prernn.ops.sequence`.

    Returns:
        As `prernn.ops.sequence`.
    """
    h, started = state
    u = without_padding(u.squeeze(2), lengths)  # (T, N, D)
    factor = scale * weight
    x = scale * (u if bias is None else u + bias)
    first = torch.where(started > 0, x[0] + factor * h, u[0])
    x = torch.cat([first.unsqueeze(0), x[1:]])
    reach = 1
    while reach < len(x):
        earlier = x[:-reach]
        # an overflowed factor times nothing is nothing, as in the loop
        reached = torch.where(earlier == 0, 0, factor * earlier)
        x = torch.cat([x[:reach], x[reach:] + reached])
        factor, reach = factor * factor, 2 * reach
    if lengths is None:
        return x, (x[-1].clone(), begun(started, lengths))
    out = without_padding(x, lengths)
    rows = torch.arange(x.shape[1], device=x.device)
    last = torch.where((lengths > 0).unsqueeze(1), x[(lengths - 1).clamp(min=0), rows], h)
    return out, (last, begun(started, lengths))


def begun(started: Tensor, lengths: Tensor | None) -> Tensor:
    """Which rows have started after a sequence, ``(N, 1)``: those that had and those with a step."""
    if lengths is None:
        return torch.ones_like(started)
    return ((started > 0) | (lengths > 0).unsqueeze(1)).to(started.dtype)
