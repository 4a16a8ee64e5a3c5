"""A product with compressed rows, linear in the number of weights: ``torch.ops.prernn.rows_product``.

For connections (`prernn.ops.connections`) that are the same for all gates. The operator looks them up itself. Sorting
them takes long, so their layout is cached for later calls.
"""

import functools
from typing import Any, NoReturn

import torch
from torch import Tensor

from prernn.ops.backends import kernels, takes_native
from prernn.ops.connections import ENTRIES

_library = torch.library.Library("prernn", "FRAGMENT")
_library.define("rows_product(Tensor h, Tensor weight, str kind, float amount, int? size, Tensor? bias) -> Tensor")
_library.define(
    "rows_product_backward(Tensor d_y, Tensor h, Tensor weight, str kind, float amount) -> (Tensor, Tensor)"
)


def usable(*tensors: Tensor | None) -> bool:
    """Whether `product` supports these: float32 on the CPU, with C kernels that are available and not ruled out.

    False under the transforms of `torch.func`, for which these operators have no rules, while plain torch does.

    Raises:
        ValueError: ``PRERNN_OPS`` names a backend that does not exist.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return all(tensor.is_cpu and tensor.dtype == torch.float32 for tensor in given) and takes_native()


def product(
    h: Tensor, weight: Tensor, kind: str, amount: float, size: int | None = None, bias: Tensor | None = None
) -> Tensor:
    """``W h + b`` for ``h (N, I)`` and the entries' weights ``(G, E)``, giving ``(N, G, D)``; float32 on the CPU.

    ``kind`` and ``amount`` specify the entries: ``"sparse"`` and a density, ``"paths"`` and their number, ``"band"``
    and its columns. ``D`` is ``size``, or ``I`` if that is None; ``bias`` is ``(G*D,)`` or None.
    """
    y: Tensor = torch.ops.prernn.rows_product(h, weight, kind, amount, size, bias)
    return y


@functools.lru_cache(maxsize=64)
def layout(kind: str, amount: float, size: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Compressed rows of the entries that ``kind`` and ``amount`` specify: row starts ``(D+1,)``, columns ``(E,)``."""
    receiver, sender = ENTRIES[kind](size, inputs, amount)
    counts = torch.bincount(receiver, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), sender.int()


def _product(h: Tensor, weight: Tensor, kind: str, amount: float, size: int | None, bias: Tensor | None) -> Tensor:
    start, column = layout(kind, amount, h.shape[1] if size is None else size, h.shape[1])
    y: Tensor = kernels("native").rows_product(h, weight, start, column, bias)
    return y


def _product_backward(d_y: Tensor, h: Tensor, weight: Tensor, kind: str, amount: float) -> tuple[Tensor, Tensor]:
    start, column = layout(kind, amount, d_y.shape[2], h.shape[1])
    gradients: tuple[Tensor, Tensor] = kernels("native").rows_backward(d_y, h, weight, start, column)
    return gradients


_library.impl("rows_product", _product, "CPU")
_library.impl("rows_product_backward", _product_backward, "CPU")


@torch.library.register_fake("prernn::rows_product")
def _(h: Tensor, weight: Tensor, kind: str, amount: float, size: int | None, bias: Tensor | None) -> Tensor:
    return h.new_empty(h.shape[0], weight.shape[0], h.shape[1] if size is None else size)


@torch.library.register_fake("prernn::rows_product_backward")
def _(d_y: Tensor, h: Tensor, weight: Tensor, kind: str, amount: float) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, weight, ctx.kind, ctx.amount, *_ = inputs
    ctx.save_for_backward(h, weight)


def _gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    h, weight = ctx.saved_tensors
    d_h, d_weight = torch.ops.prernn.rows_product_backward(d_y, h, weight, ctx.kind, ctx.amount)
    return d_h, d_weight, None, None, None, d_y.sum(0).flatten() if ctx.needs_input_grad[5] else None


def _refuse(ctx: Any, *gradients: Tensor | None) -> NoReturn:
    raise NotImplementedError("the compressed product can't be differentiated twice: use PRERNN_OPS=reference")


torch.library.register_autograd("prernn::rows_product", _gradients, setup_context=_save)
# without this torch would warn and continue with zeros
torch.library.register_autograd("prernn::rows_product_backward", _refuse)
