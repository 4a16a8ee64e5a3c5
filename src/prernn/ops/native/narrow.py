"""Products with weights of few bits."""

import ctypes
from ctypes import c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from prernn.ops.narrow import MOST_INPUTS
from prernn.ops.native.library import contiguous, expect, hold, kernels, run, threads_for


class _NarrowProduct(ctypes.Structure):
    """``struct narrow_product`` of kernels.h."""

    what = "segments"
    _fields_ = (
        *((name, c_int64) for name in ("rows", "outputs", "inputs", "weights")),
        *((name, c_int32) for name in ("threads", "eight")),
        *((name, c_void_p) for name in ("begin", "first", "count", "weight", "scale", "bias", "x", "y", "sums")),
    )


def narrow_product(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    segments: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """``y[n, r] = scale[r] * sum over k of weight[begin[r] + k] x[n, first[r] + k] + bias[r]``, ``(N, R)``.

    Args:
        x: ``(N, I)``, float32.
        weight: bfloat16 or int8, ``(R, I)``, or with ``segments`` of any shape.
        scale: ``(R,)`` or None, float32.
        bias: ``(R,)`` or None, float32.
        segments: ``begin`` int64, ``first`` and ``count`` int32, ``(R,)`` each: where the weights of an output begin
            in ``weight``, the input that belongs to the first of them, and how many there are.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
        IndexError: segments out of range.
    """
    if weight.dtype not in (torch.bfloat16, torch.int8):
        raise ValueError(f"expected weights of bfloat16 or int8, got {weight.dtype}")
    job, y = _job(x, weight, scale, bias, segments)
    job.threads = threads_for(weight.numel() * (0.05 + 0.02 * len(x)))
    run(kernels.prernn_narrow_product, job)
    return y


def integer_product(
    x: Tensor,
    weight: Tensor,
    sums: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    segments: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """`narrow_product` with each row of x in 8 bits (`prernn.ops.narrow.in_8_bits`), summed in integers: exact.

    Args:
        x: ``(N, I)``, float32, with I up to `MOST_INPUTS`.
        weight: int8.
        sums: sum of each output's weights, ``(R,)`` int32.
        scale: as in `narrow_product`.
        bias: as in `narrow_product`.
        segments: as in `narrow_product`.

    Raises:
        ValueError: a type, device or shape that the kernels do not support, or more inputs.
        IndexError: segments out of range.
        MemoryError: no memory for the kernels' own buffers.
    """
    if weight.dtype != torch.int8:
        raise ValueError(f"expected weights of int8, got {weight.dtype}")
    if x.shape[1] > MOST_INPUTS:
        raise ValueError(f"expected at most {MOST_INPUTS} inputs, so that sums fit in int32, got {x.shape[1]}")
    job, y = _job(x, weight, scale, bias, segments, sums)
    job.threads = threads_for(weight.numel() * (0.03 + 0.004 * len(x)))
    run(kernels.prernn_integer_product, job)
    return y


def _job(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    segments: tuple[Tensor, Tensor, Tensor] | None,
    sums: Tensor | None = None,
) -> tuple[_NarrowProduct, Tensor]:
    """The checked arguments of the kernels, and the output ``(N, R)`` that they will write."""
    rows, inputs = x.shape
    outputs = len(segments[0]) if segments else weight.shape[0]
    expect("x", x, torch.float32, (rows, inputs))
    expect("weight", weight, weight.dtype, tuple(weight.shape) if segments else (outputs, inputs))
    expect("scale", scale, torch.float32, (outputs,))
    expect("bias", bias, torch.float32, (outputs,))
    expect("sums", sums, torch.int32, (outputs,))
    begin, first, count = segments or (None, None, None)
    expect("begin", begin, torch.int64, (outputs,))
    expect("first", first, torch.int32, (outputs,))
    expect("count", count, torch.int32, (outputs,))
    y = x.new_empty(rows, outputs)
    given = {"begin": begin, "first": first, "count": count, "weight": weight, "scale": scale, "bias": bias}
    held = contiguous(**given, x=x, y=y, sums=sums)
    job = _NarrowProduct(rows, outputs, inputs, weight.numel(), 1, weight.dtype == torch.int8)
    hold(job, held)
    return job, y
