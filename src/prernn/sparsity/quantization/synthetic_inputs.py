"""Inputs synthesized from a network alone, to replace training data, by means of its batch normalization.

Batch normalization stores the mean ``m`` and the variance ``v`` of each channel over the training data. Inputs for
which a network has the same statistics are found by gradient descent from noise (as in ZeroQ: Cai et al., CVPR 2020):

    minimize over x   sum over layers of  mean_c (mean(x_l) - m_l)**2 / v_l  +  mean_c (std(x_l) / std_l - 1)**2.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import frame_shape_of
from prernn.layers.arguments import SEEDS, whole
from prernn.layers.computed_weights import copy_of

RATE = 0.1
"""Adam's initial learning rate, which decreases to 0 as half a cosine."""
CLIP = 16
"""Frames of a clip; more than one, because errors of a recurrence grow from frame to frame."""


def synthetic_inputs(
    net: nn.Module, shape: Sequence[int] | None = None, *, count: int = 64, steps: int = 60, seed: int = 0
) -> Tensor:
    """Inputs for which a network's batch normalization sees the same statistics as in training, without any data.

    Example:
        >>> import prernn, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
        >>> prernn.synthetic_inputs(net, (3, 8, 8), count=2, steps=1).shape
        torch.Size([2, 3, 8, 8])

    Args:
        net: any module; it is not changed. Without batch normalization the inputs are normally distributed noise.
        shape: shape of one input, without the batch. None means clips of frames for a `RecurrentNetwork`.
        count: total number of frames, or of inputs.
        steps: steps of gradient descent.
        seed: seed of the noise.

    Returns:
        ``(count, *shape)``, or clips ``(count / 16, 16, C, H, W)``; on the network's device, float32.

    Raises:
        ValueError: numbers out of range, or no shape for a module that is not a `RecurrentNetwork`.
    """
    count, steps = whole("count", count, 1), whole("steps", steps, 0)
    shape = _shape(net, shape, count)
    device = next((value.device for value in net.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(whole("seed", seed, *SEEDS))
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(shape, generator=generator).to(device)
        net = copy_of(net).float().eval().requires_grad_(False)
        if any(True for _ in _normalizations(net)):
            with _keeping(net) as distances:
                x = _descend(net, x.requires_grad_(), steps, distances)
    return x.detach()


def _shape(net: nn.Module, shape: Sequence[int] | None, count: int) -> tuple[int, ...]:
    if shape is not None:
        return (count, *(whole("shape", size, 1) for size in shape))
    if not isinstance(net, RecurrentNetwork):
        raise ValueError(f"expected the shape of an input of {type(net).__name__}, such as (3, 224, 224), got none")
    return (-(-count // CLIP), CLIP, *frame_shape_of(net))


def _descend(net: nn.Module, x: Tensor, steps: int, distances: list[Tensor]) -> Tensor:
    optimizer = torch.optim.Adam([x], RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        distances.clear()
        first_output(net, x)
        optimizer.zero_grad()
        torch.stack(distances).sum().backward()
        optimizer.step()
    return x


def _normalizations(net: nn.Module) -> Iterator[_BatchNorm]:
    yield from (part for part in net.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None)


@contextlib.contextmanager
def _keeping(net: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which each run adds how far every normalization's inputs are from its statistics."""
    distances: list[Tensor] = []

    def distance(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        mean, variance = channel_statistics(given[0])
        wanted = norm.running_var + norm.eps  # type: ignore[operator]
        shift = (mean - norm.running_mean).square() / wanted  # type: ignore[operator]
        spread = ((variance / wanted).clamp(min=1e-6).sqrt() - 1).square()
        distances.append(shift.mean() + spread.mean())

    with hooked([norm.register_forward_pre_hook(distance) for norm in _normalizations(net)]):
        yield distances


@contextlib.contextmanager
def hooked(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Removes hooks at the end of a block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of ``(N, C, ...)`` over all other dimensions."""
    others = [dim for dim in range(x.ndim) if dim != 1]
    return x.mean(others), x.var(others, correction=0)


def first_output(net: nn.Module, inputs: Tensor) -> Tensor:
    """A network's output, without its state."""
    out = net(inputs)
    while isinstance(out, tuple | list):
        out = out[0]
    if not isinstance(out, Tensor):
        raise NotImplementedError(f"expected a network whose outputs are a tensor, got {type(out).__name__}")
    return out
