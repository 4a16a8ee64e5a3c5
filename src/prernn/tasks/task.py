"""The form that every application in `prernn.tasks` has: data set, loss, metrics and what is reported."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

Subset = Literal["train", "val", "test"]


class Metrics(Protocol):
    """Running metrics of a task, an nn.Module of torchmetrics', so that they add up over batches and processes."""

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds outputs ``(B, T, K)`` of a batch."""

    def compute(self) -> dict[str, Tensor]:
        """The metrics: scalars, which are logged, and longer tensors."""

    def reset(self) -> None:
        """Forgets all batches."""


class Task:
    """What a network learns from which videos. An application is one subclass, a dataclass of its options.

    Life of a task: it is made from its options; `open` reads the data set's lists and so learns the labels; then
    `records`, `read` and `length` serve the data, `loss`, `metrics` and `predictions` the training. A task that was
    rebuilt from a checkpoint (`prernn.tasks.restore`) is not opened: it has labels, but no data.

    Items and batches. `read` gives one video as a dict: ``video``, float32 ``(T, C, H, W)`` or snippets
    ``(T, C, D, H, W)``, and whatever the loss and the metrics need. `prernn.training.batches.collate` makes a batch of
    them: tensors are padded with zeros along their first dimension to the longest and stacked, ``(B, T, ...)``; ints
    become an int64 tensor ``(B,)``; anything else a list of B. It adds ``lengths (B,)``, the valid steps of ``video``,
    and ``path``, B of them.

    Attributes:
        name: of the application, its key in `prernn.tasks.TASKS`.
        score: the metric that tells the best epoch, and whether more ("max") or less ("min") of it is better.
        labels: names of the network's outputs, or None where they are no classes.
        transform: the evaluation transform as plain data (`prernn.media.transforms.TransformSpec`), for the checkpoint.
    """

    name: ClassVar[str]
    score: ClassVar[tuple[str, Literal["max", "min"]]]
    labels: list[str] | None = None
    transform: dict[str, Any] | None = None

    @property
    def outputs(self) -> int:
        """Size of the network's output layer."""
        if self.labels is None:
            raise ValueError(f"task {self.name!r}: expected it to be opened, it has no labels yet")
        return len(self.labels)

    def open(self, root: str | Path, spec: dict[str, Any]) -> None:
        """Reads the lists below ``root``; ``spec`` is the backbone's `input_spec` (size, mean, std).

        Raises:
            ValueError: lists or folders that are absent or malformed, naming file and line.
        """
        raise NotImplementedError

    def records(self, subset: Subset) -> Sequence[Any]:
        """The videos of a subset, each with an attribute ``path``. Raises ValueError as `open` does."""
        raise NotImplementedError

    def read(self, record: Any, chance: torch.Generator | None, *, tolerate_truncation: bool = False) -> dict[str, Any]:
        """One video as an item.

        Args:
            record: one of `records`.
            chance: None for evaluation, where nothing is random. In training torch's default generator, seeded for
                this video and epoch, so that torchvision's transforms draw from it too.
            tolerate_truncation: take what decodes of a video that ends early.

        Raises:
            VideoError: the video or its annotation can't be used.
        """
        raise NotImplementedError

    def length(self, record: Any) -> int:
        """Steps that the item will have, without decoding it (0 where they hardly differ). VideoError as `read`."""
        return 0

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Scalar loss of outputs ``(B, T, K)``, a mean over the batch's videos; padding counts for nothing."""
        raise NotImplementedError

    def metrics(self) -> Metrics:
        """New running metrics."""
        raise NotImplementedError

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of ``predictions.csv`` (``path`` first) for a batch."""
        raise NotImplementedError

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes pictures and tables of a test into the run's folder.

        Args:
            results: the metrics as plain numbers and lists.
            root: the folder.

        Returns:
            What is to stand in ``metrics.json``: long lists that went into a table of their own may be left out.
        """
        return results

    def recipe(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task, as plain data: labels, transform, and its name with its options."""
        options = {key: _plain(getattr(self, key)) for key in self.kept_options}
        return {"labels": self.labels, "transform": self.transform, "task": {"name": self.name, **options}}

    kept_options: ClassVar[tuple[str, ...]] = ()
    """Options that evaluation and streaming need again."""


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """``(B, T)`` for ``steps`` T, True where a step is no padding.

    Raises ValueError for lengths outside 1..T.
    """
    if bool(((lengths < 1) | (lengths > steps)).any()):
        raise ValueError(f"lengths: expected 1 to {steps}, got {lengths.tolist()}")
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
