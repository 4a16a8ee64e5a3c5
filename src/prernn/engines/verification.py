"""`prernn verify`: checks that every way through a network gives the same result.

Compared with the whole sequence at once: frame by frame, in chunks, in parallel with other streams, in each engine and
precision that is installed, and the quantized network, each with its own tolerance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from prernn.conversion.graph.tracing import first_line
from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.engines import opening
from prernn.engines.agreement import TOLERANCES, difference
from prernn.engines.engine_network import in_steps
from prernn.sparsity.quantization.quantize import quantize

FRAMES = 200
"""Number of frames of noise, if there is no video, which would reveal errors that add up over time."""

SAMPLES = 64.0
"""Samples per weight of the quantized network in the comparison: about 8 bits."""

QUANTIZED = 0.2
"""Its tolerance: with weights rounded to a hundredth of their scale it is another network, with similar answers."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: of the way through the network.
        difference: the largest of all outputs, as a share of the largest output; None if it can't run here.
        tolerance: the largest allowed difference.
        reason: why it can't run, or "".
    """

    name: str
    difference: float | None
    tolerance: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is within its tolerance, or can't run here."""
        return self.difference is None or self.difference <= self.tolerance


def checks(net: SequenceNetwork, frames: Tensor) -> Iterator[Check]:
    """Yields the comparisons over ``frames (T, C, H, W)`` as they are made.

    Raises:
        NotImplementedError: the network hears both directions, so there is only one way through a sequence.
    """
    if net.sees_ahead:
        raise NotImplementedError("expected a network that goes step by step, got one that hears both directions")
    with evaluating(net), torch.inference_mode():
        expected = net(frames.unsqueeze(0))[0][0]  # (T, K)
    single = TOLERANCES["float32"]
    yield Check("frame by frame", difference(_stepped(net, frames), expected), single)
    for steps in (7, len(frames) // 2):
        if 1 < steps < len(frames):
            yield Check(f"chunks of {steps} frames", difference(_chunked(net, frames, steps), expected), single)
    yield Check("beside two other streams", difference(_beside(net, frames), expected), single)
    for engine in opening.ENGINES:
        for precision in opening.PRECISIONS:
            make = partial(opening.opened, net, engine, precision)
            yield _tried(f"{engine}, {precision}", make, frames, expected, TOLERANCES[precision])
    quantized = f"quantized, {SAMPLES:g} samples a weight"
    yield _tried(quantized, partial(_quantized, net), frames, expected, QUANTIZED)


def _quantized(net: SequenceNetwork) -> SequenceNetwork:
    return cast(SequenceNetwork, quantize(net, SAMPLES))


def _tried(name: str, make: Callable[[], SequenceNetwork], frames: Tensor, expected: Tensor, tolerance: float) -> Check:
    try:
        return Check(name, difference(_stepped(make(), frames), expected), tolerance)
    except (NotImplementedError, ImportError) as error:
        return Check(name, None, tolerance, str(error))
    except (ValueError, RuntimeError) as error:
        return Check(name, float("inf"), tolerance, first_line(error))


@torch.inference_mode()
def _stepped(net: SequenceNetwork, frames: Tensor) -> Tensor:
    with evaluating(net):
        return in_steps(net, frames.unsqueeze(0), None)[0][0]


@torch.inference_mode()
def _chunked(net: SequenceNetwork, frames: Tensor, steps: int) -> Tensor:
    state: NetworkState | None = None
    outputs = []
    with evaluating(net):
        for part in frames.split(steps):
            out, state = net(part.unsqueeze(0), state)
            outputs.append(out[0])
    return torch.cat(outputs)


@torch.inference_mode()
def _beside(net: SequenceNetwork, frames: Tensor) -> Tensor:
    """Steps of three streams, of which the second is this one."""
    state: NetworkState | None = None
    outputs = []
    with evaluating(net):
        for number, frame in enumerate(frames):
            others = [frames[-1 - number], frames[number // 2]]
            out, state = net.step(torch.stack([others[0], frame, others[1]]), state)
            outputs.append(out[1])
    return torch.stack(outputs)
