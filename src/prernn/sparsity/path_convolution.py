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
"""How many times as long a product along a path takes as one of a dense convolution (twice that with a stride, for
which planes are made first); how many such products a call costs; and how many positions a processor's vector holds,
unless pictures fill it (``prernn bench paths --maps``)."""


class PathConv2d(PathLayer):
    """A convolution whose paths choose pairs of channels; the kernels are dense and shared over all positions.

    Example:
        >>> import prernn, torch
        >>> layer = prernn.PathConv2d(8, 16, 3, paths=32, padding=1)
        >>> layer(torch.zeros(2, 8, 6, 6)).shape
        torch.Size([2, 16, 6, 6])

    ``y[destination_i] += kernel_i * x[source_i]`` with ``paths`` kernels ``(kh, kw)`` instead of
    ``out_channels x in_channels``: weights, memory and time are linear in the number of paths, with the C kernels in
    float32 on the CPU. With too many paths to be faster (see `pays`), and in all other cases, it is computed as a dense
    convolution with zeros.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: of each path's kernel, as in ``nn.Conv2d``.
        paths: number of paths, that is, pairs of channels.
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``.
        dilation: as in ``nn.Conv2d``.
        bias: as in `PathLinear`.
        init: as in `PathLinear`, except that the default is "mixed". Layers have few channels, so Sobol' paths connect
            a channel to nearly all the channels before it, in the same order for every channel: with alternating signs
            and one value for all weights of a kernel, 64 channels would start as two, one the negative of the other.
        drawn: as in `PathLinear`.
        sampling: as in `PathLinear`.

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
        """Maps ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
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
            return False  # torch will raise the error
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
    """A height and a width, from a pair or a single number."""
    height, width = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    return whole(name, height, least), whole(name, width, least)
