"""Loads batches with worker processes. A spawned worker imports this module, and no Lightning."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from prernn.engines.allocator import keep_memory
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset


class EpochLoader(DataLoader):
    """Batches whose order and randomness depend only on the seed and the number of the epoch.

    The number is requested whenever a pass begins, because workers start reading at once: Lightning begins its first
    pass before it announces that an epoch has started, and later ones after it.

    Args:
        dataset: as in DataLoader; it and the batch sampler have ``set_epoch``.
        epoch: returns the number of the epoch of a pass; None if nothing is random.
        options: those of DataLoader.
    """

    def __init__(self, dataset: VideoDataset, epoch: Callable[[], int] | None = None, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.epoch = epoch

    def __iter__(self) -> Any:
        if self.epoch is not None:
            number = self.epoch()
            for part in (self.dataset, self.batch_sampler):
                part.set_epoch(number)  # type: ignore[union-attr]
        return super().__iter__()


def video_loader(
    dataset: VideoDataset,
    sampler: Sampler[list[int]],
    workers: int,
    epoch: Callable[[], int] | None = None,
    join: Callable[[list[dict[str, Any]]], dict[str, Any]] = collate,
) -> EpochLoader:
    """Batches of videos, read by a number of processes (0: by this one); ``epoch`` as in `EpochLoader`.

    ``join`` makes a batch from items.

    The processes stay alive for all passes: starting one can take longer than an epoch. Their seeds come from the
    loader's own generator, so that the global one continues as it would without them.
    """
    return EpochLoader(
        dataset,
        epoch,
        batch_sampler=sampler,
        collate_fn=join,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def _begin_worker(number: int) -> None:
    keep_memory()  # a process that was not forked does not inherit this
