"""Layers that leave out products with zeros: by the C kernels on a CPU, for few rows or pictures.

A fully connected layer of one row takes as long as its weights take to come from memory. Where they lie by input,
those of a zero need not come. A convolution multiplies faster than it reads, so that only few activations pay.
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.layers.computed_weights import computed, copy_of
from prernn.ops.backends import kernels, learns, takes_native

FEW = 16
"""Rows up to which the kernel was faster than torch's product (4096 x 4096, one thread of an AMD EPYC with AVX-512,
2026-11-29): `prernn bench cifar_online --layers`."""

LEAST = 1 << 20
"""Weights of a layer that `skip_zeros` changes: smaller ones are in the caches, and quick as they are."""

FEW_PICTURES = 4
"""The same of a convolution: with more, torch reads the weights of deep layers once for all."""

SHARES = {256: 0.2, 0: 0.5}
"""Share of samples up to which a convolution takes the kernel, from so many places of its map on: torch computes small
maps less quickly."""


Layer = TypeVar("Layer", bound=nn.Module)


class SkippingLinear(nn.Linear):
    """`torch.nn.Linear` whose weight ``(O, I)`` lies by input; its kernel reads those of inputs that are not 0.

    So a zero times an infinite weight is 0. With more than `FEW` rows, gradients, other types, or without the kernels
    it computes as its parent.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b`` of ``x (..., I)``."""
        weight, bias = self.weight, self.bias
        if x.shape[-1] == self.in_features and kernels_take(x, weight, bias) and weight.t().is_contiguous():
            rows = x.reshape(-1, self.in_features)
            if 0 < len(rows) <= FEW:
                y: Tensor = kernels("native").few_product(rows, weight.t(), bias)
                return y.view(*x.shape[:-1], self.out_features)
        return F.linear(x, weight, bias)


class SkippingConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with few activations that are not 0; its kernel reads a copy of the weight, outputs last.

    Stride 1, one group, k = 1 or 3 with a margin that keeps the size; otherwise as `SkippingLinear`. The copy is made
    anew when the weight changes, but for changes behind torch's back (`Tensor.data`).
    """

    share: float
    """Of its activations that are samples."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of ``x (B, C, H, W)`` or ``(C, H, W)``."""
        pictures = x.unsqueeze(0) if x.ndim == 3 else x
        fits = x.ndim in (3, 4) and pictures.shape[1] == self.in_channels and kernels_take(x, self.weight, self.bias)
        if fits and 0 < len(pictures) <= FEW_PICTURES and self._pays(x):
            y: Tensor = kernels("native").few_convolution(pictures, self._packed(), self.bias, self.out_channels)
            return y if x.ndim == 4 else y.squeeze(0)
        dense: Tensor = self._conv_forward(x, self.weight, self.bias)
        return dense

    def _pays(self, x: Tensor) -> bool:
        places = x.shape[-2] * x.shape[-1]
        return places > 0 and self.share <= next(share for least, share in SHARES.items() if places >= least)

    def _packed(self) -> Tensor:
        """The weight as the kernel reads it."""
        weight = self.weight
        now = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        kept: tuple[tuple[int, int], Tensor] | None = vars(self).get("_kept")
        if kept is None or kept[0] != now:
            kept = (now, kernels("native").packed(weight.detach()))
            vars(self)["_kept"] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}  # of copies and pickles


def kernels_take(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels take an input and parameters: plain float32 tensors on the CPU, without gradients."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):  # first: what follows fixes a symbolic size
        return False
    given = [x, *(other for other in others if other is not None)]
    plain = all(
        type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" and t.dtype == torch.float32 for t in given
    )
    return plain and not learns(*given) and takes_native()


def skip(layer: nn.Module, share: float = 1.0) -> bool:
    """Makes a layer skip zeros, in place, if its kind can and ``share`` of its activations may be few enough to pay.

    Names, shapes and values of its parameters stay; that of a fully connected layer is laid out anew.
    """
    weight = getattr(layer, "weight", None)
    if computed(layer) or not isinstance(weight, Tensor) or weight.is_meta:
        return False
    if type(layer) is nn.Linear:
        weight.data = weight.data.t().contiguous().t()
        layer.__class__ = SkippingLinear
    elif type(layer) is nn.Conv2d and share <= max(SHARES.values()) and _regular(layer):
        layer.__class__ = SkippingConv2d
        vars(layer)["share"] = share
    else:
        return False
    return True


def unskipped(layer: Layer) -> Layer:
    """Undoes `skip`, in place, but for where the weight lies."""
    if type(layer) in (SkippingLinear, SkippingConv2d):
        layer.__class__ = type(layer).__bases__[0]
    return layer


def _regular(layer: nn.Conv2d) -> bool:
    side = layer.kernel_size[0]
    same = layer.padding in ((side // 2,) * 2, "same")
    once = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    return side in (1, 3) and layer.kernel_size == (side, side) and same and once and layer.padding_mode == "zeros"


def skip_zeros(net: nn.Module) -> nn.Module:
    """A copy whose large fully connected layers do not read the weights of inputs that are exactly 0, as behind ReLU.

    The same outputs up to rounding, with less to read: about half behind ReLU. It pays for streams, at up to `FEW` rows
    on a CPU; convolutions stay, for which half is too much (`SHARES`).

    Example:
        >>> import prernn, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024)).eval()
        >>> frame = torch.rand(1, 64)
        >>> bool((prernn.skip_zeros(net)(frame) - net(frame)).abs().max() < 1e-5)
        True
    """
    made = copy_of(net)
    for layer in made.modules():
        if isinstance(layer, nn.Linear) and layer.weight.numel() >= LEAST:
            skip(layer)
    return made
