"""A network's outputs for batches, in a task's metrics: the one way to evaluate."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prernn.conversion.clip_network import answers_once, clip_outputs
from prernn.conversion.network import RecurrentNetwork
from prernn.tasks.task import Task
from prernn.training.batches import collate, hold_last


def whole_outputs(net: RecurrentNetwork, batch: dict[str, Any]) -> Tensor:
    """Outputs ``(B, T, K)`` of a network for a batch of videos; a clip network's one answer stands at every frame."""
    video, lengths = batch["video"], batch["lengths"]
    if answers_once(net, video):
        return clip_outputs(net, video, lengths).unsqueeze(1).expand(-1, video.shape[1], -1)
    return net(hold_last(video, lengths))[0]


def evaluate(
    forward: Callable[[dict[str, Any]], Tensor], task: Task, items: Sequence[dict[str, Any]], batch_size: int
) -> dict[str, Tensor]:
    """The task's metrics over cached items; ``forward`` gives the outputs ``(B, T, K)`` of a batch."""
    metrics = task.metrics()
    with torch.inference_mode():
        for first in range(0, len(items), batch_size):
            batch = collate(list(items[first : first + batch_size]))
            metrics.update(forward(batch).float(), batch)
    return metrics.compute()
