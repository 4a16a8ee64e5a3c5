"""Training behind a frozen trunk: the trunk has run once over the videos, what is behind it learns from what it gave.

The same way trains whole networks, on the videos themselves.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from prernn.conversion.calibration import measure, unmeasured
from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.modes import freeze_statistics
from prernn.conversion.network import NetworkState, RecurrentNetwork
from prernn.conversion.trunk import split
from prernn.tasks.task import Task
from prernn.training.cached_features import outputs
from prernn.training.continuity import SINGLE_CLIPS, Continuity, Rows, RowSampler, carried
from prernn.training.evaluation import Onward, evaluate, in_batches, in_order, next_outputs, whole_outputs
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
        carries: whether it has a state, which a piece of a video hands to the next.
    """

    part: nn.Module
    advance: Callable[[dict[str, Any], NetworkState | None], tuple[Tensor, NetworkState]]
    whole: Callable[[dict[str, Any]], Tensor] | None = None
    frozen: bool = True
    carries: bool = True

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Outputs ``(B, T, K)`` of videos that each begin with a zero state."""
        return self.advance(batch, None)[0] if self.whole is None else self.whole(batch)

    def train(self) -> None:
        """Training mode, but for frozen statistics."""
        self.part.train()
        if self.frozen:
            freeze_statistics(self.part)


def learner(net: RecurrentNetwork, at: Sequence[str] | None) -> Learner:
    """What trains of a network that is cut at values of its graph, or of all of it where ``at`` is None."""
    if at is None:
        ways = partial(next_outputs, net), partial(whole_outputs, net)
        return Learner(net, *ways, frozen=False, carries=not is_clip_network(net))
    _, rest = split(net, at)
    return Learner(rest, lambda batch, state: outputs(rest, state or net.init_state(len(batch["path"])), batch))


def sgd(part: nn.Module, rate: float, sparse_power: float = SPARSE_POWER) -> torch.optim.SGD:
    """The optimizer of every network in a comparison; see `rate_factors` for ``sparse_power``."""
    groups = rate_groups("all", part.parameters(), rate, rate_factors(part, sparse_power))
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def train(
    learner: Learner,
    task: Task,
    epochs: Sequence[Iterable[dict[str, Any]]],
    test: Items,
    schedule: LRScheduler,
    *,
    clip: float = 1.0,
    continuity: Continuity = SINGLE_CLIPS,
    only_last: bool = False,
    advance: Callable[[], None] = lambda: None,
    report: Callable[[dict[str, Tensor]], None] = lambda values: None,
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Trains, and evaluates after each epoch, or the last alone.

    Args:
        learner: what learns.
        task: whose loss and metrics.
        epochs: the batches of each epoch.
        test: items that the metrics are over.
        schedule: of the learning rate, a step a batch; it holds the optimizer.
        clip: norm of the gradient at most.
        continuity: how states go on from batch to batch; the batches are made as it says (`in_rows`).
        only_last: evaluate after the last epoch alone.
        advance: called after each batch.
        report: called with the metrics after each epoch.

    Returns:
        ``{"train loss": [...], score: [...]}`` over the epochs, and the last epoch's metrics.
    """
    history: dict[str, list[float]] = {"train loss": [], task.score[0]: []}
    values: dict[str, Tensor] = {}
    for number, batches in enumerate(epochs, 1):
        learner.train()
        losses, state = [], None
        for batch in batches:
            loss, state = _step(learner, task, batch, schedule, clip, carried(state, continuity))
            losses.append(loss)
            advance()
        learner.part.eval()
        history["train loss"].append(statistics.fmean(losses))
        if only_last and number < len(epochs):
            continue
        values = judge(learner, task, test)
        history[task.score[0]].append(float(values[task.score[0]]))
        report(values)
    return history, values


def judge(learner: Learner, task: Task, items: Items) -> dict[str, Tensor]:
    """A task's metrics over items, of which pieces of a video go on from each other."""
    forward = Onward(learner.advance, learner.forward) if learner.carries else learner.forward
    return evaluate(forward, task.metrics(), in_order(items, TEST_BATCH))


