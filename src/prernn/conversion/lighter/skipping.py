"""Layers that skip products with zeros, with the C kernels on a CPU, for few rows or pictures.

A fully connected layer of one row takes as long as it takes to load its weights from memory. If they are stored by
input, those of a zero input need not be loaded. A convolution multiplies faster than it reads, so that skipping pays
off only if few activations are not zero.
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.layers.computed_weights import computed, copy_of
from prernn.ops.backends import kernels, learns, takes_native

FEW = 16
"""Most rows for which the kernel was faster than torch's product (4096 x 4096, one thread of an AMD EPYC with AVX-512,
2026-11-29): `prernn bench cifar_online --layers`."""

LEAST = 1 << 20
"""Least number of weights of a layer that `skip_zeros` changes: smaller ones fit in the caches and are already fast."""

FEW_PICTURES = 4
"""Most pictures for which a convolution uses the kernel: with more, torch reads the weights only once for all."""

SHARES = {256: 0.2, 0: 0.5}
"""Largest share of nonzero samples for which a convolution uses the kernel, by the least number of positions of its
map: torch is slower on small maps."""


Layer = TypeVar("Layer", bound=nn.Module)


class SkippingLinear(nn.Linear):
    """`torch.nn.Linear` whose weight ``(O, I)`` is stored by input; its kernel only reads weights of nonzero inputs.

    So zero times an infinite weight is 0. With more than `FEW` rows, gradients, other types, or without the kernels it
    computes like its parent class.
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
    """`torch.nn.Conv2d` for inputs of which few are not 0; its kernel reads a copy of the weight, outputs last.

    Stride 1, one group, k = 1 or 3 with "same" padding; otherwise like `SkippingLinear`. The copy is renewed when the
    weight changes, except for changes that torch does not track (`Tensor.data`).
    """

    share: float
    """Share of its input activations that are nonzero samples."""

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
        """The weight in the kernel's layout."""
        weight = self.weight
        now = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        kept: tuple[tuple[int, int], Tensor] | None = vars(self).get("_kept")
        if kept is None or kept[0] != now:
            kept = (now, kernels("native").packed(weight.detach()))
            vars(self)["_kept"] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}  # not for copies and pickles


def kernels_take(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels support an input and parameters: plain float32 tensors on the CPU, without gradients."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):  # the tests below would fix a symbolic size
        return False
    given = [x, *(other for other in others if other is not None)]
    plain = all(
        type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" and t.dtype == torch.float32 for t in given
    )
    return plain and not learns(*given) and takes_native()


def skip(layer: nn.Module, share: float = 1.0) -> bool:
    """Makes a layer skip zeros, in place, if its type supports it and the ``share`` of nonzero inputs is small enough.

    Names, shapes and values of its parameters stay the same; the memory layout of a fully connected layer's weight
    changes. Returns whether the layer was changed.
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
    """Undoes `skip`, in place, except for the memory layout of the weight."""
    if type(layer) in (SkippingLinear, SkippingConv2d):
        layer.__class__ = type(layer).__bases__[0]
    return layer


def _regular(layer: nn.Conv2d) -> bool:
    side = layer.kernel_size[0]
    same = layer.padding in ((side // 2,) * 2, "same")
    once = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    return side in (1, 3) and layer.kernel_size == (side, side) and same and once and layer.padding_mode == "zeros"


def skip_zeros(net: nn.Module) -> nn.Module:
    """A copy whose large fully connected layers do not read the weights of inputs that are exactly 0, as after ReLU.

    Outputs are the same up to rounding, with fewer weights to read: about half after ReLU. It pays off for streams, for
    up to `FEW` rows on a CPU; convolutions are not changed, because half is too much for them (`SHARES`).

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
