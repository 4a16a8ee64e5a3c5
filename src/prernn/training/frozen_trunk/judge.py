"""Evaluates a network behind a frozen trunk, or a whole one, on evaluation items."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.network import RecurrentNetwork
from prernn.tasks.task import Task, Verdict
from prernn.training.evaluation import Onward, evaluate, in_order
from prernn.training.frozen_trunk.learner import TEST_BATCH, Items, Learner


def judge(learner: Learner, task: Task, items: Items) -> dict[str, Tensor]:
    """A task's metrics over items, in which pieces of a video continue each other."""
    return evaluate(_forward(learner), task.metrics(), in_order(items, TEST_BATCH))


def verdicts(learner: Learner, task: Task, items: Items) -> dict[int, Verdict]:
    """Its answer for each item by ``number``, see `Task.verdicts`; empty if the task has none."""
    forward, found = _forward(learner), dict[int, Verdict]()
    with torch.inference_mode():
        for batch in in_order(items, TEST_BATCH):
            said = task.verdicts(forward(batch).float(), batch)
            found |= dict(zip(batch["number"].tolist(), said, strict=False))
    return found


def _forward(learner: Learner) -> Callable[[dict[str, Any]], Tensor]:
    """Outputs of batches; a network of whole clips has no state to carry over."""
    if isinstance(learner.part, RecurrentNetwork) and is_clip_network(learner.part):
        return learner.forward
    return Onward(learner.advance, learner.forward)
