"""Videos on disk as batches for Lightning: which task, which files, which process."""

from typing import Any, Literal

import lightning as L

from prernn.models.backbones import DEFAULT_BACKBONE, input_spec
from prernn.tasks import DEFAULT_TASK
from prernn.tasks.task import Subset, Task
from prernn.training.batches import LengthBucketSampler
from prernn.training.dataset import VideoDataset
from prernn.training.loader import EpochLoader, video_loader

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
        root: str,
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
        self.task.open(root, input_spec(backbone))
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

    def _loader(self, subset: Subset) -> EpochLoader:
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
        return video_loader(dataset, sampler, self.num_workers, self._epoch if train else None)

    def _epoch(self) -> int:
        """Epochs that are behind: Lightning's own number is still that of the last one when a resumed run begins."""
        return self.trainer.fit_loop.epoch_progress.current.processed if self.trainer else 0

    def train_dataloader(self) -> EpochLoader:
        return self._loader("train")

    def val_dataloader(self) -> EpochLoader:
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader:
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader:
        return self._loader("test")

    def note_skipped(self, batch: dict[str, Any]) -> None:
        """Remembers what the workers left out of a batch, for the summary."""
        for dataset in self.datasets.values():
            dataset.note_skipped(batch)

    @property
    def skipped(self) -> dict[str, str]:
        """Videos left out so far, with the reason."""
        return {path: reason for dataset in self.datasets.values() for path, reason in dataset.skipped.items()}
