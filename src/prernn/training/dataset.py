"""The recordings of a task as a data set of items."""

import itertools
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from prernn.media.video import VideoError
from prernn.tasks.task import Task


class VideoDataset(Dataset[dict[str, Any]]):
    """A task's records as items: what `Task.read` returns for each, and its ``path``.

    Args:
        train: allows randomness in reading, by (seed, epoch, index) alone: items are the same with any number of
            workers, and after a resume. Call `set_epoch` before each epoch.
        on_error: "raise" lets VideoError through; "skip" warns, notes the video in ``skipped`` (path: reason) and
            returns ``dict(path=str, reason=str)``, which `collate` leaves out of the batch. With worker processes, pass
            each batch to `note_skipped` to collect the summary in the main process.
        tolerate_truncation: use what can be decoded of truncated videos.
    """

    def __init__(
        self,
        task: Task,
        records: Sequence[Any],
        *,
        train: bool = False,
        seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        tolerate_truncation: bool = False,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')
        self.task, self.records = task, list(records)
        self.train, self.seed = train, seed
        self.on_error, self.tolerate_truncation = on_error, tolerate_truncation
        self.skipped: dict[str, str] = {}
        self._lengths: list[int] = []
        # Shared memory, so that workers that live longer than an epoch see the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the random draws, in the workers as well. Call it between epochs."""
        self.epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = path_of(self.records[index])
        if path in self.skipped:
            return {"path": path, "reason": self.skipped[path]}
        try:
            return {**self._read(index), "path": path}
        except VideoError as error:
            if self.on_error == "raise":
                raise
            self._skip(path, str(error))
            return {"path": path, "reason": str(error)}

    def _read(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        if not self.train:
            return self.task.read(record, None, tolerate_truncation=self.tolerate_truncation)
        self.task.begin_epoch(int(self.epoch))
        entropy = np.random.SeedSequence([self.seed, int(self.epoch), index])
        with torch.random.fork_rng(devices=[]):
            chance = torch.default_generator  # torch.manual_seed would reseed the GPUs too
            chance.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
            return self.task.read(record, chance, tolerate_truncation=self.tolerate_truncation)

    def _skip(self, path: str, reason: str) -> None:
        if path not in self.skipped:
            self.skipped[path] = reason
            if get_worker_info() is None:  # otherwise the main process warns, once for all workers
                warnings.warn(f"skipped {reason}", RuntimeWarning, stacklevel=3)

    def note_skipped(self, batch: dict[str, Any]) -> None:
        """Adds what a batch's workers skipped of these videos to ``skipped``, and warns about new ones."""
        skipped = dict(batch["skipped"])
        own = {path_of(record) for record in self.records if skipped}
        for path in own & skipped.keys():
            self._skip(path, skipped[path])

    def lengths(self) -> list[int]:
        """Number of steps of each item, by `Task.length` (kept in memory); 0 for a skipped video."""
        if not self._lengths:
            self._lengths = [self._length(record) for record in self.records]
        return self._lengths

    def opens(self, index: int) -> bool:
        """Whether a video can be opened; one that can't be is skipped from now on, or raises VideoError."""
        try:
            self.task.probe(self.records[index])
        except VideoError as error:
            if self.on_error == "raise":
                raise
            self._skip(path_of(self.records[index]), str(error))
            return False
        return True

    def part(self, chosen: Sequence[bool]) -> "VideoDataset":
        """The chosen records, with what is known about them so far."""
        part = VideoDataset(
            self.task,
            list(itertools.compress(self.records, chosen)),
            train=self.train,
            seed=self.seed,
            on_error=self.on_error,
            tolerate_truncation=self.tolerate_truncation,
        )
        part.skipped, part._lengths = dict(self.skipped), list(itertools.compress(self._lengths, chosen))
        return part

    def _length(self, record: Any) -> int:
        try:
            return self.task.length(record)
        except VideoError as error:
            if self.on_error == "raise":
                raise
            self._skip(path_of(record), str(error))
            return 0


def path_of(record: Any) -> str:
    """The absolute path of a record's video, which is valid in any working directory."""
    return os.path.abspath(record.path)
