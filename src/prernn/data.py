"""Videos on disk as batches for Lightning: which files, which frames, which transform, which process."""

from dataclasses import asdict
from typing import Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from prernn.backbones import DEFAULT_BACKBONE, input_spec
from prernn.tasks.action import Clip, ClipDataset, LengthBucketSampler, class_folder, collate, ucf101
from prernn.transforms import Sampling, TransformSpec, clip_transform

DEFAULT_SAMPLING = Sampling(frames=16, rule="uniform")


class VideoData(L.LightningDataModule):
    """Labelled videos for ``fit``, ``validate``, ``test`` and ``predict``.

    Args:
        root: the data set's folder.
        layout: "folders" (``root/train/<class>/``, ``root/test/<class>/``, optionally ``val``) or "ucf101"
            (``UCF-101/`` and ``ucfTrainTestlist/``). Without a ``val`` folder, validation sees the test videos.
        split: which of UCF101's splits.
        backbone: the backbone's name, which gives size and normalisation where they are not set.
        sampling: frames of a clip in training; evaluation takes the same number, evenly where training is random.
        size: side in pixels of the network's input.
        resize: shorter side in pixels before the centre crop of evaluation.
        mean: of each colour channel, for pixel values in [0, 1].
        std: likewise.
        scale: range of the area that a training crop takes.
        flip: whether training mirrors half of the clips; not for classes that left and right tell apart.
        batch_size: clips a batch and process.
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
        layout: Literal["folders", "ucf101"] = "folders",
        split: int = 1,
        backbone: str = DEFAULT_BACKBONE,
        sampling: Sampling = DEFAULT_SAMPLING,
        size: int | None = None,
        resize: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        scale: tuple[float, float] = (0.6, 1.0),
        flip: bool = True,
        batch_size: int = 16,
        num_workers: int = 2,
        on_error: Literal["raise", "skip"] = "raise",
        tolerate_truncation: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.root, self.layout, self.split = root, layout, split
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.on_error, self.tolerate_truncation = on_error, tolerate_truncation
        self.sampling = sampling
        own = {key: value for key, value in {"size": size, "mean": mean, "std": std}.items() if value is not None}
        self.spec = TransformSpec(**{**input_spec(backbone), **own}, resize=resize, scale=scale, flip=flip)
        self.classes, records = self._records("train")
        self.datasets: dict[str, ClipDataset] = {"train": self._dataset(records, train=True)}

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return self.classes

    @property
    def transform(self) -> dict[str, Any]:
        """The transform as plain data, for the checkpoint."""
        return asdict(self.spec)

    def _records(self, subset: str) -> tuple[list[str], list[Clip]]:
        if self.layout == "ucf101":
            return ucf101(self.root, self.split, "train" if subset == "train" else "test")
        if subset == "val":
            try:
                return class_folder(self.root, "val")
            except ValueError:
                return class_folder(self.root, "test")
        return class_folder(self.root, subset)

    def _dataset(self, records: list[Clip], *, train: bool) -> ClipDataset:
        return ClipDataset(
            records,
            self.sampling,
            clip_transform(self.spec, train=train),
            train=train,
            seed=self.seed,
            on_error=self.on_error,
            short_side=None if train else self.spec.resize or self.spec.size,
            tolerate_truncation=self.tolerate_truncation,
        )

    def setup(self, stage: str) -> None:
        """Lists what a stage needs."""
        for subset in {"fit": ["val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}[stage]:
            if subset not in self.datasets:
                classes, records = self._records(subset)
                if classes != self.classes:
                    raise ValueError(f"{self.root}: expected the classes {self.classes} in {subset}, got {classes}")
                self.datasets[subset] = self._dataset(records, train=False)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the shuffling, sampling and augmentation of an epoch."""
        self.datasets["train"].set_epoch(epoch)
        self._train_sampler.set_epoch(epoch)

    def _loader(self, subset: str) -> DataLoader:
        dataset, train = self.datasets[subset], subset == "train"
        trainer = self.trainer
        sampler = LengthBucketSampler(
            dataset.lengths() if self._lengths_vary() else [0] * len(dataset),
            self.batch_size,
            seed=self.seed,
            shuffle=train,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if train:
            self._train_sampler = sampler
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=self.num_workers)

    def _lengths_vary(self) -> bool:
        """Whether clips differ in length by more than a few short videos."""
        return self.sampling.rule in ("all", "consecutive")

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
