"""Which kernels are available, which are requested, and which of torch's transforms prevent their use."""

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
"""Tensor types that the kernels support; all accumulate in float32."""

_reasons: dict[str, str | None] = {"reference": None}
_override: list[str] = []


def kernels(name: str) -> Any:
    """The module of the backend called ``name``.

    Raises:
        ImportError: it is not available in this installation.
    """
    return importlib.import_module(f"prernn.ops.{name}")


def missing(name: str) -> str | None:
    """Why the backend called ``name`` can't run in this installation, or None if it can."""
    if name not in _reasons:
        try:
            kernels(name)
            _reasons[name] = None
        except (ImportError, OSError, ValueError) as error:
            _reasons[name] = str(error)
    return _reasons[name]


# A tracing compiler can't trace an import. This is what torch.compiler.assume_constant_result sets, without the seconds
# it takes to import torch._dynamo.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forced() -> str | None:
    """The backend that `using` or ``PRERNN_OPS`` requests, or None.

    Raises:
        ValueError: there is no backend of that name, or it can't run in this installation.
    """
    name = _override[-1] if _override else os.environ.get("PRERNN_OPS")
    if not name:
        return None
    if name not in BACKENDS:
        raise ValueError(f"expected PRERNN_OPS to be one of {', '.join(BACKENDS)}, got {name!r}")
    if missing(name):
        raise ValueError(f"PRERNN_OPS={name} is not available: {missing(name)}")
    return name


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Forces a backend inside a with block, overriding ``PRERNN_OPS``."""
    _override.append(name)
    try:
        yield
    finally:
        _override.pop()


def choose(name: str | None, tensors: list[Tensor]) -> str | None:
    """The kernels that support these tensors (gate inputs first) in their common type, or None for the reference.

    ``name`` is the requested backend (`forced`).

    Raises:
        ValueError: the requested backend does not support these tensors, or the derivatives that are being computed.
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
    # under autocast gate inputs have fewer bits than the weights and the state, which must have the same type
    alike = all(tensor.device == first.device and tensor.dtype == tensors[1].dtype for tensor in tensors[1:])
    fits = alike and common_type(tensors) in DTYPES[wanted] and _device_fits(wanted, first)
    if name and not fits:
        got = sorted({f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}" for tensor in tensors})
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES[name])
        device = next(device for device, backend in DEVICES.items() if backend == name)
        raise ValueError(f"PRERNN_OPS={name}: expected all of {expected} on {device}, got {', '.join(got)}")
    return wanted if fits and not missing(wanted) else None


def _beyond_kernels() -> str | None:
    """A description of what is requested but no kernel supports, or None."""
    if forward_mode():
        return "a forward-mode derivative"
    # torch.func needs an autograd.Function, which torch.compile can't handle under vmap
    return "torch.func in torch.compile" if torch.compiler.is_compiling() and transformed() else None


def forward_mode() -> bool:
    """Whether forward-mode derivatives are requested (`torch.func.jvp`, ``jacfwd``, ``hessian``, dual numbers).

    No kernel supports them. Kernels called past torch's dispatcher would silently drop them.
    """
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether a transform of `torch.func` or a forward-mode derivative is active."""
    return torch._C._are_functorch_transforms_active() or forward_mode()


def takes_native() -> bool:
    """Whether the C kernels are available and not ruled out, and no transform of `torch.func` is active.

    Raises:
        ValueError: ``PRERNN_OPS`` names a backend that does not exist.
    """
    return forced() in (None, "native") and missing("native") is None and not transformed()


def learns(*tensors: Tensor | None) -> bool:
    """Whether the gradient of any of these tensors is requested."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors if tensor is not None)


def batched() -> bool:
    """Whether ``vmap`` is among the active transforms of `torch.func`; torch's recurrences have no rule for it."""
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return any(transform.key() == torch._C._functorch.TransformType.Vmap for transform in transforms)


def common_type(tensors: list[Tensor]) -> torch.dtype:
    """The type that results when torch combines these tensors."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))


def _device_fits(name: str, tensor: Tensor) -> bool:
    # Triton's interpreter computes on the CPU, which is used to test its kernels without a GPU
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    return DEVICES.get(tensor.device.type) == name or (interpreted and tensor.device.type == "cpu")


def has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 arithmetic; without it torch's convolutions fall back to slow loops."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
