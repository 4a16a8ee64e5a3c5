"""Folds frozen batch normalization into the convolution before it, during a training pass.

With frozen statistics, batch normalization is an affine map of each channel, ``g (x - mu) / sigma + beta``, so that

    B(w * x + b) = w' * x + b'   with   w' = w g / sigma   and   b' = beta + (b - mu) g / sigma.

The right side passes over the feature maps once instead of twice, and keeps one of them for the gradient instead of
two. Gradients go to w, b, g and beta as before; parameters and checkpoints are the same.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prernn.conversion.graph.nodes import module_calls, submodule_of
from prernn.conversion.modes import lent_forwards

Pair = tuple[_ConvNd, _BatchNorm]
"""A convolution, and the batch normalization that is the only reader of its output."""


def pairs_of(cnn: fx.GraphModule) -> list[Pair]:
    """The convolutions of a graph that are followed by batch normalization, both called only once."""
    calls = module_calls(cnn.graph)
    targets = [call.target for call in calls]
    found = []
    for call in calls:
        norm, source = submodule_of(cnn, call), call.all_input_nodes[0]
        conv = submodule_of(cnn, source)
        if not isinstance(norm, _BatchNorm) or not isinstance(conv, _ConvNd) or isinstance(conv, _ConvTransposeNd):
            continue
        once = targets.count(call.target) == targets.count(source.target) == 1
        if once and list(source.users) == [call] and isinstance(conv._parameters.get("weight"), Tensor):
            found.append((conv, norm))
    return found


@contextlib.contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """Makes convolutions do the work of their frozen normalizations within a block.

    Normalizations in training are skipped, and so are modules with hooks, which may read the value between the two.
    """
    chosen = [pair for pair in pairs if _is_frozen(pair[1]) and not any(map(has_hooks, pair))]
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {conv: _Folded(conv, norm) for conv, norm in chosen}
    with lent_forwards(forwards | {norm: _as_it_is for _, norm in chosen}):
        yield


def foldable(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that compute the same when folded, as tested on a small input.

    Counterexamples are convolutions that standardize their weight, and normalizations that do something else as well.
    """
    return [pair for pair in pairs if _is_frozen(pair[1]) and _computes_the_same(*pair)]


def _is_frozen(norm: _BatchNorm) -> bool:
    return not norm.training and norm.running_mean is not None


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has hooks, or its forward has been replaced."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@torch.no_grad()
def _computes_the_same(conv: _ConvNd, norm: _BatchNorm) -> bool:
    size = [(kernel - 1) * step + 2 for kernel, step in zip(conv.kernel_size, conv.dilation, strict=True)]
    numbers = torch.arange(conv.in_channels * torch.Size(size).numel(), device=conv.weight.device)
    picture = numbers.sin().view(1, conv.in_channels, *size).to(conv.weight.dtype)  # without torch's random generator
    expected = norm(conv(picture))
    with folded([(conv, norm)]):
        return torch.allclose(norm(conv(picture)), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _Folded:
    """The forward pass of a convolution followed by its normalization.

    torch.nn.utils.fusion computes the same weights, but as new parameters, which pass no gradient on.
    """

    def __init__(self, conv: _ConvNd, norm: _BatchNorm) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        factor = (variance + norm.eps).rsqrt()  # (C,), as are all others
        if norm.weight is not None:
            factor = factor * norm.weight
        bias = -mean * factor if conv.bias is None else (conv.bias - mean) * factor
        if norm.bias is not None:
            bias = bias + norm.bias
        weight = conv.weight * factor.view(-1, *[1] * (conv.weight.ndim - 1))
        own = conv._parameters.copy()
        # like torch.func.functional_call, which can't add a bias to a layer without one
        conv._parameters.update(weight=cast(nn.Parameter, weight), bias=cast(nn.Parameter, bias))
        try:
            out: Tensor = type(conv).forward(conv, x)
        finally:
            conv._parameters.update(own)
        return out
