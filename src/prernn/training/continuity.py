"""Training with states as old as those in use: clips that follow each other in rows, and rows that carry their state.

A network trained on single clips, each from the zero state, has never seen a state older than a clip; on a camera,
which is never reset, it sees nothing else.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Sampler

from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.layers.arguments import real, whole
from prernn.tasks.task import Task
from prernn.training.batches import collate, of_each_frame
from prernn.training.evaluation import going_on

Item = dict[str, Any]


@dataclass(frozen=True)
class Continuity:
    """How states carry over from clip to clip in training. None means what suits the task (`of`).

    `SINGLE_CLIPS`, each from the zero state with the loss on all frames, is the method of the papers.

    Attributes:
        clips: clips that follow each other in a row of a batch, which has ``batch_size / clips`` rows; None is 2.
        carry: a row of the next batch continues from this one's state, through which no gradient flows. An epoch begins
            with zero states. None is True.
        reset: share of the rows whose carried state is reset with each batch, drawn at random.
        onset: share of each clip, from its begin, that has no loss, because the answer can't be known there yet;
            "linear" lets the loss grow linearly with a frame's age in its clip; None is 0.5 for a task whose clips have
            one answer each, and 0 for others.
        cut: largest share of each clip that may be missing at its end, drawn each time from 0 to this, so that changes
            come at times that can't be learned.
        warm_up: no loss in the first clip of a row that starts from zero: it only builds up the state.
        noise: standard deviation of normal noise on carried states.
        dropout: share of the units whose carried state is set to zero.

    Raises:
        ValueError: numbers out of range; a warm-up in rows of one clip.
    """

    clips: int | None = None
    carry: bool | None = None
    reset: float = 0.1
    onset: float | Literal["linear"] | None = None
    cut: float = 0.0
    warm_up: bool = False
    noise: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.clips is not None:
            whole("continuity clips", self.clips)
        for name in ("reset", "dropout", "cut"):
            real(f"continuity {name}", getattr(self, name), 0, 1)
        real("continuity noise", self.noise, 0)
        if self.onset not in ("linear", None) and real("continuity onset", self.onset, 0, 1) == 1:
            raise ValueError('continuity onset: expected "linear" or a share below 1, got 1')
        if self.warm_up and self.clips == 1:
            raise ValueError("continuity warm_up: expected rows of several clips, got clips=1")

    @property
    def plain(self) -> bool:
        """Whether training is on single clips with the loss on all of their frames."""
        return self.clips == 1 and not self.carry and self.onset == self.cut == 0

    def of(self, task: Task, network: SequenceNetwork | None = None) -> "Continuity":
        """With every None decided: single clips for tasks that cannot join them, and for networks of whole clips.

        Raises:
            NotImplementedError: rows that the task or the network does not support, frame weights for a task whose loss
                is not a loss of frames.
        """
        suits = SINGLE_CLIPS
        if task.joins_clips and not (network is not None and is_clip_network(network)):
            suits = Continuity(clips=2, carry=True, onset=0.5 if task.one_answer else 0.0)
        given = {name: getattr(self, name) for name in ("clips", "carry", "onset")}
        known = replace(
            self, **{name: getattr(suits, name) if value is None else value for name, value in given.items()}
        )
        if suits is SINGLE_CLIPS and not known.plain:
            raise NotImplementedError(
                "learning.continuity: rows are for tasks that can join clips, and for networks that go through a video "
                f"frame by frame; expected single clips for task {task.name!r}, got {given}"
            )
        if (known.onset or known.warm_up or known.cut) and not task.loss_of_frames:
            raise NotImplementedError(
                "learning.continuity: onset, warm_up and cut are for losses of frames; expected none for task "
                f"{task.name!r}, whose loss is of whole videos, got {known.onset}, {known.warm_up}, {known.cut}"
            )
        return known

    def __str__(self) -> str:
        """In words, once everything is decided."""
        if self.plain:
            return "single clips, each from a zero state"
        follow = "single clips" if self.clips == 1 else f"rows of {self.clips} clips"
        state = "whose state carries over from batch to batch" if self.carry else "each from a zero state"
        weight = {"linear": ", loss rising through each clip", 0: ""}
        late = weight.get(self.onset or 0, f", no loss in the first {self.onset} of each clip")
        cut = f", up to {self.cut} of a clip missing at its end" if self.cut else ""
        return f"{follow}, {state}{late}{cut}"

    def weights(self, steps: int) -> Tensor:
        """Weight of the loss at each of a clip's steps ``(T,)``, with mean 1."""
        age = torch.arange(1, steps + 1, dtype=torch.float32) / steps
        kept = age if self.onset == "linear" else (age > min(self.onset or 0.0, 1 - 1 / steps)).float()
        return kept / kept.mean()


