"""The batches of an epoch over cached items."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from prernn.tasks.task import Task
from prernn.training.continuity import Continuity, Rows, RowSampler
from prernn.training.evaluation import in_batches
from prernn.training.frozen_trunk.learner import Items


def epochs_of(
    items: Items, task: Task, continuity: Continuity, size: int, seed: int, epochs: int
) -> tuple[list[Iterator[dict[str, Any]]], int]:
    """The batches of each epoch, which takes one pass of every video in its own order, and their number."""

    def batches_of(epoch: int) -> Iterator[dict[str, Any]]:
        if continuity.plain:
            return shuffled(items, epoch, seed, size)
        return in_rows(of_epoch(items, epoch, seed), task, continuity, size, seed, epoch)

    videos = len({item["number"] for item in items})
    return [batches_of(epoch) for epoch in range(epochs)], epochs * batches_in_epoch(videos, continuity, size)


def batches_in_epoch(videos: int, continuity: Continuity, size: int) -> int:
    """Number of batches of ``size`` videos in an epoch."""
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


def _sampler(videos: int, continuity: Continuity, size: int, seed: int = 0) -> RowSampler:
    clips = continuity.clips or 1
    return RowSampler(videos, max(size // clips, 1), clips, seed=seed)


def of_epoch(items: Items, epoch: int, seed: int) -> list[dict[str, Any]]:
    """Every video once, in the pass of this epoch and in an order determined by seed and epoch."""
    passes: dict[int, list[dict[str, Any]]] = {}
    for item in items:
        passes.setdefault(item["number"], []).append(item)
    numbers = np.random.default_rng([seed, epoch]).permutation(sorted(passes)).tolist()
    return [passes[number][epoch % len(passes[number])] for number in numbers]


def shuffled(items: Items, epoch: int, seed: int, size: int) -> Iterator[dict[str, Any]]:
    """Batches with every video once, in the pass of this epoch."""
    return in_batches(of_epoch(items, epoch, seed), size)
