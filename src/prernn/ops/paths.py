"""A layer made of paths, streamed: ``torch.ops.prernn.path_product`` (the talk "Structural Sparsity", paths).

Path p joins neuron ``source[p]`` to neuron ``destination[p]``. The weights are used once and in their order, so that
time and memory are linear in the number of paths, whatever the layers' sizes; the order is the caller's, nothing is
sorted. With ``relu`` the activation stands at the beginning of the path, as in the talk: what is not positive is not
passed on.

On the way back the errors run along the same paths in the other direction: the gradient with respect to the input is
again such a product. Two operators, the product and its weight's gradient, therefore differentiate each other, any
number of times.
"""

from typing import Any

import torch
from torch import Tensor

from prernn.ops.backends import kernels
from prernn.ops.compressed_rows import usable

_library = torch.library.Library("prernn", "FRAGMENT")
_library.define(
    "path_product(Tensor x, Tensor weight, Tensor source, Tensor destination, Tensor? bias, SymInt size, bool relu)"
    " -> Tensor"
)
_library.define("path_weight(Tensor d_y, Tensor x, Tensor source, Tensor destination, bool relu) -> Tensor")


def product(
    x: Tensor,
    weight: Tensor,
    source: Tensor,
    destination: Tensor,
    size: int,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y[n, i] = bias[i] + sum of weight[p] x[n, source[p]]`` over the paths p that end in i: ``(N, size)``.

    In float32 on the CPU by the C kernels where they are there and not ruled out, elsewhere by plain torch.

    Args:
        x: ``(N, I)``.
        weight: ``(P,)``.
        source: ``(P,)`` int32, neurons of ``x``.
        destination: ``(P,)`` int32, neurons of ``y``. Paths with the same ends add up.
        size: outputs.
        bias: ``(size,)`` or None.
        relu: whether ``max(0, x)`` stands for ``x``.

    Raises:
        IndexError: a path that leads outside (on a GPU torch has errors of its own).
    """
    floats = [x, weight] if bias is None else [x, weight, bias]
    if all(usable(tensor) for tensor in floats):
        out: Tensor = torch.ops.prernn.path_product(x, weight, source, destination, bias, size, relu)
        return out
    sent = (x.relu() if relu else x).index_select(1, source) * weight  # (N, P)
    y = sent.new_zeros(len(sent), size).index_add(1, destination, sent)
    return y if bias is None else y + bias


def dense(weight: Tensor, source: Tensor, destination: Tensor, inputs: int, size: int) -> Tensor:
    """The matrix ``(size, inputs)`` of the connections: ``product(x, ...) = x @ matrix.T + bias`` without relu."""
    place = destination.long() * inputs + source
    return weight.new_zeros(size * inputs).index_add(0, place, weight).view(size, inputs)


def _product(
    x: Tensor, weight: Tensor, source: Tensor, destination: Tensor, bias: Tensor | None, size: int, relu: bool
) -> Tensor:
    y: Tensor = kernels("native").path_product(x, weight, source, destination, bias, size, relu)
    return y


def _weight(d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, relu: bool) -> Tensor:
    d_weight: Tensor = kernels("native").path_weight(d_y, x, source, destination, relu)
    return d_weight


_library.impl("path_product", _product, "CPU")
_library.impl("path_weight", _weight, "CPU")


@torch.library.register_fake("prernn::path_product")
def _(
    x: Tensor, weight: Tensor, source: Tensor, destination: Tensor, bias: Tensor | None, size: int, relu: bool
) -> Tensor:
    return x.new_empty(x.shape[0], size)


@torch.library.register_fake("prernn::path_weight")
def _(d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, relu: bool) -> Tensor:
    return x.new_empty(source.shape[0])


def _back(d_y: Tensor, weight: Tensor, source: Tensor, destination: Tensor, x: Tensor, relu: bool) -> Tensor:
    """Gradient with respect to ``x``: against the direction of the paths, to where the input was passed on."""
    d_x: Tensor = torch.ops.prernn.path_product(d_y, weight, destination, source, None, x.shape[1], False)
    return torch.ops.aten.threshold_backward(d_x, x, 0) if relu else d_x


def _save_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, source, destination, _, ctx.size, ctx.relu = inputs
    ctx.save_for_backward(x, weight, source, destination)


def _product_gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, source, destination = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    d_x = _back(d_y, weight, source, destination, x, ctx.relu) if wanted[0] else None
    d_weight = torch.ops.prernn.path_weight(d_y, x, source, destination, ctx.relu) if wanted[1] else None
    return d_x, d_weight, None, None, d_y.sum(0) if wanted[4] else None, None, None


def _save_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    d_y, x, source, destination, ctx.relu = inputs
    ctx.save_for_backward(d_y, x, source, destination)


def _weight_gradients(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
    d_y, x, source, destination = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    there = None
    if wanted[0]:
        there = torch.ops.prernn.path_product(x, d, source, destination, None, d_y.shape[1], ctx.relu)
    back = _back(d_y, d, source, destination, x, ctx.relu) if wanted[1] else None
    return there, back, None, None, None


torch.library.register_autograd("prernn::path_product", _product_gradients, setup_context=_save_product)
torch.library.register_autograd("prernn::path_weight", _weight_gradients, setup_context=_save_weight)
