"""Checks whether two ways to compute a network give the same result."""

import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork, frame_shape_of

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02, "int8": 0.25}
"""Largest difference of outputs that counts as equal, as a share of the largest output: rounding errors of float32 stay
below 1e-5 in the networks here, those of bfloat16, with 8 bits, below a few hundredths. A network in integers is a
different network, which only has to give similar answers."""


def noise(net: SequenceNetwork, batch: int, steps: int, shape: tuple[int, ...] | None = None, seed: int = 0) -> Tensor:
    """Input ``(B, T, *shape)`` for a network, in the shape that its file would have: noise, or numbers of words."""
    size, chance = (batch, steps, *(shape or frame_shape_of(net, None))), torch.Generator().manual_seed(seed)
    if net.input_type == torch.int64:
        return torch.randint(2, size, generator=chance).to(net.device)
    return torch.randn(size, generator=chance).to(net.device, net.input_type)


@torch.inference_mode()
def last_bit_difference(net: SequenceNetwork, video: Tensor) -> float:
    """How far outputs move, as a share of the largest, when the last bit of the input ``(B, T, ...)`` does.

    If the result exceeds rounding errors, no other way to compute the network can agree with it, because its
    recurrence is chaotic. For numbers of words it is 0.
    """
    if not video.is_floating_point():
        return 0.0
    moved = torch.nextafter(video, torch.full_like(video, torch.inf))
    return difference(net(moved)[0], net(video)[0])


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value, where that is finite; infinite if the shapes
    differ, or one value is finite and the other is not."""
    if got.shape != expected.shape:
        return float("inf")
    got, expected = got.double(), expected.double()
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(expected[finite].abs().max())
    apart = float((got - expected)[finite].abs().max())
    return apart / scale if scale else apart
