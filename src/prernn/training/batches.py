"""Batches of items: collated, padded, of similar length."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Combines data set items into a batch (see `Task`).

    Tensors are zero-padded to the longest along their first dimension and stacked ``(B, T, ...)``, ints become int64
    ``(B,)``, the rest lists. ``lengths`` ``(B,)`` int64 are those of ``input``; ``skipped`` is a list of (path, reason)
    for the items left out. If all are left out, ``path`` is empty and there is no ``input``.

    Raises:
        ValueError: frames of different shapes.
    """
    skipped = [(item["path"], item["reason"]) for item in items if "reason" in item]
    items = [item for item in items if "reason" not in item]
    if not items:
        return {"path": [], "lengths": torch.zeros(0, dtype=torch.int64), "skipped": skipped}
    if len(shapes := {tuple(item["input"].shape[1:]) for item in items}) > 1:
        raise ValueError(f"batch: expected frames of one shape (C, H, W), got {sorted(shapes)}")
    batch = {key: _joined([item[key] for item in items]) for key in items[0]}
    lengths = torch.tensor([len(item["input"]) for item in items], dtype=torch.int64)
    return {**batch, "lengths": lengths, "skipped": skipped}


def none_readable(skipped: Mapping[str, str]) -> ValueError:
    """The error if no video of a list could be read; ``skipped`` has the reason for each, by path."""
    first = "; ".join(list(skipped.values())[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return ValueError(f"none of {len(skipped)} videos could be read: {first}{more}")


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return pad_sequence(values, batch_first=True)  # (B, T, ...)
    return torch.tensor(values, dtype=torch.int64) if isinstance(values[0], int) else values


class LengthBucketSampler(Sampler[list[int]]):
    """Batches of clips of similar length, to reduce padding: a ``batch_sampler`` for one or several processes.

    Every epoch is shuffled by (seed, epoch), then sorted by length within pools of ``pool`` batches. Each index comes
    exactly once per epoch over all ranks, and all ranks get the same number of batches. Batches contain at most
    ``batch_size`` clips, in sizes that differ by at most one; they are larger only if there are too few clips to give
    every rank one in the last step. ``rank`` is this process out of ``world_size``.

    Raises:
        ValueError: an invalid batch size or rank, or fewer clips than ranks.
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
        # Whole steps of all ranks: enough for the batch size, but no more than allow a clip in every batch.
        steps = -(-len(lengths) // (batch_size * world_size))
        self.steps = min(steps, len(lengths) // world_size)

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the shuffle."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        chance = np.random.default_rng([self.seed, self.epoch])
        order = chance.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        size = self.pool * self.batch_size if self.shuffle else len(order)
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        # Every second pool runs from long to short, so that a batch across two pools has similar lengths too.
        ordered = [
            part[np.argsort(self.lengths[part], kind="stable")][:: -1 if i % 2 else 1] for i, part in enumerate(pools)
        ]
        batches = np.array_split(np.concatenate(ordered), self.steps * self.world_size)
        steps = chance.permutation(self.steps) if self.shuffle else np.arange(self.steps)
        for step in steps:  # ranks take neighbors, so that none waits long for another
            yield batches[step * self.world_size + self.rank].tolist()


def hold_last(video: Tensor, lengths: Tensor) -> Tensor:
    """``inputs (B, T, ...)`` with each clip's last frame in place of its padding, from ``lengths (B,)`` on."""
    steps = torch.arange(video.shape[1], device=video.device).expand(len(lengths), -1)  # (B, T)
    steps = torch.minimum(steps, lengths[:, None] - 1)
    return video[torch.arange(len(lengths), device=video.device)[:, None], steps]


def of_each_frame(item: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The item with a change applied to all its tensors that have one row per frame."""
    steps = len(item["input"])
    return {
        name: change(value) if isinstance(value, Tensor) and len(value) == steps else value
        for name, value in item.items()
    }


def pieces_of(goes_on: Iterable[bool]) -> list[list[int]]:
    """The numbers of each video's pieces, of which all but the first continue the previous one."""
    videos: list[list[int]] = []
    for piece, on in enumerate(goes_on):
        if on and videos:
            videos[-1].append(piece)
        else:
            videos.append([piece])
    return videos


class PieceSampler(Sampler[list[int]]):
    """Batches of videos that are read in pieces: several in parallel, first the first piece of each, then the second.

    So a piece's state can be passed to the next one, see `prernn.training.evaluation.Onward`. All processes get the
    same number of batches; some may be empty.

    Args:
        goes_on: for each piece, in the order of the videos, whether it continues the previous one.
        batch_size: number of parallel videos.
        rank: this process out of ``world_size``.

    Example:
        >>> list(PieceSampler([False, True, False, False, True, True], batch_size=2))
        [[3, 0], [4, 1], [5], [2]]
    """

    def __init__(self, goes_on: Sequence[bool], batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        videos = pieces_of(goes_on)
        videos.sort(key=len, reverse=True)  # parallel videos end at about the same time
        self._batches = [list(_side_by_side(videos[place::world_size], batch_size)) for place in range(world_size)]
        self.batch_size, self.rank = batch_size, rank

    def __len__(self) -> int:
        return max(map(len, self._batches))

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the order is the same in all epochs."""

    def __iter__(self) -> Iterator[list[int]]:
        own = self._batches[self.rank]
        yield from own
        yield from ([] for _ in range(len(self) - len(own)))


def _side_by_side(videos: list[list[int]], size: int) -> Iterator[list[int]]:
    for first in range(0, len(videos), size):
        for row in itertools.zip_longest(*videos[first : first + size]):
            yield [piece for piece in row if piece is not None]
