"""Convolutions whose paths choose pairs of channels."""

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from prernn.layers.arguments import whole
from prernn.ops import paths as ops
from prernn.ops.compressed_rows import usable
from prernn.sparsity.kept_product import Kept, can_keep
from prernn.sparsity.paths import PathLayer, Sampling, with_weights

SLOWER, CALL, LANES = 5, 1e6, 16
"""A product along a path takes so many times as long as one of a dense convolution (twice that with a stride, whose
planes are made first), a call as long as so many of these; places come in vectors, unless pictures fill these
(``prernn bench paths --maps``)."""


class PathConv2d(PathLayer):
    """A convolution whose paths choose pairs of channels; the kernels stay dense and are shared over all places.

    Example:
        >>> import prernn, torch
        >>> layer = prernn.PathConv2d(8, 16, 3, paths=32, padding=1)
        >>> layer(torch.zeros(2, 8, 6, 6)).shape
        torch.Size([2, 16, 6, 6])

    ``y[destination_i] += kernel_i * x[source_i]`` with ``paths`` kernels ``(kh, kw)`` in place of
    ``out_channels x in_channels``: weights, memory and time are linear in the number of paths, by the C kernels on the
    CPU in float32. Where there are too many to gain by it (`pays`), and elsewhere, it is a dense convolution with
    zeros.

    Args:
        in_channels: channels read.
        out_channels: channels put out.
        kernel_size, stride, padding, dilation: numbers, as in ``nn.Conv2d``.
        paths: pairs of channels.
        bias, drawn, sampling: as in `PathLinear`.
        init: as in `PathLinear`, but "mixed" if nothing is told. Layers have few channels, so that Sobol' paths join a
            channel to as good as all of those before, in the same order for all: with signs in turns, and one number
            for all of a kernel, 64 channels start as two that are each other's negative.

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
        bias: bool = True,
        init: str | float = "mixed",
        drawn: Tensor | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **sampling: Unpack[Sampling],
    ):
        super().__init__(in_channels, out_channels, paths, drawn, sampling)
        if isinstance(padding, str):
            raise NotImplementedError(f"expected padding as numbers, got {padding!r}")
        self.kernel_size, self.stride = _sizes("kernel_size", kernel_size), _sizes("stride", stride)
        self.padding, self.dilation = _sizes("padding", padding, 0), _sizes("dilation", dilation)
        self.weight = nn.Parameter(torch.empty(self.paths, *self.kernel_size, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=dtype)) if bias else None
        self._start(self.weight, init, math.prod(self.kernel_size))
        self._kept: Kept | None = None
        self.to(device)

    def matrix(self) -> Tensor:
        """Dense kernels, ``(out_channels, in_channels, kh, kw)``."""
        flat = self.weight.new_zeros(self.outputs * self.inputs, *self.kernel_size)
        place = self.destination.long() * self.inputs + self.source.long()
        kernels: Tensor = flat.index_add(0, place, self.weight).unflatten(0, (self.outputs, self.inputs))
        return kernels

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
        stride, padding, dilation = self.stride, self.padding, self.dilation
        if self._by_paths(x):
            place = {"stride": stride, "padding": padding, "dilation": dilation}
            return ops.convolution(x, self.weight, self.source, self.destination, self.outputs, self.bias, **place)
        kernels = self._kept_matrix() if can_keep(x, self.weight, self.bias) else self.matrix()
        y: Tensor = F.conv2d(x, kernels, self.bias, stride, padding, dilation)
        return y

    def _by_paths(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return False
        fits = x.ndim == 4 and x.shape[1] == self.inputs and usable(x, self.weight, self.bias)
        return fits and self.pays(*x.shape[2:], pictures=len(x))

    def pays(self, height: int, width: int, *, pictures: int = 1) -> bool:
        """Whether products along the paths take less time than a dense convolution of pictures of this size."""
        places = (height, width), self.kernel_size, self.stride, self.padding, self.dilation
        high, wide = ops.map_sides(*places)
        if min(high, wide) < 1:
            return False  # torch says what is wrong
        step = -(-(width + 2 * self.padding[1]) // self.stride[1])  # columns of a plane
        lanes = 1 if ops.pictures_beside((high, wide), pictures) > 1 else LANES
        looked_at = -(-high * step // lanes) * lanes
        dense = self.inputs * self.outputs * high * wide
        slower = SLOWER if self.stride == (1, 1) else 2 * SLOWER
        return (dense - slower * self.paths * looked_at) * math.prod(self.kernel_size) * pictures >= CALL

    def _kept_matrix(self) -> Tensor:
        kept = self._kept
        if kept is None or not kept.follows(self.source, self.destination) or not kept.has(self.weight):
            weight = self.weight.detach().clone()
            self._kept = kept = Kept(self.source, self.destination, weight, self.matrix().detach())
        return kept.held

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
