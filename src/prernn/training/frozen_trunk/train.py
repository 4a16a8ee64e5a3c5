"""Training behind a frozen trunk: the trunk has run once over the videos; the part behind it learns from its outputs.

Whole networks are trained in the same way, on the videos themselves.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from prernn.conversion.sequence_network import NetworkState
from prernn.tasks.task import Task
from prernn.training.continuity import SINGLE_CLIPS, Continuity, carried
from prernn.training.frozen_trunk.judge import judge
from prernn.training.frozen_trunk.learner import Items, Learner
from prernn.training.learning.clipping import Clipping

NORM_1 = Clipping(1.0)


def train(
    learner: Learner,
    task: Task,
    epochs: Sequence[Iterable[dict[str, Any]]],
    test: Items,
    schedule: LRScheduler,
    *,
    clip: Clipping = NORM_1,
    continuity: Continuity = SINGLE_CLIPS,
    only_last: bool = False,
    watched: Items = (),
    advance: Callable[[], None] = lambda: None,
    report: Callable[[dict[str, Tensor]], None] = lambda values: None,
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Trains, and evaluates after each epoch, or after the last only.

    Args:
        learner: what learns.
        task: the task, for loss and metrics.
        epochs: the batches of each epoch.
        test: items for the metrics; without any there are no metrics.
        schedule: of the learning rate, with one step per batch; it holds the optimizer.
        clip: limit of the gradient.
        continuity: how states carry over from batch to batch; the batches must be made accordingly (`in_rows`).
        only_last: evaluate only after the last epoch.
        watched: training items whose score is reported too: the error on the training set (PreRNN, Figure 4).
        advance: called after each batch.
        report: called with the metrics after each epoch.

    Returns:
        ``{"train loss": [...], score: [...]}`` over the epochs, with ``"train SCORE"`` if items are watched, and the
        last epoch's metrics.
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
        if not test or (only_last and number < len(epochs)):
            continue
        values = judge(learner, task, test)
        history[task.score[0]].append(float(values[task.score[0]]))
        if watched:
            learned = float(judge(learner, task, watched)[task.score[0]])
            history.setdefault(f"train {task.score[0]}", []).append(learned)
        report(values)
    return history, values


def _step(
    learner: Learner,
    task: Task,
    batch: dict[str, Any],
    schedule: LRScheduler,
    clip: Clipping,
    state: NetworkState | None,
) -> tuple[float, NetworkState | None]:
    """Learns from one batch; returns its loss and the state after it."""
    optimizer = schedule.optimizer
    optimizer.zero_grad()
    if "weight" in batch:  # rows with a carried state
        out, state = learner.advance(batch, state)
    else:
        out = learner.forward(batch)
    loss = task.loss(out, batch)
    loss.backward()
    clip(optimizer)
    optimizer.step()
    schedule.step()
    return loss.item(), state
