"""Products with mostly zero inputs, and the sampling that makes inputs mostly zero."""

import ctypes
from ctypes import c_double, c_int32, c_int64, c_void_p
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.ops.native.library import contiguous, expect, kernels, run, threads_for

VALUES = ("keep", "estimate", "count")
"""``enum values`` of kernels.h, in order."""


class _Sampling(ctypes.Structure):
    """``struct sampling`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "size", "samples")),
        *((name, c_int32) for name in ("threads", "values")),
        ("offset", c_double),
        *((name, c_void_p) for name in ("a", "out")),
    )


class _FewProduct(ctypes.Structure):
    """``struct few_product`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "outputs", "inputs")),
        *((name, c_int32) for name in ("threads", "bfloat16")),
        *((name, c_void_p) for name in ("weight", "bias", "x", "y")),
    )


class _FewConvolution(ctypes.Structure):
    """``struct few_convolution`` of kernels.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "outputs", "inputs", "height", "width")),
        *((name, c_int32) for name in ("threads", "side")),
        *((name, c_void_p) for name in ("weight", "bias", "x", "y")),
    )


def sample(a: Tensor, samples: int, offset: float, values: str = "keep") -> Tensor:
    """Takes ``samples`` systematic samples of each row of ``a (R, n)``: see `prernn.sparsity.online.sample`.

    Raises:
        ValueError: a type or device that the kernels do not support.
        MemoryError: no memory for the kernels' own buffers.
    """
    rows, size = a.shape
    expect("a", a, torch.float32, (rows, size))
    a = a.contiguous()
    out = torch.empty_like(a)
    job = _Sampling(rows, size, samples, threads_for(a.numel() * 2.0), VALUES.index(values), offset)
    _run(kernels.prernn_sample, job, a=a, out=out)
    return out


def few_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y[n, o] = sum of x[n, i] weight[i, o] + bias[o]`` over the i with ``x[n, i] != 0``: ``(N, O)``.

    Args:
        x: ``(N, I)``, float32.
        weight: ``(I, O)``, float32 or bfloat16. Rows of a zero input are not read.
        bias: ``(O,)`` or None, float32.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
    """
    if weight.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"expected weights of float32 or bfloat16, got {weight.dtype}")
    (rows, inputs), outputs = x.shape, weight.shape[1]
    expect("x", x, torch.float32, (rows, inputs))
    expect("weight", weight, weight.dtype, (inputs, outputs))
    expect("bias", bias, torch.float32, (outputs,))
    y = x.new_empty(rows, outputs)
    threads = threads_for(weight.numel() * (0.05 + 0.02 * rows))
    job = _FewProduct(rows, outputs, inputs, threads, weight.dtype == torch.bfloat16)
    _run(kernels.prernn_few_product, job, weight=weight, bias=bias, x=x, y=y)
    return y


PACKED = 32
"""``FEW_PACKED`` of few_convolution.h."""


def packed(weight: Tensor) -> Tensor:
    """The weight ``(O, C, k, k)`` in the layout of `few_convolution`, ``(O / 32, C, k, k, 32)``, O rounded up."""
    outputs = -(-weight.shape[0] // PACKED) * PACKED
    whole: Tensor = F.pad(weight, (0,) * 7 + (outputs - weight.shape[0],))
    turned: Tensor = whole.unflatten(0, (-1, PACKED)).permute(0, 2, 3, 4, 1)
    return turned.contiguous()


def few_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """The convolution of ``x (N, C, H, W)`` with stride 1 and "same" padding, skipping zeros of ``x``.

    Args:
        x: float32.
        weight: a 1x1 or 3x3 kernel, `packed`, float32.
        bias: ``(O,)`` or None, float32.
        outputs: number of output channels ``O``.

    Returns:
        ``(N, O, H, W)``, with channels last in memory.

    Raises:
        ValueError: a type, device or shape that the kernels do not support.
        MemoryError: no memory for the kernels' own buffers.
    """
    rows, inputs, height, width = x.shape
    side = weight.shape[2]
    if side not in (1, 3):
        raise ValueError(f"expected a kernel of 1x1 or 3x3, got {side}x{weight.shape[3]}")
    expect("x", x, torch.float32, tuple(x.shape))
    expect("weight", weight, torch.float32, (-(-outputs // PACKED), inputs, side, side, PACKED))
    expect("bias", bias, torch.float32, (outputs,))
    y = x.new_empty(rows, height, width, outputs).permute(0, 3, 1, 2)
    threads = threads_for(weight.numel() * height * width * 0.01)
    job = _FewConvolution(rows, outputs, inputs, height, width, threads, side)
    _run(kernels.prernn_few_convolution, job, weight=weight, bias=bias, x=x, y=y.permute(0, 2, 3, 1))
    return y


def _run(function: Any, job: Any, **tensors: Tensor | None) -> None:
    held = contiguous(**tensors)
    for name, tensor in held.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    run(function, job)
