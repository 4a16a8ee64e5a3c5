"""ReLU6 and the like with the gradient computed from the result, during a training pass.

torch keeps the input of a ``Hardtanh`` (a copy if it works in place), and the next layer keeps its output. Either tells
where the gradient is zero: ``low < x < high`` if and only if ``low < clamp(x) < high``. So one feature map is kept
instead of two, and nothing is copied.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from prernn.conversion.graph.nodes import module_calls, submodule_of
from prernn.conversion.modes import lent_forwards


def clamps_of(cnn: fx.GraphModule) -> list[nn.Hardtanh]:
    """The clamping modules of a graph whose results are not overwritten."""
    found: dict[nn.Hardtanh, bool] = {}
    for call in module_calls(cnn.graph):
        part = submodule_of(cnn, call)
        if isinstance(part, nn.Hardtanh) and type(part).forward is nn.Hardtanh.forward:
            stays = not any(getattr(submodule_of(cnn, user), "inplace", False) for user in call.users)
            found[part] = found.get(part, True) and stays
    return [part for part, stays in found.items() if stays]


@contextlib.contextmanager
def from_result(clamps: Sequence[nn.Hardtanh]) -> Iterator[None]:
    """Makes modules keep their results instead of their inputs within a block.

    Does nothing inside torch.func, whose transforms don't support functions that work in place.
    """
    chosen = (
        [] if torch._C._are_functorch_transforms_active() else [part for part in clamps if "forward" not in vars(part)]
    )
    with lent_forwards({part: partial(_clamped, part) for part in chosen}):
        yield


def _clamped(module: nn.Hardtanh, x: Tensor) -> Tensor:
    """The forward pass that replaces a module's own."""
    out: Tensor = _Clamp.apply(x, module.min_val, module.max_val, module.inplace)
    return out


class _Clamp(torch.autograd.Function):
    """``clamp`` that keeps its result for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        ctx.limits = low, high
        out = x.clamp_(low, high) if inplace else x.clamp(low, high)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, out, *ctx.limits), None, None, None
