"""How much a network's outputs change when one of its weights is quantized: which of them need how many samples.

The outputs' error from layer l is about ``a_l / s_l**2`` for ``s_l`` samples a weight, and ``log2 s_l`` more bits are
paid for each of its ``n_l`` weights. The least sum of errors for a given number of bits has
``s_l ~ (a_l / n_l)**(1/2)``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prernn.conversion.modes import evaluating
from prernn.sparsity.quantization.synthetic_inputs import first_output

LEAST = 1e-4
"""Of the mean noise a weight, that every layer counts for: what inputs don't show may matter all the same."""


@torch.no_grad()
def output_noise(
    net: nn.Module, values: Sequence[Tensor], quantized: Callable[[int], Tensor], inputs: Tensor
) -> Tensor:
    """The change of the outputs when one of the weights is quantized, and all others are as they were trained.

    Args:
        net: a network, left as it is.
        values: its weights.
        quantized: from the place of one among them to what it becomes.
        inputs: of the network.

    Returns:
        ``||y' - y||**2 / ||y||**2`` for each weight, float64, where ``y`` are the outputs less their mean over the
        classes, which changes no decision.
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
    """Samples a weight of each layer, up to a common factor: ``(a_l / n_l)**(1/2)``.

    Args:
        noise: of each layer, measured with the same number of samples a weight.
        sizes: weights of each layer.
    """
    each = noise / sizes
    floor = LEAST * noise.sum() / sizes.sum()
    return each.clamp(min=float(floor) or 1.0).sqrt()
