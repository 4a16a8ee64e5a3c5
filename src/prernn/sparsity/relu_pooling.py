"""Maximum pooling written with ReLU functions (the talk "Structural Sparsity", relations to mathematical objects):

    max{x, y} = 1/2 (x + y + ReLU(x - y) + ReLU(y - x)).

So a network with pooling consists only of sums and ReLUs, with skip links of weight 1/2 around them: all that is known
about such networks, for instance about paths, factors and weights of few values, applies to the whole network. Values
are those of `torch.nn.functional.max_pool2d` up to rounding. Gradients differ if values are equal: each of two gets one
half, while torch gives everything to the first. It takes several times as long, so it is no replacement if speed
matters; `prernn.sparsity.normalize` moves factors through torch's own pooling as well.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


class ReluMaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` by ReLU functions, with the same arguments except ``return_indices``.

    Example:
        >>> import torch
        >>> from prernn.sparsity.relu_pooling import ReluMaxPool2d
        >>> x = torch.tensor([[[[1.0, 4.0], [3.0, 2.0]]]])
        >>> ReluMaxPool2d(2)(x).item()
        4.0
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` or ``(C, H, W)`` to ``(..., H', W')``. Errors are as in `relu_max_pool2d`."""
        if self.return_indices:
            raise NotImplementedError("expected return_indices=False: sums and ReLUs do not say where a maximum was")
        return relu_max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


def relu_max_pool2d(
    x: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`torch.nn.functional.max_pool2d` by ReLU functions, rows first, then columns.

    It is positively homogeneous: a factor ``f > 0`` of the input becomes a factor of the output.

    Raises:
        ValueError: a window without any number, for which torch would give minus infinity.
        RuntimeError: arguments that torch rejects.
    """
    sizes = F.max_pool2d(x.new_empty(x.shape, device="meta"), kernel_size, stride, padding, dilation, ceil_mode)
    window = zip(*map(_pair, (kernel_size, kernel_size if stride is None else stride, padding, dilation)), strict=True)
    for dim, numbers in zip((-2, -1), window, strict=True):
        x = _pool(x, dim, sizes.shape[dim], *numbers)
    return x


def _pool(x: Tensor, dim: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Maxima along one dimension, -2 or -1."""
    first = torch.arange(outputs, device=x.device).unsqueeze(1) * stride - padding
    place = first + torch.arange(kernel, device=x.device) * dilation  # (outputs, kernel)
    inside = (place >= 0) & (place < x.shape[dim])
    if not bool(inside.any(1).all()):
        raise ValueError(f"expected numbers in each window, got one of size {kernel}, dilation {dilation} in padding")
    # outside the picture a window repeats its own first number, which does not change its maximum
    some = place.gather(1, inside.int().argmax(1, keepdim=True))
    spread = x.index_select(dim, torch.where(inside, place, some).flatten()).unflatten(dim, (outputs, kernel))
    values: list[Tensor] = list(spread.unbind(-1 if dim == -1 else -2))
    while len(values) > 1:  # as in a tournament, so that rounding errors do not accumulate
        pairs = [_larger(x, y) for x, y in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[2 * len(pairs) :]
    return values[0]


def _larger(x: Tensor, y: Tensor) -> Tensor:
    larger: Tensor = (x + y + (x - y).relu() + (y - x).relu()) / 2
    return larger
