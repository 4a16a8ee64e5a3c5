"""Videos on disk as batches for Lightning: which task, which files, which process."""

import difflib
import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from prernn.models.backbones import DEFAULT_BACKBONE, input_spec
from prernn.tasks import DEFAULT_TASK
from prernn.tasks.task import Subset, Task
from prernn.training.allocator import keep_memory
from prernn.training.batches import LengthBucketSampler, collate
from prernn.training.dataset import VideoDataset

SUBSETS: dict[str, Subset] = {"fit": "val", "validate": "val", "test": "test", "predict": "test"}


class VideoData(L.LightningDataModule):
    """The videos of a task for ``fit``, ``validate``, ``test`` and ``predict``.

    Args:
        root: the data set's folder.
        task: what is learnt from it: ``prernn.tasks.Action``, ``prernn.tasks.Gesture`` or ``prernn.tasks.Face``, with
            its options; None means Action with its defaults.
        backbone: the backbone's name, which gives size and normalisation where the task's are not set.
        batch_size: videos a batch and process.
        num_workers: decoding processes for each training process.
        on_error: "raise" stops at a video that can't be read, "skip" leaves it out and reports it.
        tolerate_truncation: take what decodes of a video that ends early.
        seed: of shuffling, frame sampling and augmentation.

    Raises:
        ValueError: an absent folder, a class without videos, a list that names absent files.
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
        seed: int = 0,
    ):
        super().__init__()
        self.task: Task = DEFAULT_TASK() if task is None else task
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.reading: dict[str, Any] = {"on_error": on_error, "tolerate_truncation": tolerate_truncation}
        self.task.open(_folder(root), input_spec(backbone))
        self.datasets: dict[str, VideoDataset] = {"train": self.dataset("train")}

    @property
    def opened(self) -> Task:
        """The task, which has read its lists."""
        return self.task

    def dataset(self, subset: Subset) -> VideoDataset:
        """The videos of a subset, read as this data is; those of "train" with chance."""
        train = subset == "train"
        return VideoDataset(self.task, self.task.records(subset), train=train, seed=self.seed, **self.reading)

    def setup(self, stage: str) -> None:
        """Lists what a stage needs."""
        subset = SUBSETS[stage]
        if subset not in self.datasets:
            self.datasets[subset] = self.dataset(subset)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the shuffling, sampling and augmentation of an epoch."""
        self.datasets["train"].set_epoch(epoch)
        self._train_sampler.set_epoch(epoch)

    def _loader(self, subset: Subset) -> DataLoader:
        dataset, train = self.datasets[subset], subset == "train"
        trainer = self.trainer
        sampler = LengthBucketSampler(
            dataset.lengths(),
            self.batch_size,
            seed=self.seed,
            shuffle=train,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if train:
            self._train_sampler = sampler
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=_begin_worker,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        return self._loader("test")

    def note_skipped(self, batch: dict[str, Any]) -> None:
        """Remembers what the workers left out of a batch, for the summary."""
        for dataset in self.datasets.values():
            dataset.note_skipped(batch)

    @property
    def skipped(self) -> dict[str, str]:
        """Videos left out so far, with the reason."""
        return {path: reason for dataset in self.datasets.values() for path, reason in dataset.skipped.items()}


def _folder(root: Path | str) -> Path:
    """The whole path of a folder, so that what a run says of its videos can be read from anywhere."""
    folder = Path(os.path.abspath(root))
    if not folder.is_dir():
        there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, there, n=1)
        hint = f": did you mean {Path(root).with_name(near[0])}?" if near else ""
        raise ValueError(f"--data.root {root}: expected a folder of videos, found none{hint}")
    return folder


def _begin_worker(number: int) -> None:
    keep_memory()  # which a process that was not forked does not have from the main one
