"""A whole sequence of a diagonal or band recurrence, forward and backward."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from prernn.ops.backends import DTYPES
from prernn.ops.native.library import contiguous, expect, hold, kernels, run, threads_for

CELLS = {
    "vrnn": 0,
    "lstm": 1,
    "gru:before": 2,
    "gru:after": 3,
    "linear": 4,
    "ligru": 5,
    "qrnn": 6,
    "sru": 7,
    "mingru": 8,
}
GATES = {0: 1, 1: 4, 2: 3, 3: 3, 4: 1, 5: 2, 6: 3, 7: 4, 8: 2}
WITHOUT_WEIGHTS = (6, 7, 8)
"""Cells whose gates do not see the state."""
STATES = {1: 2, 6: 2, 7: 2}
"""State tensors of the cells that have more than one."""
NANOSECONDS = {0: 0.5, 1: 2.0, 2: 1.5, 3: 1.5, 4: 0.3, 5: 1.0, 6: 1.5, 7: 1.5, 8: 0.7}
"""Rough time of one step of one unit on one core; with a band, 0.05 more for each of its weights."""


class _Recurrence(ctypes.Structure):
    """``struct recurrence`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("steps", "rows", "size", "columns", "u_time", "u_row", "u_gate")),
        *((name, c_int32) for name in ("cell", "activation", "update_new", "bfloat16", "threads")),
        ("scale", c_float),
        *((name, c_void_p) for name in ("u", "weight", "bias", "state", "started", "lengths", "out", "last", "kept")),
        *((name, c_void_p) for name in ("d_out", "d_last", "d_u", "d_weight", "d_bias", "d_state")),
    )


def forward(
    cell: str,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes a whole sequence of a diagonal or band recurrence.

    Args:
        cell: ``vrnn:tanh|relu``, ``lstm``, ``gru:before|after:new|old``, ``linear:mean|sum``, ``ligru``, ``qrnn``,
            ``sru`` or ``mingru`` (`prernn.layers.cells`).
        u: gate inputs ``(T, N, G, D)``, or ``(T, N, 1, D)`` shared by all gates; float32 or bfloat16.
        weight: ``(G, D, C)``, see `prernn.ops.fused`; ``(0, D, 1)`` for the last three, which have no ``W_hh``.
        bias: ``(G, D)`` or None, added to the recurrent product.
        state: ``(S, N, D)``.
        started: ``(N,)`` bool or None; a linear cell's row that has not started takes ``h = u``.
        lengths: ``(N,)`` int64 or None. A row that has ended keeps its state and outputs zeros.
        keep: whether to return the states after each step, which `backward` needs.

    Returns:
        Outputs ``(T, N, D)`` in the type of ``u``, state after each row's last step ``(S, N, D)``, states after
        each step ``(T, N, S, D)`` or an empty tensor.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
        MemoryError: no memory for the kernels' own buffers.
    """
    u = _check(cell, u, weight, bias, state, started, lengths)
    steps, rows, _, size = u.shape
    out = u.new_empty(steps, rows, size)
    last = torch.empty_like(state, memory_format=torch.contiguous_format)
    make = torch.empty if lengths is None else torch.zeros  # steps past a row's length are never written
    kept = make((steps, rows, state.shape[0], size) if keep else 0)
    held = contiguous(weight=weight, bias=bias, state=state, started=started, lengths=lengths)
    job = _job(cell, u, weight, held, out=out, last=last, kept=kept if keep else None)
    run(kernels.prernn_forward, job)
    return out, last, kept


def backward(
    cell: str,
    d_out: Tensor,
    d_last: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of `forward` with respect to ``u`` (in its type), ``weight``, ``bias`` and ``state``.

    The gates are recomputed from ``u`` and ``kept``, so that nothing else needs to be saved.
    """
    u = _check(cell, u, weight, bias, state, started, lengths)
    d_u = u.new_empty(u.shape)
    d_weight, d_state = torch.empty_like(weight, memory_format=torch.contiguous_format), torch.empty_like(state)
    d_bias = None if bias is None else torch.empty_like(bias)
    held = contiguous(
        weight=weight,
        bias=bias,
        state=state,
        started=started,
        lengths=lengths,
        kept=kept,
        d_out=d_out.to(u.dtype),
        d_last=d_last,
    )
    job = _job(cell, u, weight, held, d_u=d_u, d_weight=d_weight, d_bias=d_bias, d_state=d_state)
    run(kernels.prernn_backward, job)
    return d_u, d_weight, d_bias, d_state


def _check(
    cell: str,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
) -> Tensor:
    """Raises ValueError for tensors that the kernels would misread; returns ``u`` in a layout that they can read."""
    if u.dtype not in DTYPES["native"]:
        raise ValueError(f"expected gate inputs of float32 or bfloat16 for the native kernels, got {u.dtype}")
    code = _code(cell)
    gates, products = GATES[code], 0 if code in WITHOUT_WEIGHTS else GATES[code]
    steps, rows, inputs, size = u.shape
    columns = weight.shape[2] if weight.ndim == 3 and products else 1
    expect("u", u, u.dtype, (steps, rows, inputs, size))
    expect("weight", weight, torch.float32, (products, size, columns))
    expect("bias", bias, torch.float32, (products, size))
    expect("state", state, torch.float32, (STATES.get(code, 1), rows, size))
    expect("started", started, torch.bool, (rows,))
    expect("lengths", lengths, torch.int64, (rows,))
    if inputs not in (1, gates) or columns % 2 == 0:
        raise ValueError(f"expected {gates} gates or 1 and an odd band, got {inputs} and {columns}")
    if lengths is not None and rows and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise ValueError(f"expected lengths between 0 and {steps}, got {lengths.tolist()}")
    # the kernels need adjacent units, and would take gates with a stride of 0 for one shared input
    dense = u.stride(3) == 1 or size == 1
    return u if dense and (inputs == 1 or u.stride(2)) else u.contiguous()


def _code(cell: str) -> int:
    name = cell if cell in CELLS else cell.rpartition(":")[0]
    if name not in CELLS:
        raise ValueError(f"expected cell to be one of {', '.join(CELLS)}, got {cell!r}")
    return CELLS[name]


def _job(cell: str, u: Tensor, weight: Tensor, held: dict[str, Tensor | None], **results: Tensor | None) -> _Recurrence:
    """The C structure; it keeps the tensors that it points to alive."""
    steps, rows, inputs, size = u.shape
    gates, _, columns = weight.shape
    time, row, gate, _ = u.stride()
    code = _code(cell)
    each = NANOSECONDS[code] + (0.05 * gates * columns if columns > 1 else 0)
    job = _Recurrence(
        *(steps, rows, size, columns, time, row, gate if inputs > 1 else 0),
        *(code, cell == "vrnn:relu", cell.endswith(":new"), u.dtype == torch.bfloat16),
        threads_for(steps * rows * size * each),
        0.5 if cell == "linear:mean" else 1.0,
        u.data_ptr(),
    )
    hold(job, held | results, u)
    return job
