"""TensorFlow's "same" padding, which depends on the size of the map: timm's `Conv2dSame` has it."""

from collections.abc import Sequence

from torch import nn


def pads_same(conv: nn.Module) -> bool:
    """Whether a convolution is timm's `Conv2dSame`."""
    return type(conv).__name__ == "Conv2dSame" and type(conv).__module__.startswith("timm.")


def same_sides(
    sizes: Sequence[int], kernels: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Zeros on each side, as `torch.nn.functional.pad` takes them: before and after the last dimension first."""
    sides: list[int] = []
    for size, kernel, stride, dilation in zip(sizes, kernels, strides, dilations, strict=True):
        total = same_padding(size, kernel, stride, dilation)
        sides = [total // 2, total - total // 2, *sides]
    return sides


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Zeros on both sides together, such that ``ceil(size / stride)`` positions remain.

    That is ``(ceil(size / stride) - 1) stride + reach - size`` with ``reach = (kernel - 1) dilation + 1``, at least 0.
    Because ``ceil(size / stride) stride`` is ``size + (-size mod stride)``, it equals ``reach - stride + (-size mod
    stride)``, which needs no maximum if the kernel reaches over the stride. Where sizes are symbols, as in an export,
    maxima and rounded quotients would be carried through all later layers.
    """
    reach = (kernel - 1) * dilation + 1
    total = reach - stride + (-size) % stride
    return total if reach >= stride else max(total, 0)
