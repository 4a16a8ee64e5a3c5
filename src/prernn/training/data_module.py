"""Videos on disk as batches for Lightning: which task, which files, which process."""

import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from torch import Tensor

from prernn.layers.names import close_to
from prernn.models.backbones import DEFAULT_BACKBONE, input_spec
from prernn.tasks import DEFAULT_TASK
from prernn.tasks.task import Subset, Task
from prernn.training.batches import LengthBucketSampler, PieceSampler
from prernn.training.continuity import SINGLE_CLIPS, Continuity, Rows, RowSampler
from prernn.training.dataset import VideoDataset
from prernn.training.loader import EpochLoader, video_loader

TEST_VIDEOS = "the test videos"
"""What `VideoData.validation` says if there are no others."""


class VideoData(L.LightningDataModule):
    """The videos of a task for ``fit``, ``validate``, ``test`` and ``predict``.

    Args:
        root: the data set's folder.
        task: what is learned from it: ``prernn.tasks.Action`` or another of `prernn.tasks`, with its options; None
            means Action with its defaults.
        backbone: the backbone's name, which determines size and normalization if the task's are not set.
        batch_size: videos per batch and process.
        num_workers: decoding processes for each training process.
        on_error: "raise" stops at a video that can't be read, "skip" leaves it out and reports it.
        tolerate_truncation: use what can be decoded of truncated videos.
        holdout: share of the training videos, of each class and at least one, that ``fit`` uses for validation instead
            of training, and so to choose ``best.ckpt``, if the data set has no validation videos of its own; 0 trains
            on all and validates on the test videos.
        seed: seed for shuffling, frame sampling, augmentation, and the choice of held-out videos.
        pretrained: the name of the backbone's weights, if given; some are for pictures of another size.

    Raises:
        ValueError: a missing folder, a class without videos, a list that names missing files.
    """

    def __init__(
        self,
        root: str | Path,
        task: Task | None = None,
        backbone: str = DEFAULT_BACKBONE,
        batch_size: int = 16,
        num_workers: int = 2,
        on_error: Literal["raise", "skip"] = "raise",
        tolerate_truncation: bool = False,
        holdout: float = 0.1,
        seed: int = 0,
        pretrained: bool | str = False,
    ):
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"--data.{name}: expected at least {least}, got {value}")
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout: expected a share from 0 on, below 1, got {holdout}")
        self.task: Task = DEFAULT_TASK() if task is None else task
        self.batch_size, self.num_workers, self.holdout, self.seed = batch_size, num_workers, holdout, seed
        self.validation = ""
        self.reading: dict[str, Any] = {"on_error": on_error, "tolerate_truncation": tolerate_truncation}
        _check_folder(root)
        spec = input_spec(backbone, pretrained)
        wanted, got = self.task.input, spec.get("input", "pictures")
        if got != wanted:
            raise ValueError(
                f"task {self.task.name!r}: expected a backbone that takes {wanted}, got {backbone!r}, of {got}"
            )
        self.task.open(root, spec)
        self.datasets: dict[str, VideoDataset] = {"train": self.dataset("train")}

    @property
    def opened(self) -> Task:
        """The task, after it has read its lists."""
        return self.task

    def dataset(self, subset: Subset) -> VideoDataset:
        """The videos of a subset, read as configured here; for "train" all of them, with random augmentation."""
        return self._read(self.task.records(subset), train=subset == "train")

    def _read(self, records: Sequence[Any], train: bool) -> VideoDataset:
        return VideoDataset(self.task, records, train=train, seed=self.seed, **self.reading)

    def setup(self, stage: str) -> None:
        """Lists what a stage needs."""
        if stage in ("test", "predict"):
            if "test" not in self.datasets:
                self.datasets["test"] = self.dataset("test")
        elif "val" not in self.datasets:
            self._set_validation()

    def _set_validation(self) -> None:
        """Sets the validation videos: the data set's own, else some held out from training, else those of the test.

        ``validation`` says which they are.
        """
        if self.task.has_validation:
            self.datasets["val"], self.validation = self.dataset("val"), "the data set's validation videos"
            return
        train = self.datasets["train"]
        held = self._held_out(train) if self.holdout else [False] * len(train)
        if not any(held):
            self.datasets["val"], self.validation = self.dataset("test"), TEST_VIDEOS
            return
        records, left = train.records, list(itertools.compress(train.records, held))
        self.datasets["train"] = train.part([not out for out in held])
        self.datasets["val"] = self._read(self.task.evaluated(left), train=False)
        videos, some = ({str(record.path) for record in part} for part in (records, left))
        self.validation = (
            f"{len(some)} of {len(videos)} training videos, held out (holdout {self.holdout:g}, seed {self.seed})"
        )

    def _held_out(self, train: VideoDataset) -> list[bool]:
        """Which records are held out; all of these can be opened."""
        sound = [True] * len(train)
        while True:
            recordings = [self.task.recording(record) for record in itertools.compress(train.records, sound)]
            chosen = iter(held_out(recordings, self.holdout, self.seed))
            held = [ok and next(chosen) for ok in sound]
            bad = [i for i in itertools.compress(range(len(train)), held) if not train.opens(i)]
            if not bad:
                return held
            for i in bad:
                sound[i] = False

    def _loader(self, subset: Subset) -> EpochLoader:
        dataset, train = self.datasets[subset], subset == "train"
        continuity = self._continuity() if train else SINGLE_CLIPS
        epoch = self._epoch if train else None
        places = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} if self.trainer else {}
        goes_on = [self.task.goes_on(record) for record in dataset.records] if self._in_order(train) else []
        if any(goes_on):
            return video_loader(dataset, PieceSampler(goes_on, self.batch_size, **places), self.num_workers, epoch)
        if continuity.plain:
            lengths = dataset.lengths()
            sampler = LengthBucketSampler(lengths, self.batch_size, seed=self.seed, shuffle=train, **places)
            return video_loader(dataset, sampler, self.num_workers, epoch)
        length = continuity.clips or 1
        order = RowSampler(len(dataset), max(self.batch_size // length, 1), length, seed=self.seed, **places)
        return video_loader(dataset, order, self.num_workers, epoch, Rows(self.task, continuity, dataset.epoch))

    def _in_order(self, train: bool) -> bool:
        """Whether records may continue each other."""
        return self.task.goes_on_in_training or not train

    def _continuity(self) -> Continuity:
        """How the trained module wants its clips."""
        return getattr(self.trainer and self.trainer.lightning_module, "continuity", SINGLE_CLIPS)

    def some_training_videos(self, count: int) -> Iterator[Tensor]:
        """Inputs ``(1, T, ...)`` of training videos, spread over their list, read as evaluation reads them."""
        records = self.datasets["train"].records
        count = min(count, len(records))
        chosen = [records[(2 * k + 1) * len(records) // (2 * count)] for k in range(count)]
        dataset = VideoDataset(self.task, chosen, **{**self.reading, "on_error": "skip"})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training reports what it skips
            for number in range(count):
                if "input" in (item := dataset[number]):
                    yield item["input"][None]

    def _epoch(self) -> int:
        """Epochs completed: when a resumed run begins, Lightning's own number is still that of the last one."""
        return self.trainer.fit_loop.epoch_progress.current.processed if self.trainer else 0  # type: ignore[attr-defined]

    def train_dataloader(self) -> EpochLoader:
        return self._loader("train")

    def val_dataloader(self) -> EpochLoader:
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader:
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader:
        return self._loader("test")

    def note_skipped(self, batch: dict[str, Any]) -> None:
        """Remembers what the workers skipped in a batch, for the summary."""
        for dataset in self.datasets.values():
            dataset.note_skipped(batch)

    @property
    def skipped(self) -> dict[str, str]:
        """Videos left out so far, with the reason."""
        return {path: reason for dataset in self.datasets.values() for path, reason in dataset.skipped.items()}


def _check_folder(root: str | Path) -> None:
    folder = Path(os.path.abspath(root))
    if not folder.is_dir():
        there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise ValueError(f"--data.root {root}: expected a folder of videos, found none{close_to(folder.name, there)}")


def held_out(recordings: Sequence[tuple[int, str]], share: float, seed: int) -> list[bool]:
    """Which records are held out, by their labels and recordings: this share of each label, at least one recording.

    A label with one recording keeps it, and none is held out if the share is 0.
    """
    chance, held = np.random.default_rng(seed), set()
    for label in sorted({label for label, _ in recordings} if share else ()):
        known = sorted({name for own, name in recordings if own == label})
        count = min(max(round(share * len(known)), 1), len(known) - 1)
        held |= {known[i] for i in chance.choice(len(known), count, replace=False)}
    return [name in held for _, name in recordings]
