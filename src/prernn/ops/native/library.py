"""The C library behind ctypes: opens it, chooses its instruction set, and checks its arguments."""

import ctypes
import importlib.util
import os
from collections.abc import Callable, Mapping
from ctypes import c_char_p, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

WORTH_THREADS = 1e6
"""Nanoseconds of work below which a single thread is used."""


def _open() -> ctypes.CDLL:
    spec = importlib.util.find_spec("prernn.ops._kernels")
    if spec is None or spec.origin is None:
        raise ImportError("prernn was installed without its C kernels: no C compiler was found when it was built")
    found = ctypes.CDLL(spec.origin)
    found.prernn_choose.argtypes = (c_char_p,)
    found.prernn_instructions.restype = c_char_p
    found.prernn_same.argtypes = (c_void_p, c_void_p, c_int64)
    products = ("rows_product", "path_product", "path_maps", "narrow_product", "integer_product", "narrow_rows")
    gradients = ("backward", "rows_backward", "path_weight", "path_maps_weight")
    for name in ("forward", *products, *gradients, "few_product", "few_convolution", "sample"):
        getattr(found, f"prernn_{name}").argtypes = (c_void_p,)
    wanted = os.environ.get("PRERNN_INSTRUCTIONS")
    if not found.prernn_choose(wanted.encode() if wanted else None):
        raise ValueError(f"expected PRERNN_INSTRUCTIONS to name an instruction set of this processor, got {wanted!r}")
    return found


kernels = _open()


def instructions() -> str:
    """Instruction set of the kernels in use: avx512_vnni, avx512, avx2 or baseline."""
    name: bytes = kernels.prernn_instructions()
    return name.decode()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors on the CPU have the same type, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.contiguous(), b.contiguous()
    return bool(kernels.prernn_same(a.data_ptr(), b.data_ptr(), a.nbytes))


def expect(name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a tensor that the kernels would misread; accepts None."""
    if tensor is None:
        return
    if tensor.dtype != dtype:
        raise ValueError(f"expected {name} of {dtype}, got {tensor.dtype}")
    if tensor.device.type != "cpu":
        raise ValueError(f"expected {name} on the CPU for the native kernels, got {tensor.device}")
    if tensor.shape != shape:
        raise ValueError(f"expected {name} {shape}, got {tuple(tensor.shape)}")


def contiguous(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    """The tensors in contiguous form, as the kernels read them."""
    return {name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()}


def hold(job: Any, tensors: Mapping[str, Tensor | None], *others: Any) -> None:
    """Stores the tensors' addresses in the job's fields of the same names; keeps all arguments alive with the job."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    job.keep_alive = tensors, others


def threads_for(nanoseconds: float) -> int:
    """Number of threads for this much work: as many as torch uses, or one if there is little to do."""
    return torch.get_num_threads() if nanoseconds > WORTH_THREADS else 1


def run(function: Callable[..., int], job: Any, *arguments: int) -> None:
    """Calls the library; for messages, ``job.what`` names the connections that the job describes.

    Raises:
        MemoryError: no memory for its buffers.
        IndexError: a position out of range.
    """
    code = function(ctypes.byref(job), *arguments)
    if code == 1:
        raise MemoryError("the native kernels could not get memory for their buffers")
    if code == 2:
        raise IndexError(f"expected {job.what} from {job.inputs} to {job.outputs} neurons, got one that leads outside")
