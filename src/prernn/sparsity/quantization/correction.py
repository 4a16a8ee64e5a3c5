"""Correction of batch normalization and biases for the errors of quantized weights in the layers before them.

Errors of the weights shift the mean of a channel, and change its variance. Layer by layer, in execution order, batch
normalization gets statistics with which its output has the same mean and variance as before, and a layer with a bias
gets one with which its outputs have the same mean (as Nagel et al., ICCV 2019, correct biases).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prernn.conversion.modes import evaluating
from prernn.sparsity.quantization.synthetic_inputs import channel_statistics, first_output, hooked

MOST = 4.0
"""The largest factor by which a variance is changed."""

Statistics = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def layer_statistics(net: nn.Module, inputs: Tensor) -> Statistics:
    """Mean and variance of each channel before every batch normalization and after every layer with a bias."""
    found: Statistics = {}
    names = {module: name for name, module in net.named_modules()}

    def before(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[names[norm]] = channel_statistics(given[0])

    def behind(layer: nn.Module, given: Any, out: Tensor) -> None:
        found[names[layer]] = _of_outputs(layer, out)

    _run(net, inputs, before, behind)
    return found


@torch.no_grad()
def correct(net: nn.Module, wanted: Statistics, inputs: Tensor) -> None:
    """Restores the statistics that a quantized network's layers had before quantization, in place.

    Args:
        net: a network with quantized weights.
        wanted: `layer_statistics` of the trained network.
        inputs: the inputs that those were measured on.
    """
    names = {module: name for name, module in net.named_modules()}

    def before(norm: Any, given: tuple[Tensor, ...]) -> None:
        mean, variance = channel_statistics(given[0])
        old_mean, old_variance = wanted[names[norm]]
        ratio = (variance / old_variance.clamp(min=1e-12)).clamp(1 / MOST, MOST)
        norm.running_mean.copy_(mean + (norm.running_mean - old_mean) * ratio.sqrt())
        norm.running_var.copy_(((norm.running_var + norm.eps) * ratio - norm.eps).clamp(min=0))

    def behind(layer: Any, given: Any, out: Tensor) -> Tensor:
        shift = wanted[names[layer]][0] - _of_outputs(layer, out)[0]
        layer.bias.add_(shift)
        return out + (shift if isinstance(layer, nn.Linear) else shift.view(-1, *[1] * (layer.weight.ndim - 2)))

    _run(net, inputs, before, behind)


def _of_outputs(layer: nn.Module, out: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics of a layer's outputs; for a linear layer the last dimension holds the channels."""
    return channel_statistics(out.flatten(0, -2) if isinstance(layer, nn.Linear) and out.ndim > 2 else out)


def _run(net: nn.Module, inputs: Tensor, before: Any, behind: Any) -> None:
    """Runs a network in evaluation mode with hooks on each batch normalization and each layer with a bias."""
    handles = []
    for part in net.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None:
            handles.append(part.register_forward_pre_hook(before))
        elif isinstance(part, nn.Linear | _ConvNd) and part.bias is not None:
            handles.append(part.register_forward_hook(behind))
    with hooked(handles), evaluating(net):
        first_output(net, inputs)
