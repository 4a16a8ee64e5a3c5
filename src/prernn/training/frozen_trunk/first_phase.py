"""Training in two phases: first the part behind the frozen trunk, on features computed once, then the whole network.

New, untrained weights send noise into pre-trained ones. Behind a frozen trunk an epoch takes seconds on a CPU, while
the whole network takes minutes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.graph.ending import find_output_layer
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.network import RecurrentNetwork, of_a_cnn
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.reports.progress import bars
from prernn.tasks.task import Task
from prernn.training.continuity import Continuity
from prernn.training.dataset import VideoDataset
from prernn.training.frozen_trunk.epochs import epochs_of
from prernn.training.frozen_trunk.features import cached
from prernn.training.frozen_trunk.learner import Items, Learner, learner
from prernn.training.frozen_trunk.train import train
from prernn.training.learning.clipping import Clipping
from prernn.training.learning.learning import Learning
from prernn.training.learning.optimizer import make_optimizer
from prernn.training.learning.rates import rate_factors, rate_groups
from prernn.training.learning.schedule import Schedule

MEMORY = 2 * 2**30
"""Bytes of features that a first phase may keep: it is meant for few videos."""


@dataclass(frozen=True)
class Setting:
    """The setting of a first phase.

    Attributes:
        network: the whole network; the part behind its trunk learns.
        task: the task, for loss and metrics.
        training: videos to learn from.
        validation: videos for validation.
        learning: how it learns.
        continuity: how states carry over, decided.
        sparse_power: exponent of the rate of sparse recurrences.
        batch_size: videos per batch.
        clip: limit of the gradient.
        seed: for order and randomness.
        device: the device it runs on.
        shown: whether to show progress bars: only one of several processes does.
    """

    network: RecurrentNetwork
    task: Task
    training: VideoDataset
    validation: VideoDataset
    learning: Learning
    continuity: Continuity
    sparse_power: float
    batch_size: int
    clip: Clipping
    seed: int
    device: torch.device
    shown: bool = True


def cut_of(network: SequenceNetwork) -> list[str]:
    """Values of the graph at which it is cut: inputs of the first recurrent layer, or of the output layer without one.

    Raises:
        NotImplementedError: the network has no trunk: it is one of whole clips, or ends in features.
    """
    if is_clip_network(network):
        raise NotImplementedError("a network of whole clips has no trunk that runs frame by frame")
    network = of_a_cnn(network)
    if network.recurrent_layers:
        return inputs_of(network)
    output = find_output_layer(network.cnn)
    if output is None:
        raise NotImplementedError("a network that ends in features has nothing behind a trunk")
    return [output.all_input_nodes[0].name]


def bytes_of_features(trunk: nn.Module, video: Tensor, dataset: VideoDataset) -> int:
    """Bytes of one view of all videos, estimated from the features of one video ``(T, C, H, W)``."""
    with torch.no_grad(), evaluating(trunk):
        values = trunk(video[:1])
    each = sum(value[0].numel() * value.element_size() for value in values)
    return each * sum(length or len(video) for length in dataset.lengths())  # 0 if they hardly differ


def run_first_phase(setting: Setting, *, epochs: int, views: int) -> dict[str, Any]:
    """Trains the part behind the frozen trunk, in place; returns its cost and its results.

    All of that part learns at ``learning.first.lr``, or ``learning.lr``, with a rate that decreases along a cosine.

    Args:
        setting: its setting.
        epochs: number of epochs over the training videos; epoch n takes view ``n mod views``.
        views: number of times that the trunk runs over the training videos, each with different crops.
    """
    begin, network, task = time.perf_counter(), setting.network, setting.task
    at = cut_of(network)
    trunk = channels_last(split(network, at)[0].eval())
    torch.manual_seed(setting.seed)
    with bars(disable=not setting.shown) as progress:
        items: list[dict[str, Any]] = []
        judges: list[dict[str, Any]] = []
        runs = _on(setting.device, trunk)
        for name, dataset, passes, found in (
            ("training videos", setting.training, views, items),
            ("validation videos", setting.validation, 1, judges),
        ):
            bar = progress.add_task(f"features, {name}", total=passes * len(dataset), note="")
            found += cached(runs, dataset, passes=passes, advance=partial(progress.advance, bar))
        behind = time.perf_counter()
        learns = learner(network, at, frozen=setting.learning.frozen_statistics)
        history, values = _train(setting, learns, items, judges, epochs, progress)
    end = time.perf_counter()
    tensors = [value for item in items for value in item.values() if isinstance(value, Tensor)]
    score = task.score[0]
    return {
        "videos": len(items) // views,
        "views": views,
        "bytes": sum(value.nbytes for value in tensors),
        "epochs": epochs,
        "seconds_features": behind - begin,
        "seconds_training": end - behind,
        "train_loss": history["train loss"],
        f"val_{score}": float(values[score]),
    }


def _on(device: torch.device, trunk: Callable[[Tensor], Sequence[Tensor]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def run(frames: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.cpu() for value in trunk(frames.to(device)))

    return run


def _moved(learns: Learner, device: torch.device) -> Learner:
    """The same learner, if its part is on another device than the items, on whose device the loss is computed."""

    def advance(batch: dict[str, Any], state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        there = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        out, state = learns.advance(there, state)
        return out.cpu(), state

    return learns if device.type == "cpu" else replace(learns, advance=advance)


def _train(setting: Setting, learns: Learner, items: Items, judges: Items, epochs: int, progress: Any) -> Any:
    learning, task = setting.learning, setting.task
    rate = learning.lr if learning.first.lr is None else learning.first.lr
    groups = rate_groups("first", learns.part.parameters(), rate, rate_factors(learns.part, setting.sparse_power))
    optimizer = make_optimizer(groups, learns.part, replace(learning, lr=rate))
    batches, steps = epochs_of(items, task, setting.continuity, setting.batch_size, setting.seed, epochs)
    cosine = Schedule("cosine")
    schedule = LambdaLR(optimizer, lambda step: cosine.rate_at(step, steps // epochs, steps))
    bar = progress.add_task("the part behind the trunk", total=steps, note="")
    return train(
        _moved(learns, setting.device),
        task,
        batches,
        judges,
        schedule,
        clip=setting.clip,
        continuity=setting.continuity,
        only_last=True,
        advance=lambda: progress.advance(bar),
    )
