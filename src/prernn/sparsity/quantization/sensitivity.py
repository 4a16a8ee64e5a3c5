"""How much a network's outputs change when one of its layers is quantized, and how many samples each layer needs.

The outputs' error from layer l is about ``a_l / s_l**2`` for ``s_l`` samples per weight, which costs ``log2 s_l`` more
bits for each of its ``n_l`` weights. For a given number of bits, the sum of errors is smallest for
``s_l ~ (a_l / n_l)**(1/2)``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prernn.conversion.modes import evaluating
from prernn.sparsity.quantization.synthetic_inputs import first_output

LEAST = 1e-4
"""Lower limit of a layer's noise per weight, as a share of the mean: noise that inputs don't show may still matter."""


@torch.no_grad()
def output_noise(
    net: nn.Module, values: Sequence[Tensor], quantized: Callable[[int], Tensor], inputs: Tensor
) -> Tensor:
    """The change of the outputs when one weight tensor is quantized, and all others are as trained.

    Args:
        net: a network; it is the same afterwards.
        values: its weight tensors.
        quantized: maps the index of one of them to its quantized values.
        inputs: inputs of the network.

    Returns:
        ``||y' - y||**2 / ||y||**2`` for each weight tensor, float64, where ``y`` are the outputs minus their mean over
        the classes, which affects no decision.
    """
    with evaluating(net):
        before = _outputs(net, inputs)
        size = float(before.square().sum()) or 1.0
        noise = []
        for place, value in enumerate(values):
            kept = value.clone()
            value.copy_(quantized(place))
            noise.append(float((_outputs(net, inputs) - before).square().sum()) / size)
            value.copy_(kept)
    return torch.tensor(noise, dtype=torch.float64)


def _outputs(net: nn.Module, inputs: Tensor) -> Tensor:
    out = first_output(net, inputs).double()
    return out - out.mean(-1, keepdim=True) if out.ndim > 1 and out.shape[-1] > 1 else out


def samples_by_noise(noise: Tensor, sizes: Tensor) -> Tensor:
    """Samples per weight of each layer, up to a common factor: ``(a_l / n_l)**(1/2)``.

    Args:
        noise: noise of each layer, measured with the same number of samples per weight.
        sizes: number of weights of each layer.
    """
    each = noise / sizes
    floor = LEAST * noise.sum() / sizes.sum()
    return each.clamp(min=float(floor) or 1.0).sqrt()
