"""Convolutions whose paths choose pairs of channels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from prernn.layers.arguments import whole
from prernn.sparsity.paths import PathLayer, with_weights


class PathConv2d(PathLayer):
    """A convolution whose paths choose pairs of channels; the kernels stay dense and are shared over all places.

    Example:
        >>> import prernn, torch
        >>> layer = prernn.PathConv2d(8, 16, 3, paths=32, padding=1)
        >>> layer(torch.zeros(2, 8, 6, 6)).shape
        torch.Size([2, 16, 6, 6])

    ``y[destination_i] += kernel_i * x[source_i]`` with ``paths`` kernels ``(kh, kw)`` in place of
    ``out_channels x in_channels``. Weights are linear in the number of paths; the arithmetic is that of a dense
    convolution with zeros.

    Args:
        in_channels: channels read.
        out_channels: channels put out.
        kernel_size, stride, padding, dilation: numbers, as in ``nn.Conv2d``.
        paths: pairs of channels.
        sampler, bias, seed, scramble, skip, order, init, drawn: as in `PathLinear`.

    Attributes:
        weight: ``(paths, kh, kw)``.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        paths: int,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        sampler: str = "sobol",
        bias: bool = True,
        seed: int = 0,
        scramble: bool = False,
        skip: int = 0,
        order: str = "natural",
        init: str | float = "alternating",
        drawn: Tensor | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        sampling = {"sampler": sampler, "seed": seed, "scramble": scramble, "skip": skip, "order": order}
        super().__init__(in_channels, out_channels, paths, drawn, **sampling)
        if isinstance(padding, str):
            raise NotImplementedError(f"expected padding as numbers, got {padding!r}")
        self.kernel_size, self.stride = _sizes("kernel_size", kernel_size), _sizes("stride", stride)
        self.padding, self.dilation = _sizes("padding", padding, 0), _sizes("dilation", dilation)
        self.weight = nn.Parameter(torch.empty(self.paths, *self.kernel_size, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=dtype)) if bias else None
        self._start(self.weight, init, math.prod(self.kernel_size))
        self.to(device)

    def matrix(self) -> Tensor:
        """Dense kernels, ``(out_channels, in_channels, kh, kw)``."""
        flat = self.weight.new_zeros(self.outputs * self.inputs, *self.kernel_size)
        place = self.destination.long() * self.inputs + self.source.long()
        kernels: Tensor = flat.index_add(0, place, self.weight).unflatten(0, (self.outputs, self.inputs))
        return kernels

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
        return F.conv2d(x, self.matrix(), self.bias, self.stride, self.padding, self.dilation)

    def merged(self) -> "PathConv2d":
        """The same layer with one path for each pair of channels: kernels of coincident paths are added."""
        drawn, weight = self.distinct()
        layer = PathConv2d(
            *(self.inputs, self.outputs, self.kernel_size, len(drawn)),
            bias=self.bias is not None,
            drawn=drawn.cpu(),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        return with_weights(layer, weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.inputs}, {self.outputs}, kernel_size={self.kernel_size}, paths={self.paths}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}"
        )


def _sizes(name: str, value: int | tuple[int, int], least: int = 1) -> tuple[int, int]:
    """Height and width of something."""
    height, width = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    return whole(name, height, least), whole(name, width, least)