def _step(
    learner: Learner,
    task: Task,
    batch: dict[str, Any],
    schedule: LRScheduler,
    clip: float,
    state: NetworkState | None,
) -> tuple[float, NetworkState | None]:
    """Learns from one batch; its loss and the state behind it."""
    optimizer = schedule.optimizer
    optimizer.zero_grad()
    if "weight" in batch:  # rows that go on
        out, state = learner.advance(batch, state)
    else:
        out = learner.forward(batch)
    loss = task.loss(out, batch)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.part.parameters(), clip)
    optimizer.step()
    schedule.step()
    return loss.item(), state


def batches_in_epoch(videos: int, continuity: Continuity, size: int) -> int:
    """How many batches of ``size`` videos an epoch has."""
    if continuity.plain:
        return -(-videos // size)
    return len(_sampler(videos, continuity, size))


def in_rows(
    items: Items, task: Task, continuity: Continuity, size: int, seed: int, epoch: int
) -> Iterator[dict[str, Any]]:
    """Batches of an epoch, ``size`` videos each, in rows of clips that follow each other."""
    sampler = _sampler(len(items), continuity, size, seed)
    sampler.set_epoch(epoch)
    join = Rows(task, continuity, torch.tensor(epoch))
    return (join([items[number] for number in numbers]) for numbers in sampler)


def epochs_of(
    items: Items, task: Task, continuity: Continuity, size: int, seed: int, epochs: int
) -> tuple[list[Iterator[dict[str, Any]]], int]:
    """The batches of each epoch, which takes one pass of every video in an order of its own, and how many they are."""

    def batches_of(epoch: int) -> Iterator[dict[str, Any]]:
        if continuity.plain:
            return shuffled(items, epoch, seed, size)
        return in_rows(of_epoch(items, epoch, seed), task, continuity, size, seed, epoch)

    videos = len({item["number"] for item in items})
    return [batches_of(epoch) for epoch in range(epochs)], epochs * batches_in_epoch(videos, continuity, size)


def _sampler(videos: int, continuity: Continuity, size: int, seed: int = 0) -> RowSampler:
    clips = continuity.clips or 1
    return RowSampler(videos, max(size // clips, 1), clips, seed=seed)


def of_epoch(items: Items, epoch: int, seed: int) -> list[dict[str, Any]]:
    """Every video once, in the pass of this epoch and in an order by seed and epoch."""
    passes: dict[int, list[dict[str, Any]]] = {}
    for item in items:
        passes.setdefault(item["number"], []).append(item)
    numbers = np.random.default_rng([seed, epoch]).permutation(sorted(passes)).tolist()
    return [passes[number][epoch % len(passes[number])] for number in numbers]


def shuffled(items: Items, epoch: int, seed: int, size: int) -> Iterator[dict[str, Any]]:
    """Batches with every video once, in the pass of this epoch."""
    return in_batches(of_epoch(items, epoch, seed), size)


def calibrate_behind(net: RecurrentNetwork, learner: Learner, items: Items, most: int = 64) -> None:
    """Brings gate inputs to one scale on some of the items, where the network asks for it."""
    if unmeasured(net):
        some = items[:: max(1, len(items) // most)]
        measure(net, lambda: [learner.forward(batch) for batch in in_batches(some, TEST_BATCH)])


def held_out(items: Items, share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training items in two, apart by video; the part that judges (``share`` of them) in its first pass alone."""
    numbers = sorted({item["number"] for item in items})
    count = max(1, round(share * len(numbers)))
    judges = set(np.random.default_rng(0).permutation(numbers)[:count].tolist())
    seen, judged = set(), []
    for item in items:
        if item["number"] in judges and item["number"] not in seen:
            seen.add(item["number"])
            judged.append(item)
    return [item for item in items if item["number"] not in judges], judged


def drawn(labels: Sequence[int], few: int, seed: int) -> list[int]:
    """Numbers of ``few`` videos of each label, fewer where there are no more, by the seed."""
    order = np.random.default_rng([few, seed]).permutation(len(labels)).tolist()
    counts: dict[int, int] = {}
    chosen = []
    for number in order:
        counts[labels[number]] = counts.get(labels[number], 0) + 1
        if counts[labels[number]] <= few:
            chosen.append(number)
    return sorted(chosen)
