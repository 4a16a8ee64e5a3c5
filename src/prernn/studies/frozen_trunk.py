"""Training behind a frozen trunk."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from prernn.conversion.cut import split
from prernn.conversion.network import RecurrentNetwork
from prernn.studies.lineup import Budget
from prernn.training.batches import collate
from prernn.training.cached_features import outputs
from prernn.training.evaluation import whole_outputs


def _learner(net: RecurrentNetwork, at: list[str] | None) -> tuple[nn.Module, Callable[[dict[str, Any]], Tensor]]:
    """What trains of a network that is cut at values of its graph, or all of it, and its outputs for a batch."""
    if at is None:
        return net, partial(whole_outputs, net)
    _, rest = split(net, at)
    return rest, lambda batch: outputs(rest, net.init_state(len(batch["path"])), batch)


def _batches(items: list[dict[str, Any]], epoch: int, seed: int, budget: Budget) -> Iterator[dict[str, Any]]:
    """Every video once, in the pass of this epoch."""
    passes: dict[int, list[dict[str, Any]]] = {}
    for item in items:
        passes.setdefault(item["number"], []).append(item)
    numbers = np.random.default_rng([seed, epoch]).permutation(sorted(passes)).tolist()
    chosen = [passes[number][epoch % len(passes[number])] for number in numbers]
    for first in range(0, len(chosen), budget.batch_size):
        yield collate(chosen[first : first + budget.batch_size])
