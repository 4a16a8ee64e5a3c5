"""GPU kernels for recurrences whose hidden-to-hidden matrices are diagonal or a band, written in Triton.

`forward` runs a cell over time, `backward` is its hand-written gradient. There are ``T`` time steps, ``N`` rows, ``G``
gates, ``D`` neurons, ``S`` state tensors, ``C`` columns of the band (odd; 1 for a diagonal):

    cell           equations of a step                                                                 G  S
    vrnn:tanh      h_t = tanh(u + R)                                                                   1  1
    vrnn:relu      h_t = relu(u + R)                                                                   1  1
    lstm           c_t = sig(u_f + R_f) * c + sig(u_i + R_i) * tanh(u_g + R_g)                         4  2
                   h_t = sig(u_o + R_o) * tanh(c_t)                                 (i, f, g, o)
    gru:RESET:..   r, z = sig(u_rz + R_rz)                                          (r, z, n)          3  1
                   n = tanh(u_n + W_n (r*h) + b_n), RESET=before; tanh(u_n + r*R_n), RESET=after
    gru:..:UPDATE  h_t = h + z*(n-h), UPDATE=new; n + z*(h-n), UPDATE=old
    linear:mean    h_t = (u + R) / 2; h_0 = u_0 in a row that has not started                          1  1
    linear:sum     h_t = u + R; h_0 = u_0 in a row that has not started                                1  1
    ligru          z = sig(u_z + R_z); h_t = z*h + (1-z) * relu(u_n + R_n)          (z, n)             2  1
    qrnn           f = sig(u_f); c_t = f*c + (1-f) * tanh(u_z); h_t = sig(u_o)*c_t  (z, f, o)          3  2
    sru            f, r = sig(u_fr); c_t = f*c + (1-f) * u_x                        (x, f, r, s)       4  2
                   h_t = r * tanh(c_t) + (1-r) * u_s
    mingru         z = sig(u_z); h_t = (1-z)*h + z*u_h                              (z, h)             2  1

    R_g[i] = b_g[i] + sum over columns c of weight[g, i, c] * h_{t-1}[i + c - (C-1)/2], nothing from outside 0..D-1

All arithmetic and the state are float32, whatever the dtype of ``u``. Results are bitwise reproducible: sums over rows
are computed from partial sums in a fixed order, without atomics.

The neurons of a diagonal are independent, so a program runs some neurons of a row through all steps with everything in
registers. Those of a band interact, so one program holds all neurons of a row, and values that neighbors read (h, or
r*h, or the gates' gradients) go through global memory, with a barrier between writing and reading.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from prernn.ops import triton_kernels
from prernn.ops.backends import DTYPES

GATES = {
    "vrnn:tanh": 1,
    "vrnn:relu": 1,
    "lstm": 4,
    "gru:before:new": 3,
    "gru:before:old": 3,
    "gru:after:new": 3,
    "gru:after:old": 3,
    "linear:mean": 1,
    "linear:sum": 1,
    "ligru": 2,
    "qrnn": 3,
    "sru": 4,
    "mingru": 2,
}
"""Number of gates of each cell."""

WITHOUT_WEIGHTS = ("qrnn", "sru", "mingru")
"""Cells whose gates do not see the state, so that there is no R."""

TWO_STATES = ("lstm", "qrnn", "sru")

MAX_BAND_SIZE = 16384
"""Most neurons with a band, where each row needs one program (from 4096 neurons on, registers spill)."""

PROGRAMS = 4096
"""Number of programs that fills any GPU; if there would be more, a backward program processes several rows."""


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
    """Runs ``cell`` over gate inputs, ``s_t = cell(u_t, s_{t-1})``.

    Args:
        cell: a name in `GATES`.
        u: gate inputs ``(T, N, G, D)``, or ``(T, N, 1, D)`` if all gates share one; float32, bfloat16 or float16.
        weight: ``(G, D, C)`` float32; entry ``[g, i, c]`` connects neuron ``i + c - (C-1)/2`` to neuron ``i``.
        bias: ``(G, D)`` float32, or None.
        state: ``(S, N, D)`` float32, ``s_{-1}``.
        started: ``(N,)`` bool, or None if all rows have started; only used by the linear cells.
        lengths: ``(N,)`` int64 valid steps of each row; a row that has ended keeps its state and outputs zeros.
        keep: whether to return the states that `backward` needs.

    Returns:
        Outputs ``(T, N, D)`` in the dtype of ``u``, the state ``(S, N, D)`` after each row's last valid step, and
        the states ``(T, N, S, D)`` after every step (undefined after a row's end), empty without ``keep``.

    Raises:
        ValueError: a dtype, shape or device that does not fit; the message says what was expected.
    """
    _check(cell, u, weight, bias, state, started, lengths)
    steps, rows, _, size = u.shape
    states, gates, columns = state.shape[0], weight.shape[0], weight.shape[2]
    started = started.contiguous() if started is not None and cell.startswith("linear") else None
    lengths = None if lengths is None else lengths.contiguous()
    u, state, weight = _dense(u), state.contiguous(), _turned(weight)
    bias = weight.new_zeros(gates, size) if bias is None else bias.contiguous()
    out = u.new_empty(steps, rows, size)
    last = torch.empty_like(state)
    # without keep a band still needs memory where neighbors read h: two slots, used alternately
    kept = state.new_empty((steps if keep else 2, rows, states, size) if keep or columns > 1 else 0)
    reset = state.new_empty((rows, size) if columns > 1 and "before" in cell else 0)
    if rows:
        constants = _constants(cell, u, state, weight)
        grid = (rows, triton.cdiv(size, constants["BLOCK"]))
        with torch.cuda.device_of(u):
            triton_kernels.forward_kernel[grid](
                u, weight, bias, state, started, lengths, kept, reset, out, last,
                steps, rows, size, *u.stride()[:3], KEEP=keep, **constants,
            )  # fmt: skip
    return out, last, kept if keep else state.new_empty(0)


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
    """The gradient of `forward`, which must have run with ``keep``. Gates are recomputed.

    Args:
        d_out: gradient of the outputs, ``(T, N, D)``.
        d_last: gradient of the last state, ``(S, N, D)`` float32.
        kept: the states that `forward` returned; the other arguments are those of `forward`.

    Returns:
        Gradients of ``u`` (in its shape and dtype, zero after a row's end), of ``weight`` (zero outside the
        matrix), of ``bias`` (None without one) and of ``state``.

    Raises:
        ValueError: a dtype, shape or device that does not fit; the message says what was expected.
    """
    _check(cell, u, weight, bias, state, started, lengths)
    (steps, rows, inputs, size), states, (gates, _, columns) = u.shape, state.shape[0], weight.shape
    _expect("d_out", d_out, DTYPES["triton"], (steps, rows, size), u.device)
    _expect("d_last", d_last, (torch.float32,), (states, rows, size), u.device)
    _expect("kept", kept, (torch.float32,), (steps, rows, states, size), u.device)
    d_u = u.new_empty(steps, rows, inputs, size)
    d_state = torch.empty_like(state, memory_format=torch.contiguous_format)
    if not rows:
        return d_u, torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias), d_state
    started = started.contiguous() if started is not None and cell.startswith("linear") else None
    lengths = None if lengths is None else lengths.contiguous()
    u, d_out, d_last, kept = _dense(u), _dense(d_out), d_last.contiguous(), kept.contiguous()
    state, weight = state.contiguous(), _turned(weight)
    biases = weight.new_zeros(gates, size) if bias is None else bias.contiguous()

    constants = _constants(cell, u, state, weight)
    blocks = triton.cdiv(size, constants["BLOCK"])
    rows_each = triton.cdiv(rows, max(1, PROGRAMS // blocks))
    chunks = triton.cdiv(rows, rows_each)
    band = columns > 1
    d_weight = weight.new_empty((chunks, gates, size) if not band else 0)
    d_bias = weight.new_empty(chunks, gates, size)
    d_recurrent = weight.new_empty((steps, rows, gates, size) if band else 0)
    reset = weight.new_empty((steps, rows, size) if band and "before" in cell else 0)
    with torch.cuda.device_of(u):
        triton_kernels.backward_kernel[(chunks, blocks)](
            d_out, d_last, u, weight, biases, state, started, lengths, kept, reset,
            d_recurrent, d_u, d_weight, d_bias, d_state,
            steps, rows, rows_each, size, *u.stride()[:3], *d_out.stride()[:2], **constants,
        )  # fmt: skip
        if band:
            d_weight = _band_weights(cell, d_recurrent, state, started, lengths, kept, reset, columns)
    d_weight = d_weight.sum(0).view(gates, columns, size).transpose(1, 2).contiguous()
    return d_u, d_weight, None if bias is None else d_bias.sum(0), d_state


def _band_weights(
    cell: str,
    d_recurrent: Tensor,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    kept: Tensor,
    reset: Tensor,
    columns: int,
) -> Tensor:
    """Partial sums ``(chunks of rows, G, C, D)`` of the gradient of a band's weights.

    ``d_weight[g, c, i] = sum over t, n of d_recurrent[t, n, g, i] * h_{t-1}[n, i + c - (C-1)/2]``
    """
    steps, rows, gates, size = d_recurrent.shape
    block, width = min(_power_of_two(size), 128), min(_power_of_two(columns), 8)
    blocks = triton.cdiv(size, block), triton.cdiv(columns, width)
    # a quarter of the programs, since each writes a whole table of sums
    rows_each = triton.cdiv(rows, max(1, PROGRAMS // 4 // (blocks[0] * blocks[1])))
    chunks = triton.cdiv(rows, rows_each)
    partial = d_recurrent.new_empty(chunks, gates, columns, size)
    triton_kernels.band_weight_kernel[(chunks, *blocks)](
        d_recurrent, state, started, lengths, kept, reset, partial, steps, rows, rows_each, size,
        GATES=gates, STATES=state.shape[0], RESET="before" in cell, COLUMNS=columns,
        WIDTH=width, BLOCK=block, num_warps=4, num_stages=1, enable_fp_fusion=True,
    )  # fmt: skip
    return partial


def _constants(cell: str, u: Tensor, state: Tensor, weight: Tensor) -> dict[str, Any]:
    """The compile-time constants of the kernels."""
    kind, option, update, *_ = [*cell.split(":"), "", ""]
    products, columns, size = weight.shape
    block = _power_of_two(size) if columns > 1 else min(_power_of_two(size), 128)
    return {
        "KIND": kind,
        "OPTION": option,
        "UPDATE": update,
        "GATES": GATES[cell],
        "PRODUCTS": products,
        "SHARED": u.shape[2] == 1,
        "STATES": state.shape[0],
        "COLUMNS": columns,
        "BLOCK": block,
        # one neuron per thread if there are enough threads: loads of neighbors then coalesce whatever their offset
        "num_warps": min(max(block // 32, 1), 32),
        "num_stages": 1,  # no prefetching: a step reads what the previous step wrote
        "enable_fp_fusion": True,  # Triton's default, which is about to change
    }


def _turned(weight: Tensor) -> Tensor:
    """``(G, D, C)`` to ``(G, C, D)``, so that neighboring neurons read adjacent values."""
    return weight.transpose(1, 2).contiguous()


def _power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with neighboring neurons adjacent in memory; copied only if they are not."""
    return tensor if tensor.shape[-1] == 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _check(
    cell: str,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
) -> None:
    """Raises ValueError if an argument does not fit: a kernel would read past its end or misread it."""
    if cell not in GATES:
        raise ValueError(f"expected cell to be one of {', '.join(GATES)}, got {cell!r}")
    gates, states = GATES[cell], 2 if cell in TWO_STATES else 1
    products = 0 if cell in WITHOUT_WEIGHTS else gates
    if u.ndim != 4 or u.shape[2] not in (1, gates):
        raise ValueError(f"expected u of shape (T, N, 1 or {gates}, D), got {tuple(u.shape)}")
    _expect("u", u, DTYPES["triton"], tuple(u.shape), u.device)
    _, rows, _, size = u.shape
    if weight.ndim != 3 or weight.shape[2] % 2 == 0:
        raise ValueError(f"expected weight of shape (G, D, C) with an odd C, got {tuple(weight.shape)}")
    if weight.shape[2] > 1 and size > MAX_BAND_SIZE:
        raise ValueError(f"expected at most {MAX_BAND_SIZE} neurons with a band, got {size}")
    _expect("weight", weight, (torch.float32,), (products, size, weight.shape[2]), u.device)
    _expect("state", state, (torch.float32,), (states, rows, size), u.device)
    if bias is not None:
        _expect("bias", bias, (torch.float32,), (products, size), u.device)
    if started is not None:
        _expect("started", started, (torch.bool,), (rows,), u.device)
    if lengths is not None:
        _expect("lengths", lengths, (torch.int64,), (rows,), u.device)


def _expect(
    name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...], device: torch.device
) -> None:
    if tensor.dtype not in dtypes:
        raise ValueError(f"expected {name} in {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"expected {name} on {device} like u, got {tensor.device}")
