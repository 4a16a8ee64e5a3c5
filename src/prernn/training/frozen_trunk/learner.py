"""What trains behind a trunk that does not, and how."""

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
"""Of SGD, for every network alike."""

TEST_BATCH = 32
"""Items at a time where nothing is learnt."""

Items = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Learner:
    """What trains of a network.

    Attributes:
        part: the module whose parameters learn.
        advance: outputs ``(B, T, K)`` for a batch of cached items from a state, None for zeros, and the next state.
        whole: outputs for a batch from zeros, where that is another way; None where it is not.
        frozen: whether batch normalization stays on its statistics.
        new: parameters that begin at random.
    """

    part: nn.Module
    advance: Callable[[dict[str, Any], NetworkState | None], tuple[Tensor, NetworkState]]
    whole: Callable[[dict[str, Any]], Tensor] | None = None
    frozen: bool = True
    new: Sequence[nn.Parameter] = ()

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Outputs ``(B, T, K)`` of videos that each begin with a zero state."""
        return self.advance(batch, None)[0] if self.whole is None else self.whole(batch)

    def train(self) -> None:
        """Training mode, but for frozen statistics."""
        self.part.train()
        if self.frozen:
            freeze_statistics(self.part)


def learner(net: RecurrentNetwork, at: Sequence[str] | None, *, frozen: bool | None = None) -> Learner:
    """What trains of a network that is cut at values of its graph, or of all of it where ``at`` is None.

    Batch normalization stays on its statistics behind a trunk, and learns them in a whole network, unless ``frozen``
    says otherwise.
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
        rate: of what is new.
        pretrained: share of it that what is pre-trained learns at.
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
    """Brings gate inputs to one scale on some of the items, where the network asks for it."""
    if unmeasured(net):
        some = items[:: max(1, len(items) // most)]
        measure(net, lambda: [learner.forward(batch) for batch in in_batches(some, TEST_BATCH)])
