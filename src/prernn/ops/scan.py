"""Parallel scans over time, in plain torch, which replace loops of T dependent steps. Differentiable, for any type.

The linear diagonal recurrence, on devices and for types without a kernel, takes ``log2 T`` steps (`sequence`). The
recurrence ``s_t = a_t * s_{t-1} + b_t``, whose coefficients do not depend on the state, is split into chunks of about
sqrt(T) steps (`affine_sequence`): all chunks run through their steps in parallel, starting from zero and accumulating
the product of their a; then the state at the end of each chunk is passed on to the next. This takes about 2 sqrt(T)
dependent operations, and three times the arithmetic of the loop.
"""

import math
from typing import Any

import torch
from torch import Tensor

from prernn.ops.reference import State, without_padding


def sequence(
    scale: float, weight: Tensor, bias: Tensor | None, u: Tensor, state: State, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """``h_t = scale (u_t + w h_{t-1} + b)``, and ``h_1 = u_1`` in rows that have not started.

    With ``a = scale w`` and ``x_t = scale (u_t + b)``, the sum of ``a^k x_{t-k}`` over the last ``2^n`` steps doubles
    its range in each round: ``x_t + a^{2^n} x_{t-2^n}`` (Hillis and Steele's scan with a constant factor).

    Args:
        scale: 1/2 or 1.
        weight: ``(D,)``, the diagonal.
        bias: ``(1, D)`` or None.
        u: ``(T, N, 1, D)``.
        state: ``h (N, D)`` and ``started (N, 1)``.
        lengths: as in `prernn.ops.sequence`.

    Returns:
        As in `prernn.ops.sequence`.
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
        # an overflowed factor times zero is zero, as in the loop
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
    """Which rows have started after a sequence, ``(N, 1)``: those that had started before and those with a step."""
    if lengths is None:
        return torch.ones_like(started)
    return ((started > 0) | (lengths > 0).unsqueeze(1)).to(started.dtype)


def affine_sequence(cell: Any, u: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
    """Runs a cell that has ``affine`` over gate inputs ``u (T, N, G, D)``, like `prernn.ops.sequence`."""
    u = without_padding(u, lengths)
    a, b = cell.affine(u)  # (T, N, D) each
    if lengths is not None:  # a row that has ended keeps its state
        valid = (torch.arange(len(u), device=u.device).unsqueeze(1) < lengths).unsqueeze(2)  # (T, N, 1)
        a, b = torch.where(valid, a, 1), torch.where(valid, b, 0)
    s = affine_scan(a, b, state[-1])
    out = s if len(state) == 1 else cell.output(u, s)
    if lengths is None:
        last = out[-1]
    else:
        rows = torch.arange(u.shape[1], device=u.device)
        last = torch.where((lengths > 0).unsqueeze(1), out[(lengths - 1).clamp(min=0), rows], state[0])
        out = without_padding(out, lengths)
    return out, (s[-1].clone(),) if len(state) == 1 else (last.clone(), s[-1].clone())


def affine_scan(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    """All ``s_t`` of ``s_t = a_t * s_{t-1} + b_t``; ``a``, ``b (T, N, D)``, ``first (N, D)`` is ``s_0``.

    Differentiable any number of times: the backward pass is the same recurrence, reversed in time.
    """
    found: Tensor = _Scan.apply(a, b, first)
    return found


class _Scan(torch.autograd.Function):
    """The gradient of b is ``g_t = grad_t + a_{t+1} g_{t+1}``, that of a ``g_t s_{t-1}``, that of s_0 ``a_1 g_1``."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
        return _chunked(a, b, first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        a, _, first = inputs
        ctx.save_for_backward(a, first, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, first, s = ctx.saved_tensors
        later = torch.cat([a[1:], torch.zeros_like(a[:1])]).flip(0)
        g = affine_scan(later, grad.flip(0), torch.zeros_like(first)).flip(0)
        before = torch.cat([first.unsqueeze(0), s[:-1]])
        return g * before, g, a[0] * g[0]


def _chunked(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    steps = len(a)
    size = max(1, math.isqrt(steps))
    if steps < 4 * size or size == 1:
        return _stepped(a, b, first)
    count = -(-steps // size)
    room = count * size - steps
    if room:  # pad with steps that change nothing
        a, b = torch.cat([a, a.new_ones(room, *a.shape[1:])]), torch.cat([b, b.new_zeros(room, *b.shape[1:])])
    a, b = a.unflatten(0, (count, size)), b.unflatten(0, (count, size))  # (chunks, steps, N, D)
    sums, factors = torch.empty_like(b), torch.empty_like(a)
    sums[:, 0], factors[:, 0] = b[:, 0], a[:, 0]
    for step in range(1, size):
        torch.addcmul(b[:, step], a[:, step], sums[:, step - 1], out=sums[:, step])
        torch.mul(a[:, step], factors[:, step - 1], out=factors[:, step])
    begins = torch.empty_like(sums[:, 0])
    state = first
    for chunk in range(count):
        begins[chunk] = state
        state = sums[chunk, -1] + factors[chunk, -1] * state
    return (sums + factors * begins.unsqueeze(1)).flatten(0, 1)[:steps]


def _stepped(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    states = []
    for a_t, b_t in zip(a.unbind(0), b.unbind(0), strict=True):
        state = torch.addcmul(b_t, a_t, state)
        states.append(state)
    return torch.stack(states)
