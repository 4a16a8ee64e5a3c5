"""The CPU's kernels: a small C library, called through ctypes (its sources are in ``kernels/``).

One pass over time with the state in registers, forward and hand-written backward, for AVX-512, AVX2 or what every
processor of the family has; ``PRERNN_INSTRUCTIONS`` forces one of them. Threads are as many as torch has, but one
below about a millisecond of work.
"""

import ctypes
import importlib.util
import os
from collections.abc import Callable
from ctypes import c_char_p, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from prernn.ops.backends import DTYPES

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
"""Cells whose gates see no state."""
STATES = {1: 2, 6: 2, 7: 2}
"""State tensors of the cells that have more than one."""
NANOSECONDS = {0: 0.5, 1: 2.0, 2: 1.5, 3: 1.5, 4: 0.3, 5: 1.0, 6: 1.5, 7: 1.5, 8: 0.7}
"""Rough time of a step of one unit on one core; with a band, 0.05 more for each of its weights."""
WORTH_THREADS = 1e6
"""Nanoseconds of work below which one thread does it."""


class _Recurrence(ctypes.Structure):
    """``struct recurrence`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("steps", "rows", "size", "columns", "u_time", "u_row", "u_gate")),
        *((name, c_int32) for name in ("cell", "activation", "update_new", "bfloat16", "threads")),
        ("scale", c_float),
        *((name, c_void_p) for name in ("u", "weight", "bias", "state", "started", "lengths", "out", "last", "kept")),
        *((name, c_void_p) for name in ("d_out", "d_last", "d_u", "d_weight", "d_bias", "d_state")),
    )


class _RowsProduct(ctypes.Structure):
    """``struct rows_product`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "gates", "receivers", "senders", "entries")),
        ("threads", c_int32),
        *((name, c_void_p) for name in ("row_start", "column", "weight", "h", "y")),
    )


class _PathProduct(ctypes.Structure):
    """``struct path_product`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "paths", "inputs", "outputs")),
        *((name, c_int32) for name in ("threads", "relu")),
        *((name, c_void_p) for name in ("source", "destination", "weight", "bias", "x", "y", "d_y", "d_weight")),
    )


def _open() -> ctypes.CDLL:
    spec = importlib.util.find_spec("prernn.ops._kernels")
    if spec is None or spec.origin is None:
        raise ImportError("prernn was installed without its C kernels: no C compiler was found when it was built")
    library = ctypes.CDLL(spec.origin)
    library.prernn_choose.argtypes = (c_char_p,)
    library.prernn_instructions.restype = c_char_p
    for name in ("forward", "backward", "rows_product", "path_product", "path_weight"):
        getattr(library, f"prernn_{name}").argtypes = (c_void_p,)
    library.prernn_rows_weight.argtypes = (c_void_p, c_void_p, c_void_p)
    wanted = os.environ.get("PRERNN_INSTRUCTIONS")
    if not library.prernn_choose(wanted.encode() if wanted else None):
        raise ValueError(f"expected PRERNN_INSTRUCTIONS to name what this processor has, got {wanted!r}")
    return library


_library = _open()


