"""The gradient of a dense recurrent matrix as one product over all steps.

Plain autograd adds ``g_t^T h_{t-1}`` to the gradient of ``W_hh`` step by step, each time passing over a matrix that
may be larger than the caches. Here ``g_t`` and ``h_{t-1}`` of all steps are kept instead, and multiplied once at the
end.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prernn.ops.backends import transformed
from prernn.ops.input_projection import linear

Steps = dict[int, list[tuple[Tensor, Tensor]]]
"""For each backward pass, by its number, the gradients ``(N, M)`` and inputs ``(N, P)`` of the steps so far."""


class _Matrix(torch.autograd.Function):
    """Returns the matrix unchanged; its gradient is computed from what the steps have stored."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, steps: Steps) -> Tensor:
        ctx.steps = steps
        ctx.set_materialize_grads(False)
        return matrix.view_as(matrix)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        pairs = ctx.steps.pop(_this_pass(), None)
        if pairs is None:
            return gradient, None
        g, h = (torch.cat(part) for part in zip(*pairs, strict=True))
        own = g.T @ h
        return (own if gradient is None else own + gradient), None


class _Step(torch.autograd.Function):
    """``h W^T``, whose gradient in W is left to `_Matrix`."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, matrix: Tensor, steps: Steps) -> Tensor:
        ctx.save_for_backward(h, matrix)
        ctx.steps = steps
        return h @ matrix.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        h, matrix = ctx.saved_tensors
        ctx.steps.setdefault(_this_pass(), []).append((gradient, h))
        return gradient @ matrix, None, None


def _this_pass() -> int:
    """The number of the running backward pass. There may be several over one graph, for parts of its inputs."""
    number: int = torch._C._current_graph_task_id()
    return number


def product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """A function ``h (N, P) -> h W^T (N, M)`` for the steps of one sequence, with W ``(M, P)``; twice differentiable.

    If the gradient of W is needed and a step has fewer rows than W has columns, it is computed as one product over all
    steps. With more rows, adding step by step costs little compared to the product, and keeping the steps would cost
    memory. Under torch.compile, export and torch.func plain autograd is used.
    """
    wanted = torch.is_grad_enabled() and matrix.requires_grad
    if not wanted or torch.compiler.is_compiling() or transformed():
        return lambda h: linear(h, matrix)
    steps: Steps = {}
    collecting = _Matrix.apply(matrix, steps)

    def multiply(h: Tensor) -> Tensor:
        if h.shape[0] >= matrix.shape[1] or h.dtype != matrix.dtype or not torch.is_grad_enabled():
            return linear(h, matrix)
        out: Tensor = _Step.apply(h, collecting, steps)
        return out

    return multiply
