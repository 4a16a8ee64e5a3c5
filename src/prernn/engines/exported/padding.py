"""Padding of timm's convolutions, written so that a program in which height and width stay free can be traced."""

import types

from torch import Tensor, nn
from torch.nn import functional as F

from prernn.conversion.graph.same_padding import pads_same, same_sides


def simplify_padding(module: nn.Module) -> None:
    """Makes timm's `Conv2dSame` pad by `same_sides`, in place.

    timm computes the padding with maxima and rounded quotients of sizes, and torch.export carries these expressions
    through all later layers: with the five strides of an EfficientNet it takes many minutes.
    """
    for conv in module.modules():
        if pads_same(conv):
            conv.forward = types.MethodType(_forward, conv)  # type: ignore[method-assign]


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    x = F.pad(x, same_sides(x.shape[-2:], conv.kernel_size, conv.stride, conv.dilation))
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