def instructions() -> str:
    """Instruction set of the kernels that run: avx512, avx2 or baseline."""
    name: bytes = _library.prernn_instructions()
    return name.decode()


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
    """A whole sequence of a diagonal or band recurrence.

    Args:
        cell: ``vrnn:tanh|relu``, ``lstm``, ``gru:before|after:new|old``, ``linear:mean|sum``, ``ligru``, ``qrnn``,
            ``sru`` or ``mingru`` (`prernn.layers.cells`).
        u: gate inputs ``(T, N, G, D)``, or ``(T, N, 1, D)`` shared by all gates; float32 or bfloat16.
        weight: ``(G, D, C)``, see `prernn.ops.fused`; ``(0, D, 1)`` for the last three, whose gates see no state.
        bias: ``(G, D)`` or None, added to the recurrent product.
        state: ``(S, N, D)``.
        started: ``(N,)`` bool or None; a linear cell's row that has not started takes ``h = u``.
        lengths: ``(N,)`` int64 or None. A row that has ended keeps its state and puts out zeros.
        keep: whether to return the states after each step, which `backward` needs.

    Returns:
        Outputs ``(T, N, D)`` in the type of ``u``, state after each row's last step ``(S, N, D)``, states after
        each step ``(T, N, S, D)`` or an empty tensor.

    Raises:
        ValueError: a type, device or shape that the kernels do not take.
        MemoryError: no memory for the kernels' own buffers.
    """
    u = _check(cell, u, weight, bias, state, started, lengths)
    steps, rows, _, size = u.shape
    out = u.new_empty(steps, rows, size)
    last = torch.empty_like(state, memory_format=torch.contiguous_format)
    make = torch.empty if lengths is None else torch.zeros  # what lies past a row's length is never written
    kept = make((steps, rows, state.shape[0], size) if keep else 0)
    held = _contiguous(weight=weight, bias=bias, state=state, started=started, lengths=lengths)
    job = _job(cell, u, weight, held, out=out, last=last, kept=kept if keep else None)
    _run(_library.prernn_forward, job)
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

    The gates are computed again from ``u`` and ``kept``, so that nothing else need be saved.
    """
    u = _check(cell, u, weight, bias, state, started, lengths)
    d_u = u.new_empty(u.shape)
    d_weight, d_state = torch.empty_like(weight, memory_format=torch.contiguous_format), torch.empty_like(state)
    d_bias = None if bias is None else torch.empty_like(bias)
    held = _contiguous(
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
    _run(_library.prernn_backward, job)
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
    """Refuses what the kernels would read wrongly; returns ``u`` as they read it."""
    if u.dtype not in DTYPES["native"]:
        raise ValueError(f"expected gate inputs of float32 or bfloat16 for the native kernels, got {u.dtype}")
    code = _code(cell)
    gates, products = GATES[code], 0 if code in WITHOUT_WEIGHTS else GATES[code]
    steps, rows, inputs, size = u.shape
    columns = weight.shape[2] if weight.ndim == 3 and products else 1
    _expect("u", u, u.dtype, (steps, rows, inputs, size))
    _expect("weight", weight, torch.float32, (products, size, columns))
    _expect("bias", bias, torch.float32, (products, size))
    _expect("state", state, torch.float32, (STATES.get(code, 1), rows, size))
    _expect("started", started, torch.bool, (rows,))
    _expect("lengths", lengths, torch.int64, (rows,))
    if inputs not in (1, gates) or columns % 2 == 0:
        raise ValueError(f"expected {gates} gates or 1 and an odd band, got {inputs} and {columns}")
    if lengths is not None and rows and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise ValueError(f"expected lengths between 0 and {steps}, got {lengths.tolist()}")
    # the kernels read units side by side, and gates that lie on top of each other as one shared input
    dense = u.stride(3) == 1 or size == 1
    return u if dense and (inputs == 1 or u.stride(2)) else u.contiguous()


def _expect(name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor is None:
        return
    if tensor.dtype != dtype:
        raise ValueError(f"expected {name} of {dtype}, got {tensor.dtype}")
    if tensor.device.type != "cpu":
        raise ValueError(f"expected {name} on the CPU for the native kernels, got {tensor.device}")
    if tensor.shape != shape:
        raise ValueError(f"expected {name} {shape}, got {tuple(tensor.shape)}")


def _code(cell: str) -> int:
    name = cell if cell in CELLS else cell.rpartition(":")[0]
    if name not in CELLS:
        raise ValueError(f"expected cell to be one of {', '.join(CELLS)}, got {cell!r}")
    return CELLS[name]


def _contiguous(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    return {name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()}


def _job(cell: str, u: Tensor, weight: Tensor, held: dict[str, Tensor | None], **results: Tensor | None) -> _Recurrence:
    """The C structure; it keeps alive what it points to."""
    steps, rows, inputs, size = u.shape
    gates, _, columns = weight.shape
    time, row, gate, _ = u.stride()
    code = _code(cell)
    each = NANOSECONDS[code] + (0.05 * gates * columns if columns > 1 else 0)
    job = _Recurrence(
        *(steps, rows, size, columns, time, row, gate if inputs > 1 else 0),
        *(code, cell == "vrnn:relu", cell.endswith(":new"), u.dtype == torch.bfloat16),
        _threads(steps * rows * size * each),
        0.5 if cell == "linear:mean" else 1.0,
        u.data_ptr(),
    )
    for tensors in (held, results):
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(job, name, tensor.data_ptr())
    job.keep_alive = (u, held, results)
    return job


def _threads(nanoseconds: float) -> int:
    return torch.get_num_threads() if nanoseconds > WORTH_THREADS else 1


def _run(function: Callable[..., int], job: ctypes.Structure, *arguments: int) -> None:
    code = function(ctypes.byref(job), *arguments)
    if code == 1:
        raise MemoryError("the native kernels could not get memory for their buffers")
    if code == 2:
        raise IndexError(f"expected paths from {job.inputs} to {job.outputs} neurons, got one that leads outside")


def rows_product(h: Tensor, weight: Tensor, start: Tensor, column: Tensor) -> Tensor:
    """``y[n, g, i] = sum of weight[g, k] h[n, column[k]]`` over the entries k of row i: ``(N, G, D)``.

    Args:
        h: ``(N, senders)``, float32.
        weight: ``(G, E)``, float32.
        start: ``(D+1,)`` int64, where each row's entries begin.
        column: ``(E,)`` int32.

    Raises:
        ValueError: a type or device that the kernels do not take.
        MemoryError: no memory for the kernels' own buffers.
    """
    h, weight = _dense("h", h), _dense("weight", weight)
    y = h.new_empty(h.shape[0], weight.shape[0], start.shape[0] - 1)
    _run(_library.prernn_rows_product, _rows_job(h, weight.shape[0], start, column, weight=weight, y=y))
    return y


def rows_weight(h: Tensor, d_y: Tensor, start: Tensor, column: Tensor) -> Tensor:
    """Gradient of `rows_product` with respect to its weight, ``(G, E)``, from ``d_y (N, G, D)``."""
    h, d_y = _dense("h", h), _dense("d_y", d_y)
    d_weight = h.new_empty(d_y.shape[1], column.shape[0])
    job = _rows_job(h, d_y.shape[1], start, column)
    _run(_library.prernn_rows_weight, job, d_weight.data_ptr(), d_y.data_ptr())
    return d_weight


def _dense(name: str, tensor: Tensor) -> Tensor:
    _expect(name, tensor, torch.float32, tuple(tensor.shape))
    return tensor.contiguous()


def _rows_job(h: Tensor, gates: int, start: Tensor, column: Tensor, **tensors: Tensor) -> _RowsProduct:
    job = _RowsProduct(h.shape[0], gates, start.shape[0] - 1, h.shape[1], column.shape[0])
    job.threads = _threads(h.shape[0] * gates * column.shape[0] * 0.1)
    for name, tensor in {"row_start": start, "column": column, "h": h, **tensors}.items():
        setattr(job, name, tensor.data_ptr())
    job.keep_alive = (h, start, column, tensors)
    return job


def path_product(
    x: Tensor, weight: Tensor, source: Tensor, destination: Tensor, bias: Tensor | None, size: int, relu: bool
) -> Tensor:
    """``y[n, destination[p]] += weight[p] x[n, source[p]]`` in the paths' order, ``y (N, size)`` starting as the bias.

    Args:
        x: ``(N, I)``, float32.
        weight: ``(P,)``, float32.
        source: ``(P,)`` int32.
        destination: ``(P,)`` int32.
        bias: ``(size,)`` or None, float32.
        size: outputs.
        relu: whether ``max(0, x)`` goes along the paths.

    Raises:
        ValueError: a type, device or shape that the kernels do not take.
        IndexError: a path that leads outside.
        MemoryError: no memory for the kernels' own buffers.
    """
    y = x.new_empty(x.shape[0], size)
    job = _path_job(x, y, source, destination, relu, weight=weight, bias=bias)
    job.y = y.data_ptr()
    _run(_library.prernn_path_product, job)
    return y


def path_weight(d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, relu: bool) -> Tensor:
    """Gradient of `path_product` with respect to its weight, ``(P,)``, from ``d_y (N, size)``."""
    d_weight = x.new_empty(source.shape[0])
    job = _path_job(x, d_y, source, destination, relu, d_y=d_y)
    job.d_weight = d_weight.data_ptr()
    _run(_library.prernn_path_weight, job)
    return d_weight


def _path_job(
    x: Tensor, y: Tensor, source: Tensor, destination: Tensor, relu: bool, **tensors: Tensor | None
) -> _PathProduct:
    paths, (rows, inputs), size = source.shape[0], x.shape, y.shape[1]
    shapes = {"weight": (paths,), "bias": (size,), "d_y": (rows, size)}
    for name, tensor in {"x": x, **tensors}.items():
        _expect(name, tensor, torch.float32, shapes.get(name, (rows, inputs)))
    for name, index in {"source": source, "destination": destination}.items():
        _expect(name, index, torch.int32, (paths,))
    held = _contiguous(x=x, source=source, destination=destination, **tensors)
    job = _PathProduct(rows, paths, inputs, size, _threads(rows * paths * 0.1), relu)
    for name, tensor in held.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    job.keep_alive = held
    return job
