"""The gradient of a dense recurrent matrix by one product over all steps.

Plain autograd adds ``g_t^T h_{t-1}`` to the gradient of ``W_hh`` step by step, and each time goes through a matrix that
may be larger than the caches. The steps' ``g_t`` and ``h_{t-1}`` are kept instead, and multiplied once, when the last
of them is known.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prernn.ops.backends import transformed
from prernn.ops.input_projection import linear

Steps = dict[int, list[tuple[Tensor, Tensor]]]
"""Of each backward pass, by its number, the gradients ``(N, M)`` and inputs ``(N, P)`` of the steps so far."""


class _Matrix(torch.autograd.Function):
    """The matrix as it is; its gradient is what the steps have left."""

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
    """The number of the backward pass that runs. There may be several over one graph, for parts of its inputs."""
    number: int = torch._C._current_graph_task_id()
    return number


def product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """A function ``h (N, P) -> h W^T (N, M)`` for the steps of one sequence, with W ``(M, P)``; twice differentiable.

    The gradient of W is one product over all steps where it is wanted, and where a step has fewer rows than W columns:
    with more, adding step by step costs little beside the product, and keeping the steps costs memory. Under
    torch.compile, export and torch.func it is plain autograd's.
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
