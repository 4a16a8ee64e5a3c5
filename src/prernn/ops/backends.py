"""Which kernels there are, which of them are asked for, and which transforms of torch stand in their way."""

import contextlib
import functools
import importlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

BACKENDS = ("reference", "native", "triton")
DEVICES = {"cpu": "native", "cuda": "triton"}
DTYPES = {
    "native": (torch.float32, torch.bfloat16),
    "triton": (torch.float32, torch.bfloat16, torch.float16),
}
"""Types of tensors that the kernels take; all accumulate in float32."""

_reasons: dict[str, str | None] = {"reference": None}
_override: list[str] = []


def kernels(name: str) -> Any:
    """The module of the backend called ``name``.

    Raises:
        ImportError: this installation does not have it.
    """
    return importlib.import_module(f"prernn.ops.{name}")


def missing(name: str) -> str | None:
    """Why the backend called ``name`` can't run in this installation, or None where it can."""
    if name not in _reasons:
        try:
            kernels(name)
            _reasons[name] = None
        except (ImportError, OSError, ValueError) as error:
            _reasons[name] = str(error)
    return _reasons[name]


# A compiler that traces can't trace an import. This is what torch.compiler.assume_constant_result sets, without the
# seconds that importing torch._dynamo takes.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forced() -> str | None:
    """The backend that `using` or ``PRERNN_OPS`` asks for, or None.

    Raises:
        ValueError: there is none of that name, or it can't run in this installation.
    """
    name = _override[-1] if _override else os.environ.get("PRERNN_OPS")
    if not name:
        return None
    if name not in BACKENDS:
        raise ValueError(f"expected PRERNN_OPS to be one of {', '.join(BACKENDS)}, got {name!r}")
    if missing(name):
        raise ValueError(f"PRERNN_OPS={name} can't be had: {missing(name)}")
    return name


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Forces a backend inside a with block, over ``PRERNN_OPS``."""
    _override.append(name)
    try:
        yield
    finally:
        _override.pop()


def choose(name: str | None, tensors: list[Tensor]) -> str | None:
    """The kernels that take these tensors (the gate inputs first) in their common type, or None for the reference.

    ``name`` is the backend that is asked for (`forced`).

    Raises:
        ValueError: it does not take them, or not for such derivatives.
    """
    first = tensors[0]
    wanted = name or DEVICES.get(first.device.type)
    if wanted is None or wanted == "reference":
        return None
    beyond = _beyond_kernels()
    if name and beyond:
        raise ValueError(f"PRERNN_OPS={name}: expected PRERNN_OPS=reference for {beyond}, got kernels without it")
    if beyond:
        return None
    # under autocast gate inputs have fewer bits than the weights and the state, which must be alike
    alike = all(tensor.device == first.device and tensor.dtype == tensors[1].dtype for tensor in tensors[1:])
    fits = alike and common_type(tensors) in DTYPES[wanted] and _device_fits(wanted, first)
    if name and not fits:
        got = sorted({f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}" for tensor in tensors})
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES[name])
        device = next(device for device, backend in DEVICES.items() if backend == name)
        raise ValueError(f"PRERNN_OPS={name}: expected all of {expected} on {device}, got {', '.join(got)}")
    return wanted if fits and not missing(wanted) else None


def _beyond_kernels() -> str | None:
    """What is asked for that no kernel has, or None."""
    if forward_mode():
        return "a forward-mode derivative"
    # torch.compile can't take an autograd.Function, which torch.func needs, through vmap
    return "torch.func in torch.compile" if torch.compiler.is_compiling() and transformed() else None


def forward_mode() -> bool:
    """Whether forward-mode derivatives are asked for (`torch.func.jvp`, ``jacfwd``, ``hessian``, dual numbers).

    No kernel has them. Past torch's dispatcher they would be lost without a word.
    """
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether a transform of `torch.func` is at work, or a forward-mode derivative."""
    return torch._C._are_functorch_transforms_active() or forward_mode()


def takes_native() -> bool:
    """Whether the C kernels are there and not ruled out, and no transform of `torch.func`, which they lack, is at work.

    Raises:
        ValueError: ``PRERNN_OPS`` names a backend that there is not.
    """
    return forced() in (None, "native") and missing("native") is None and not transformed()


def learns(*tensors: Tensor | None) -> bool:
    """Whether gradients of any of these are asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors if tensor is not None)


def batched() -> bool:
    """Whether ``vmap`` is among the transforms of `torch.func` at work; torch's recurrences have no rule for it."""
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return any(transform.key() == torch._C._functorch.TransformType.Vmap for transform in transforms)


def common_type(tensors: list[Tensor]) -> torch.dtype:
    """The type that torch's arithmetic gives these tensors together."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))


def _device_fits(name: str, tensor: Tensor) -> bool:
    # Triton's interpreter computes on the CPU: that is how its kernels are tested without a GPU
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    return DEVICES.get(tensor.device.type) == name or (interpreted and tensor.device.type == "cpu")


def has_bfloat16() -> bool:
    """Whether the CPU computes with bfloat16; torch's convolutions fall back on slow loops where it does not."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