SINGLE_CLIPS = Continuity(clips=1, carry=False, onset=0.0)
"""The method of the papers."""


def row_of(
    task: Task, items: Sequence[Item], continuity: Continuity, chance: np.random.Generator | None = None
) -> Item:
    """Clips that follow each other as one item; ``weight (T,)`` is the loss weight of each step, 0 in a warm-up.

    ``chance`` draws where clips are cut; without it they are whole.
    """
    weighed = [{**item, "weight": continuity.weights(len(item["input"]))} for item in items]
    if continuity.warm_up:
        weighed[0]["weight"] = torch.zeros_like(weighed[0]["weight"])
    if continuity.cut and chance is not None:
        weighed = [_begin_of(item, 1 - continuity.cut * chance.random()) for item in weighed]
    return {**task.join(weighed), "path": " + ".join(item["path"] for item in items)}


def _begin_of(item: Item, share: float) -> Item:
    steps = max(1, math.ceil(share * len(item["input"])))
    return of_each_frame(item, lambda value: value[:steps])


class Rows:
    """Joins the items of a batch into rows; a collate function.

    If none of a row's clips could be read, another row takes its place, without weight, to keep the carried states.

    Args:
        task: the task, which says how items are joined.
        continuity: number of clips in a row.
        epoch: the number of the epoch, a tensor shared with the process that sets it; together with the names of the
            clips it determines where they are cut.
    """

    def __init__(self, task: Task, continuity: Continuity, epoch: Tensor | None = None) -> None:
        self.task, self.continuity = task, continuity
        self.epoch = torch.zeros(1, dtype=torch.long) if epoch is None else epoch

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """From items, a row's together, to a batch as by `prernn.training.batches.collate`, with ``weight (B, T)``."""
        size = self.continuity.clips or 1
        groups = [items[first : first + size] for first in range(0, len(items), size)]
        read = [[item for item in group if "reason" not in item] for group in groups]
        known = next((group for group in read if group), None)
        skipped = [item for item in items if "reason" in item]
        if known is None:
            return collate(skipped)
        rows = [row_of(self.task, group or known, self.continuity, self._chance(group or known)) for group in read]
        for row, group in zip(rows, read, strict=True):
            if not group:
                row["weight"] = torch.zeros_like(row["weight"])
        return collate([*rows, *skipped])

    def _chance(self, items: Sequence[Item]) -> np.random.Generator:
        """The random generator of a row in this epoch, whichever process reads it, and wherever the videos are."""
        names = [zlib.crc32("/".join(Path(item["path"]).parts[-2:]).encode()) for item in items]
        return np.random.default_rng([int(self.epoch), *names])


class RowSampler(Sampler[list[int]]):
    """Batches of rows of clips, the same number in each, for one or several processes: a ``batch_sampler``.

    Every epoch is shuffled by (seed, epoch). Each clip comes once; some come twice, to fill the last batch.

    Args:
        clips: total number of clips.
        rows: rows of a batch in each process.
        length: clips in a row.
        rank: this process out of ``world_size``.
    """

    def __init__(
        self, clips: int, rows: int, length: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.clips, self.rows, self.length = whole("clips", clips), whole("rows", rows), whole("length", length)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.clips // (self.rows * self.length * self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the shuffle."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        size = self.rows * self.length
        wanted = len(self) * size * self.world_size
        order = np.resize(order, wanted)  # repeated from its beginning
        for batch in order.reshape(len(self), self.world_size, size):
            yield batch[self.rank].tolist()


def carried(state: NetworkState | None, continuity: Continuity) -> NetworkState | None:
    """The states that the next batch's rows start from; randomness is torch's own."""
    if not state or not continuity.carry:  # for a network without recurrence it is empty
        return None
    rows, device = state[0][0].shape[0], state[0][0].device
    going = torch.rand(rows, device=device) >= continuity.reset

    def disturbed(value: Tensor) -> Tensor:
        value = value.detach()
        if value.shape[1:] != (1,):  # except flags, one per stream
            if continuity.noise:
                value = value + continuity.noise * torch.randn_like(value)
            if continuity.dropout:
                value = value * (torch.rand_like(value) >= continuity.dropout)
        return value

    return going_on(tree_map(disturbed, state), going)
