"""The part that trains behind a trunk that does not, and how it trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.calibration import measure, unmeasured
from prernn.conversion.graph.trunk import split
from prernn.conversion.modes import freeze_statistics
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import NetworkState
from prernn.training.evaluation import in_batches, next_outputs, whole_outputs
from prernn.training.frozen_trunk.features import outputs
from prernn.training.learning import SPARSE_POWER, rate_factors, rate_groups

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Momentum of SGD, the same for every network."""

TEST_BATCH = 32
"""Number of items at a time when nothing is learned."""

Items = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Learner:
    """The part of a network that trains.

    Attributes:
        part: the module whose parameters are trained.
        advance: outputs ``(B, T, K)`` for a batch of cached items from a state, None for zeros, and the next state.
        whole: outputs for a batch from zeros, if they are computed in another way; else None.
        frozen: whether batch normalization keeps its statistics.
        new: randomly initialized parameters.
    """

    part: nn.Module
    advance: Callable[[dict[str, Any], NetworkState | None], tuple[Tensor, NetworkState]]
    whole: Callable[[dict[str, Any]], Tensor] | None = None
    frozen: bool = True
    new: Sequence[nn.Parameter] = ()

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Outputs ``(B, T, K)`` of videos that each start from a zero state."""
        return self.advance(batch, None)[0] if self.whole is None else self.whole(batch)

    def train(self) -> None:
        """Sets training mode, except for frozen statistics."""
        self.part.train()
        if self.frozen:
            freeze_statistics(self.part)


def learner(net: RecurrentNetwork, at: Sequence[str] | None, *, frozen: bool | None = None) -> Learner:
    """The part of a network that trains: behind values of its graph, or all of it if ``at`` is None.

    Batch normalization keeps its statistics behind a trunk, and learns them in a whole network, unless ``frozen`` says
    otherwise.
    """
    new = net.new_parameters()
    if at is None:
        return Learner(net, partial(next_outputs, net), partial(whole_outputs, net), bool(frozen), new)
    _, rest = split(net, at)

    def advance(batch: dict[str, Any], state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        return outputs(rest, state or net.init_state(len(batch["path"])), batch)

    return Learner(rest, advance, frozen=frozen is None or frozen, new=new)


def sgd(
    learner: Learner, rate: float, *, pretrained: float = 1.0, sparse_power: float = SPARSE_POWER
) -> torch.optim.SGD:
    """The optimizer of every network in a comparison.

    Args:
        learner: what learns.
        rate: learning rate of new parameters.
        pretrained: share of it for pre-trained parameters.
        sparse_power: see `rate_factors`.
    """
    factors, new = rate_factors(learner.part, sparse_power), {id(parameter) for parameter in learner.new}
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in learner.part.parameters():
        parts[pretrained == 1 or id(parameter) in new].append(parameter)
    groups = rate_groups("new", parts[True], rate, factors)
    groups += rate_groups("pretrained", parts[False], rate * pretrained, factors)
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def calibrate_behind(net: RecurrentNetwork, learner: Learner, items: Items, most: int = 64) -> None:
    """Brings gate inputs to one scale on some of the items, if the network asks for it."""
    if unmeasured(net):
        some = items[:: max(1, len(items) // most)]
        measure(net, lambda: [learner.forward(batch) for batch in in_batches(some, TEST_BATCH)])
