"""Videos of a task as a data set, batches of them, and samplers that keep batches of like length."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from prernn.media.video import VideoError
from prernn.tasks.task import Task


class VideoDataset(Dataset[dict[str, Any]]):
    """A task's records as items: what `Task.read` gives of each, and its ``path``.

    train: lets reading be random, by (seed, epoch, index) alone: the same items whatever the number of workers, and
    after a resume. Call `set_epoch` before each epoch.
    on_error: "raise" lets VideoError through; "skip" warns, notes the video in `skipped` (path: reason) and
    returns `dict(path=str, reason=str)`, which `collate` leaves out of the batch. With worker processes, give
    each batch to `note_skipped` to gather the summary in the main process.
    tolerate_truncation: take what decodes of a video that ends early.
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
        # Shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random draws of this epoch, in the workers as well. Call it between epochs."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = str(self.records[index].path)
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
        entropy = np.random.SeedSequence([self.seed, int(self._epoch), index])
        with torch.random.fork_rng(devices=[]):
            chance = torch.default_generator  # torch.manual_seed would reseed the GPUs too
            chance.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
            return self.task.read(record, chance, tolerate_truncation=self.tolerate_truncation)

    def _skip(self, path: str, reason: str) -> None:
        if path not in self.skipped:
            self.skipped[path] = reason
            warnings.warn(f"skipped {reason}", RuntimeWarning, stacklevel=3)

    def note_skipped(self, batch: dict[str, Any]) -> None:
        """Add what a batch's workers skipped to `skipped`, so that it is not read, or warned of, again."""
        self.skipped.update(batch["skipped"])

    def lengths(self) -> list[int]:
        """Steps that each item will have, by `Task.length` (kept in memory); 0 for a video that is skipped."""
        if not self._lengths:
            self._lengths = [self._length(record) for record in self.records]
        return self._lengths

    def _length(self, record: Any) -> int:
        try:
            return self.task.length(record)
        except VideoError as error:
            if self.on_error == "raise":
                raise
            self._skip(str(record.path), str(error))
            return 0


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join data set items into a batch (see `Task`).

    Tensors are zero padded to the longest along their first dimension and stacked `(B, T, ...)`, ints become int64
    `(B,)`, the rest lists. `lengths` `(B,)` int64 are those of `video`; `skipped` is a list of (path, reason) for
    the items left out. Where all are left out, `path` is empty and there is no `video`.
    Raises ValueError for frames of different shapes.
    """
    skipped = [(item["path"], item["reason"]) for item in items if "reason" in item]
    items = [item for item in items if "reason" not in item]
    if not items:
        return {"path": [], "lengths": torch.zeros(0, dtype=torch.int64), "skipped": skipped}
    if len(shapes := {tuple(item["video"].shape[1:]) for item in items}) > 1:
        raise ValueError(f"batch: expected frames of one shape (C, H, W), got {sorted(shapes)}")
    batch = {key: _joined([item[key] for item in items]) for key in items[0]}
    lengths = torch.tensor([len(item["video"]) for item in items], dtype=torch.int64)
    return {**batch, "lengths": lengths, "skipped": skipped}


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return pad_sequence(values, batch_first=True)  # (B, T, ...)
    return torch.tensor(values, dtype=torch.int64) if isinstance(values[0], int) else values


class LengthBucketSampler(Sampler[list[int]]):
    """Batches of clips of similar length, to cut padding: a `batch_sampler` for one or several processes.

    Every epoch shuffles anew by (seed, epoch), then sorts by length within pools of `pool` batches. Each
    index comes exactly once an epoch over all ranks, and all ranks get the same number of batches. Batches
    hold at most `batch_size` clips, in sizes that differ by one at most; they are larger only where there are
    too few clips to give every rank one in the last step. `rank` is this process out of `world_size`.
    Raises ValueError for a bad batch size or rank, or fewer clips than ranks.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pool: int = 50,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or pool < 1:
            raise ValueError(f"batch size and pool: expected at least 1, got {batch_size} and {pool}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, got {rank}")
        if len(lengths) < world_size:
            raise ValueError(f"lengths: expected at least one clip for each of {world_size} ranks, got {len(lengths)}")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_size, self.seed, self.shuffle, self.pool = batch_size, seed, shuffle, pool
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        # Whole steps of all ranks: enough for the batch size, but no more than leave every batch a clip.
        steps = -(-len(lengths) // (batch_size * world_size))
        self.steps = min(steps, len(lengths) // world_size)

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        chance = np.random.default_rng([self.seed, self.epoch])
        order = chance.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        size = self.pool * self.batch_size if self.shuffle else len(order)
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        # Every second pool runs from long to short, so that a batch across two pools is of one length too.
        ordered = [
            part[np.argsort(self.lengths[part], kind="stable")][:: -1 if i % 2 else 1] for i, part in enumerate(pools)
        ]
        batches = np.array_split(np.concatenate(ordered), self.steps * self.world_size)
        steps = chance.permutation(self.steps) if self.shuffle else np.arange(self.steps)
        for step in steps:  # ranks take neighbours, so that none waits long for another
            yield batches[step * self.world_size + self.rank].tolist()


def hold_last(video: Tensor, lengths: Tensor) -> Tensor:
    """``video (B, T, ...)`` with each clip's last frame in place of its padding, from ``lengths (B,)`` on."""
    steps = torch.arange(video.shape[1], device=video.device).expand(len(lengths), -1)  # (B, T)
    steps = torch.minimum(steps, lengths[:, None] - 1)
    return video[torch.arange(len(lengths), device=video.device)[:, None], steps]
