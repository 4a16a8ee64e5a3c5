"""The input projection: uses oneDNN's matrix product when it is faster than torch's own.

Once the recurrence is cheap, the projection takes nearly all of a layer's time. On many processors the BLAS behind
torch's linear does not use the widest instructions, while oneDNN does. oneDNN's operator has no gradient, so it is
implemented here with two more of its products. It is not part of torch's public interface either: we look it up,
compare it with torch's product once, and don't use it if either fails. It takes the weight as it is: packing it
beforehand gains little (benchmarks/recurrence.py, ``--linear``) and would create a second copy that becomes outdated
when the weight changes.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.ops.backends import forced, learns, transformed
from prernn.ops.narrow import NarrowWeight

LEAST = 2**22
"""Number of multiplications from which oneDNN is faster (benchmarks/recurrence.py, --linear)."""

LEAST_OF_BLOCKS = 2**20
"""The same for one block among several."""


def linear(x: Tensor, weight: Tensor | NarrowWeight, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` for ``x (..., D_in)``; differentiable, except with respect to a weight of few bits."""
    if isinstance(weight, NarrowWeight):
        return weight.product(x, bias)
    if not (_suits(x, weight, bias) and _works()):
        return F.linear(x, weight, bias)
    out: Tensor = _Product.apply(x, weight, bias) if learns(x, weight, bias) else _product(x, weight, bias)
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Product(torch.autograd.Function):
    """The product with gradients ``dx = g W``, ``dW = g^T x``, ``db`` the sum of g, which are differentiable too."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()  # the gradient of a sum is a single number with strides of 0
        rows = grad.flatten(0, -2)
        wanted = ctx.needs_input_grad
        d_x = linear(grad, weight.t()) if wanted[0] else None
        d_weight = linear(rows.t(), x.flatten(0, -2).t()) if wanted[1] else None
        return d_x, d_weight, rows.sum(0) if wanted[2] else None


def blockwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` for a block matrix: ``x (N, I)`` gives ``(N, B*d)``.

    Args:
        x: ``(N, K*i)``, K parts concatenated.
        weight: ``(B, d, i)``, B a multiple of K; block b reads part ``b % K``.
        bias: ``(B*d,)`` or None.
    """
    parts = x.shape[1] // weight.shape[2]
    if not (_suits(x[:, : weight.shape[2]], weight[0], bias, LEAST_OF_BLOCKS) and _works()):
        products = torch.matmul(_parts(x, weight), weight.unflatten(0, (-1, parts)).transpose(2, 3))  # (G, K, N, d)
        y: Tensor = products.flatten(0, 1).transpose(0, 1).flatten(1)  # (N, B*d)
        return y if bias is None else y + bias
    out: Tensor = _Blocks.apply(x, weight, bias) if learns(x, weight, bias) else _blocks(x, weight, bias)
    return out


def _parts(x: Tensor, weight: Tensor) -> Tensor:
    """``(N, K*i)`` as ``(K, N, i)``."""
    parts: Tensor = x.unflatten(1, (-1, weight.shape[2])).transpose(0, 1).contiguous()
    return parts


def _blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    parts, count = _parts(x, weight), len(weight)
    offsets = [None] * count if bias is None else bias.chunk(count)
    out = x.new_empty(len(x), count, weight.shape[1])
    for b in range(count):
        out[:, b] = _product(parts[b % len(parts)], weight[b], offsets[b])  # while the block is in the cache
    return out.flatten(1)


class _Blocks(torch.autograd.Function):
    """`blockwise` with oneDNN, one product per block, with gradients that are differentiable too."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _blocks(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted, parts, count = ctx.needs_input_grad, _parts(x, weight), len(weight)
        d_x, d_bias = [torch.zeros_like(part) for part in parts], []
        d_weight = _Gathered(weight) if wanted[1] else None
        for b, rows in enumerate(grad.chunk(count, dim=1)):
            rows, k = rows.contiguous(), b % len(parts)
            if wanted[0]:
                d_x[k] = d_x[k] + linear(rows, weight[b].t())
            if d_weight is not None:
                d_weight.take(b, linear(rows.t(), parts[k].t()))
            if wanted[2]:
                d_bias.append(rows.sum(0))
        return (
            torch.cat(d_x, dim=1) if wanted[0] else None,
            None if d_weight is None else d_weight.whole(),
            torch.cat(d_bias) if wanted[2] else None,
        )


class _Gathered:
    """Collects blocks into one tensor: each is copied as soon as it is ready, unless the result needs a gradient."""

    def __init__(self, like: Tensor):
        self.blocks: list[Tensor] = []
        self.out = None if torch.is_grad_enabled() else torch.empty_like(like)

    def take(self, place: int, block: Tensor) -> None:
        """Takes the block for a position; blocks must come in order."""
        if self.out is None:
            self.blocks.append(block)
        else:
            self.out[place] = block

    def whole(self) -> Tensor:
        """All blocks as one tensor."""
        return torch.stack(self.blocks) if self.out is None else self.out


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None, least: int | None = None) -> bool:
    """Whether a product is large enough to gain, and of float32 on the CPU."""
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return (
        not torch.compiler.is_compiling()  # checked first: the tests below would fix a symbolic batch size
        and x.device.type == "cpu"
        and x.ndim > 1
        and weight.ndim == 2
        and x.numel() * weight.shape[0] >= (LEAST if least is None else least)
        and all(tensor.dtype == torch.float32 and type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and forced() in (None, "native")
        and not torch.is_autocast_enabled("cpu")
        and not transformed()
    )


@functools.cache
def _works() -> bool:
    """Whether the operator exists and gives the same results as torch."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    x, weight = torch.linspace(-1, 1, 3 * 40).view(3, 40), torch.linspace(-1, 1, 24 * 40).sin().view(24, 40)
    bias = torch.linspace(-1, 1, 24)
    try:
        out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(out, F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
