"""TensorFlow's "same" padding, written so that a program in which height and width stay free can be traced."""

import types

from torch import Tensor, nn
from torch.nn import functional as F


def with_simple_padding(module: nn.Module) -> nn.Module:
    """Makes timm's `Conv2dSame` pad by `same_padding`, in place; gives the module.

    timm computes the padding with maxima and rounded quotients of sizes, and torch.export carries these expressions
    through all later layers: with the five strides of an EfficientNet it takes many minutes.
    """
    for conv in module.modules():
        if type(conv).__name__ == "Conv2dSame" and type(conv).__module__.startswith("timm."):
            conv.forward = types.MethodType(_forward, conv)  # type: ignore[method-assign]
    return module


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Zeros at both sides together, such that ``ceil(size / stride)`` positions remain.

    That is ``(ceil(size / stride) - 1) stride + reach - size`` with ``reach = (kernel - 1) dilation + 1``. Because
    ``ceil(size / stride) stride`` is ``size + (-size mod stride)``, it equals ``reach - stride + (-size mod stride)``,
    which is never below zero if the kernel reaches over the stride.
    """
    reach = (kernel - 1) * dilation + 1
    if stride == 1:
        return reach - 1
    total = reach - stride + (-size) % stride
    return total if reach >= stride else max(total, 0)


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    sides: list[int] = []
    for size, kernel, stride, dilation in zip(x.shape[-2:], conv.kernel_size, conv.stride, conv.dilation, strict=True):
        total = same_padding(size, kernel, stride, dilation)
        sides = [total // 2, total - total // 2, *sides]  # F.pad begins with the last dimension
    return F.conv2d(F.pad(x, sides), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
