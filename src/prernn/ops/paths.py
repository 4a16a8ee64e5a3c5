"""A layer made of paths, streamed: ``torch.ops.prernn.path_product`` (the talk "Structural Sparsity", paths).

Path p connects neuron ``source[p]`` to neuron ``destination[p]``. Each weight is used once, in order, so that time and
memory are linear in the number of paths, whatever the layers' sizes; the caller determines the order, nothing is
sorted. With ``relu`` the activation is at the beginning of the path, as in the talk: values that are not positive are
not passed on.

In the backward pass the errors run along the same paths in the opposite direction: the gradient with respect to the
input is such a product too. Therefore two operators, the product and its weight's gradient, are each other's
derivatives, any number of times.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.ops.backends import kernels
from prernn.ops.compressed_rows import usable

BESIDE, SMALL = 16, 64
"""Number of pictures placed side by side in a plane, and the map size in positions up to which this is faster (``prernn
bench paths``): small maps do not fill the processor's vectors."""

_library = torch.library.Library("prernn", "FRAGMENT")
_library.define(
    "path_product(Tensor x, Tensor weight, Tensor source, Tensor destination, Tensor? bias, SymInt size, bool relu)"
    " -> Tensor"
)
_library.define("path_weight(Tensor d_y, Tensor x, Tensor source, Tensor destination, bool relu) -> Tensor")
_library.define(
    "path_maps(Tensor x, Tensor weight, Tensor source, Tensor destination, Tensor? bias, SymInt size, SymInt[] shift,"
    " SymInt[] place) -> Tensor"
)
_library.define(
    "path_maps_weight(Tensor d_y, Tensor x, Tensor source, Tensor destination, SymInt[] shift, SymInt step) -> Tensor"
)


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

    Float32 on the CPU uses the C kernels if they are available and not ruled out; everything else uses plain torch.

    Args:
        x: ``(N, I)``.
        weight: ``(P,)``.
        source: ``(P,)`` int32, neurons of ``x``.
        destination: ``(P,)`` int32, neurons of ``y``. Paths with the same ends add up.
        size: number of outputs.
        bias: ``(size,)`` or None.
        relu: whether to use ``max(0, x)`` instead of ``x``.

    Raises:
        IndexError: a path that leads outside (on a GPU torch raises a different error).
    """
    if usable(x, weight, bias):
        out: Tensor = torch.ops.prernn.path_product(x, weight, source, destination, bias, size, relu)
        return out
    sent = (x.relu() if relu else x).index_select(1, source) * weight  # (N, P)
    y = sent.new_zeros(len(sent), size).index_add(1, destination, sent)
    return y if bias is None else y + bias


def convolution(
    x: Tensor,
    weight: Tensor,
    source: Tensor,
    destination: Tensor,
    size: int,
    bias: Tensor | None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """``y[n, i] = bias[i] + sum of weight[p] * x[n, source[p]]`` over the paths p that end in i: ``(N, size, H', W')``.

    Only with the C kernels, which read each channel from one plane that includes the margin, so that a tap of the
    kernel is an offset in it. With a stride of s, rows and columns are grouped by their index modulo s.

    Args:
        x: ``(N, I, H, W)``; must satisfy `prernn.ops.compressed_rows.usable`, as must the weight and the bias.
        weight: ``(P, kh, kw)``.
        source: ``(P,)`` int32, channels of ``x``.
        destination: ``(P,)`` int32, channels of ``y``.
        size: output channels.
        bias: ``(size,)`` or None.
        stride, padding, dilation: as in ``nn.Conv2d``, for height and width.

    Raises:
        ValueError: maps that are smaller than the kernel.
        IndexError: a path that leads outside.
    """
    sides = map_sides(x.shape[2:], weight.shape[1:], stride, padding, dilation)
    if min(sides) < 1:
        raise ValueError(f"expected maps as large as the kernel {tuple(weight.shape[1:])}, got {tuple(x.shape[2:])}")
    beside = pictures_beside(sides, len(x))
    planes = _planes(x, stride, padding)  # (N, I, sh, sw, rows, columns)
    rows, columns = planes.shape[4:]
    planes = planes.unflatten(0, (-1, beside)).movedim(1, 6).flatten(2)  # (N / beside, I, plane)
    shift = [
        (((down % stride[0] * stride[1] + right % stride[1]) * rows + down // stride[0]) * columns + right // stride[1])
        * beside
        for down in range(0, weight.shape[1] * dilation[0], dilation[0])
        for right in range(0, weight.shape[2] * dilation[1], dilation[1])
    ]
    place = [sides[0], sides[1] * beside, columns * beside]
    y: Tensor = torch.ops.prernn.path_maps(planes, weight.flatten(1), source, destination, bias, size, shift, place)
    apart: Tensor = y.unflatten(3, (-1, beside)).movedim(4, 1).flatten(0, 1)
    return apart


def pictures_beside(sides: Sequence[int], pictures: int) -> int:
    """How many of the pictures to place side by side in a plane, if outputs have these sides."""
    return BESIDE if sides[0] * sides[1] <= SMALL and pictures % BESIDE == 0 else 1


def map_sides(
    sides: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    each = zip(sides, kernel, stride, padding, dilation, strict=True)
    height, width = (
        (side + 2 * margin - (taps - 1) * apart - 1) // step + 1 for side, taps, step, margin, apart in each
    )
    return height, width


def _planes(x: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    (down, right), (high, wide) = stride, padding
    bottom, side = (
        margin + -(size + 2 * margin) % step for size, margin, step in zip(x.shape[2:], padding, stride, strict=True)
    )
    x = F.pad(x, (wide, side, high, bottom)) if high or wide or bottom or side else x
    planes: Tensor = x.unflatten(3, (-1, right)).unflatten(2, (-1, down)).permute(0, 1, 3, 5, 2, 4)
    return planes


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
    """Gradient with respect to ``x``: backwards along the paths, to those inputs that were passed on."""
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


def _maps(
    x: Tensor,
    weight: Tensor,
    source: Tensor,
    destination: Tensor,
    bias: Tensor | None,
    size: int,
    shift: list[int],
    place: list[int],
) -> Tensor:
    y: Tensor = kernels("native").path_maps(x, weight, source, destination, bias, size, shift, tuple(place))
    return y


def _maps_weight(d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, shift: list[int], step: int) -> Tensor:
    d_weight: Tensor = kernels("native").path_maps_weight(d_y, x, source, destination, shift, step)
    return d_weight


_library.impl("path_maps", _maps, "CPU")
_library.impl("path_maps_weight", _maps_weight, "CPU")


@torch.library.register_fake("prernn::path_maps")
def _(
    x: Tensor,
    weight: Tensor,
    source: Tensor,
    destination: Tensor,
    bias: Tensor | None,
    size: int,
    shift: list[int],
    place: list[int],
) -> Tensor:
    return x.new_empty(x.shape[0], size, *place[:2])


@torch.library.register_fake("prernn::path_maps_weight")
def _(d_y: Tensor, x: Tensor, source: Tensor, destination: Tensor, shift: list[int], step: int) -> Tensor:
    return x.new_empty(source.shape[0], len(shift))


def _maps_back(
    d_y: Tensor, weight: Tensor, source: Tensor, destination: Tensor, x: Tensor, shift: list[int], step: int
) -> Tensor:
    """Gradient with respect to the planes ``x (N, I, S)``: with reversed paths and reversed shifts."""
    plane, most = x.shape[2], max(shift)
    laid = F.pad(d_y, (0, step - d_y.shape[3])).flatten(2)  # in the layout of a plane
    laid = F.pad(laid, (most, plane - laid.shape[2]))
    back = [most - distance for distance in shift]
    d_x: Tensor = torch.ops.prernn.path_maps(
        laid, weight, destination, source, None, x.shape[1], back, [1, plane, plane]
    )
    return d_x.squeeze(2)


def _save_maps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, source, destination, _, ctx.size, ctx.shift, ctx.place = inputs
    ctx.save_for_backward(x, weight, source, destination)


def _maps_gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, source, destination = ctx.saved_tensors
    wanted, step = ctx.needs_input_grad, ctx.place[2]
    d_x = _maps_back(d_y, weight, source, destination, x, ctx.shift, step) if wanted[0] else None
    d_weight = None
    if wanted[1]:
        d_weight = torch.ops.prernn.path_maps_weight(d_y, x, source, destination, ctx.shift, step)
    return d_x, d_weight, None, None, d_y.sum((0, 2, 3)) if wanted[4] else None, None, None, None


def _save_maps_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    d_y, x, source, destination, ctx.shift, ctx.step = inputs
    ctx.save_for_backward(d_y, x, source, destination)


def _maps_weight_gradients(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
    d_y, x, source, destination = ctx.saved_tensors
    there = back = None
    if ctx.needs_input_grad[0]:
        place = [*d_y.shape[2:], ctx.step]
        there = torch.ops.prernn.path_maps(x, d, source, destination, None, d_y.shape[1], ctx.shift, place)
    if ctx.needs_input_grad[1]:
        back = _maps_back(d_y, d, source, destination, x, ctx.shift, ctx.step)
    return there, back, None, None, None, None


torch.library.register_autograd("prernn::path_maps", _maps_gradients, setup_context=_save_maps)
torch.library.register_autograd("prernn::path_maps_weight", _maps_weight_gradients, setup_context=_save_maps_weight)
