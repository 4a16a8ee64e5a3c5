"""Products with compressed rows and along paths, for vectors and for maps, and their gradients."""

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from prernn.ops.native.library import contiguous, expect, hold, kernels, run, threads_for


class _RowsProduct(ctypes.Structure):
    """``struct rows_product`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "gates", "receivers", "senders", "entries")),
        ("threads", c_int32),
        *((name, c_void_p) for name in ("row_start", "column", "weight", "bias", "h", "y", "d_y", "d_h", "d_weight")),
    )


class _NarrowRows(ctypes.Structure):
    """``struct narrow_rows`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "gates", "receivers", "senders", "entries", "stride")),
        *((name, c_int32) for name in ("threads", "eight")),
        *((name, c_void_p) for name in ("row_start", "column", "weight", "scale", "bias", "h", "y")),
    )


class _PathMaps(ctypes.Structure):
    """``struct path_maps`` of kernels.h."""

    what = "paths"
    _fields_ = (
        *((name, c_int64) for name in ("rows", "paths", "inputs", "outputs", "taps")),
        *((name, c_int64) for name in ("plane", "height", "width", "step")),
        ("threads", c_int32),
        *(
            (name, c_void_p)
            for name in ("source", "destination", "shift", "weight", "bias", "x", "y", "d_y", "d_weight")
        ),
    )


class _PathProduct(ctypes.Structure):
    """``struct path_product`` of kernels.h."""

    what = "paths"
    _fields_ = (
        *((name, c_int64) for name in ("rows", "paths", "inputs", "outputs")),
        *((name, c_int32) for name in ("threads", "relu")),
        *((name, c_void_p) for name in ("source", "destination", "weight", "bias", "x", "y", "d_y", "d_weight")),
    )


def rows_product(h: Tensor, weight: Tensor, start: Tensor, column: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y[n, g, i] = bias[g, i] + sum of weight[g, k] h[n, column[k]]`` over the entries k of row i: ``(N, G, D)``.

    Args:
        h: ``(N, senders)``, float32.
        weight: ``(G, E)``, float32.
        start: ``(D+1,)`` int64, where each row's entries begin.
        column: ``(E,)`` int32.
        bias: ``(G*D,)`` float32, or None.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
        MemoryError: no memory for the kernels' own buffers.
    """
    h, weight = _dense("h", h), _dense("weight", weight)
    y = h.new_empty(h.shape[0], weight.shape[0], start.shape[0] - 1)
    tensors = {"weight": weight, "y": y}
    if bias is not None:
        expect("bias", bias, torch.float32, (y.shape[1] * y.shape[2],))
        tensors["bias"] = bias.contiguous()
    run(kernels.prernn_rows_product, _rows_job(h, weight.shape[0], start, column, **tensors))
    return y


def narrow_rows(
    h: Tensor, weight: Tensor, scale: Tensor | None, start: Tensor, column: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``y[n, g, i] = scale[g, i] * sum of weight[k, g] h[n, column[k]] + bias[g, i]`` over the entries k of row i.

    Args:
        h: ``(N, senders)``, float32.
        weight: ``(E, G)``, bfloat16 or int8; its rows need not be adjacent.
        scale: ``(G*D,)`` float32, or None.
        start: ``(D+1,)`` int64, where each row's entries begin.
        column: ``(E,)`` uint16.
        bias: ``(G*D,)`` float32, or None.

    Returns:
        ``(N, G, D)``.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
    """
    (entries, gates), receivers = weight.shape, len(start) - 1
    if weight.dtype not in (torch.bfloat16, torch.int8) or (gates > 1 and weight.stride(1) != 1):
        raise ValueError(f"expected weights of bfloat16 or int8 with adjacent gates, got {weight.dtype}")
    h = _dense("h", h)
    expect("start", start, torch.int64, (receivers + 1,))
    expect("column", column, torch.uint16, (entries,))
    for name, each in {"scale": scale, "bias": bias}.items():
        expect(name, each, torch.float32, (gates * receivers,))
    y = h.new_empty(h.shape[0], gates, receivers)
    job = _NarrowRows(h.shape[0], gates, receivers, h.shape[1], entries, weight.stride(0))
    job.threads, job.eight = threads_for(entries * gates * (0.1 + 0.05 * len(h))), weight.dtype == torch.int8
    held = contiguous(row_start=start, column=column, scale=scale, bias=bias, h=h, y=y) | {"weight": weight}
    for name, tensor in held.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    run(kernels.prernn_narrow_rows, job)
    return y


def rows_backward(d_y: Tensor, h: Tensor, weight: Tensor, start: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `rows_product` with respect to h and its weight, from ``d_y (N, G, D)``."""
    h, weight, d_y = _dense("h", h), _dense("weight", weight), _dense("d_y", d_y)
    d_h, d_weight = torch.empty_like(h), torch.empty_like(weight)
    tensors = {"weight": weight, "d_y": d_y, "d_h": d_h, "d_weight": d_weight}
    run(kernels.prernn_rows_backward, _rows_job(h, weight.shape[0], start, column, **tensors))
    return d_h, d_weight


def _dense(name: str, tensor: Tensor) -> Tensor:
    expect(name, tensor, torch.float32, tuple(tensor.shape))
    return tensor.contiguous()


def _rows_job(h: Tensor, gates: int, start: Tensor, column: Tensor, **tensors: Tensor) -> _RowsProduct:
    job = _RowsProduct(h.shape[0], gates, start.shape[0] - 1, h.shape[1], column.shape[0])
    job.threads = threads_for(h.shape[0] * gates * column.shape[0] * 0.1)
    hold(job, {"row_start": start, "column": column, "h": h, **tensors})
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
        size: number of outputs.
        relu: whether ``max(0, x)`` is sent along the paths instead of ``x``.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
        IndexError: a path that leads outside.
        MemoryError: no memory for the kernels' own buffers.
    """
    y = x.new_empty(x.shape[0], size)
    job = _path_job(x, y, source, destination, relu, weight=weight, bias=bias)
    job.y = y.data_ptr()
    run(kernels.prernn_path_product, job)
    return y


def path_weight(d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, relu: bool) -> Tensor:
    """Gradient of `path_product` with respect to its weight, ``(P,)``, from ``d_y (N, size)``."""
    d_weight = x.new_empty(source.shape[0])
    job = _path_job(x, d_y, source, destination, relu, d_y=d_y)
    job.d_weight = d_weight.data_ptr()
    run(kernels.prernn_path_weight, job)
    return d_weight


def _path_job(
    x: Tensor, y: Tensor, source: Tensor, destination: Tensor, relu: bool, **tensors: Tensor | None
) -> _PathProduct:
    paths, (rows, inputs), size = source.shape[0], x.shape, y.shape[1]
    shapes = {"weight": (paths,), "bias": (size,), "d_y": (rows, size)}
    for name, tensor in {"x": x, **tensors}.items():
        expect(name, tensor, torch.float32, shapes.get(name, (rows, inputs)))
    for name, index in {"source": source, "destination": destination}.items():
        expect(name, index, torch.int32, (paths,))
    held = contiguous(x=x, source=source, destination=destination, **tensors)
    job = _PathProduct(rows, paths, inputs, size, threads_for(rows * paths * 0.1), relu)
    hold(job, held)
    return job


def path_maps(
    x: Tensor,
    weight: Tensor,
    source: Tensor,
    destination: Tensor,
    bias: Tensor | None,
    size: int,
    shift: Sequence[int],
    place: tuple[int, int, int],
) -> Tensor:
    """``y[n, destination[p], h, w] += weight[p, k] x[n, source[p], shift[k] + h step + w]``, y starting as the bias.

    Args:
        x: ``(N, I, S)``, float32: channels in planes.
        weight: ``(P, K)``, float32.
        source: ``(P,)`` int32.
        destination: ``(P,)`` int32.
        bias: ``(size,)`` or None, float32.
        size: output channels.
        shift: K offsets into a plane, one per tap of the kernel.
        place: height and width of an output, and the step between its rows in a plane.

    Raises:
        ValueError: a type, device or shape that the kernels do not support, or shifts outside a plane.
        IndexError: a path that leads outside.
        MemoryError: no memory for the kernels' own buffers.
    """
    y = x.new_empty(x.shape[0], size, *place[:2])
    job = _maps_job(x, y, source, destination, shift, place, weight=weight, bias=bias)
    job.y = y.data_ptr()
    if y.numel():
        run(kernels.prernn_path_maps, job)
    return y


def path_maps_weight(
    d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, shift: Sequence[int], step: int
) -> Tensor:
    """Gradient of `path_maps` with respect to its weight, ``(P, K)``, from ``d_y (N, size, height, width)``."""
    d_weight = x.new_empty(source.shape[0], len(shift))
    job = _maps_job(x, d_y, source, destination, shift, (*d_y.shape[2:], step), d_y=d_y)
    job.d_weight = d_weight.data_ptr()
    if not d_y.numel():
        return d_weight.zero_()
    run(kernels.prernn_path_maps_weight, job)
    return d_weight


def _maps_job(
    x: Tensor,
    y: Tensor,
    source: Tensor,
    destination: Tensor,
    shift: Sequence[int],
    place: tuple[int, ...],
    **tensors: Tensor | None,
) -> _PathMaps:
    paths, (rows, inputs, plane), (height, width, step) = source.shape[0], x.shape, place
    shapes = {"weight": (paths, len(shift)), "bias": (y.shape[1],), "d_y": (rows, *y.shape[1:])}
    for name, tensor in {"x": x, **tensors}.items():
        expect(name, tensor, torch.float32, shapes.get(name, tuple(x.shape)))
    for name, index in {"source": source, "destination": destination}.items():
        expect(name, index, torch.int32, (paths,))
    end = (height - 1) * step + width
    if y.numel() and not (step >= width and all(0 <= distance <= plane - end for distance in shift)):
        raise ValueError(f"expected shifts inside planes of {plane} for {end} places, got {list(shift)}")
    held = contiguous(x=x, source=source, destination=destination, **tensors)
    shifts = (c_int64 * len(shift))(*shift)
    threads = threads_for(rows * paths * len(shift) * end * 0.02)
    job = _PathMaps(rows, paths, inputs, y.shape[1], len(shift), plane, height, width, step, threads)
    job.shift = ctypes.cast(shifts, c_void_p)
    hold(job, held, shifts)
    return job
