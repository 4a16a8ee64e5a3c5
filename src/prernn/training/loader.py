"""How batches come from worker processes. A worker that is spawned imports this, and no Lightning."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from prernn.engines.allocator import keep_memory
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset


class EpochLoader(DataLoader):
    """Batches in whose order and chance nothing counts but the seed and the number of the epoch.

    The number is asked for whenever a pass begins, as workers begin to read at once: Lightning begins its first pass
    before it says that an epoch has started, and later ones after it.

    Args:
        dataset: as DataLoader's; it and the batch sampler have ``set_epoch``.
        epoch: gives the number of the epoch that a pass is for; None where nothing is random.
        options: DataLoader's.
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
    """Batches of videos, read by so many processes (0: by this one); ``epoch`` as `EpochLoader`'s.

    ``join`` makes a batch of items.

    The processes stay for all passes: starting one can take longer than an epoch. Their seeds come from a generator
    that is the loader's own, so that the global one goes on as it would without them.
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
    keep_memory()  # which a process that was not forked does not have from the main one
