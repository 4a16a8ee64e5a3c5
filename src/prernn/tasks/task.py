"""The base class of every application in `prernn.tasks`: data set, loss, metrics and reports."""

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.recipe import KeptTask, Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.names import lasting
from prernn.media.video import VideoError, probe
from prernn.streaming.events import EventSpan
from prernn.streaming.watch import Watcher

Subset = Literal["train", "val", "test"]


class Verdict(NamedTuple):
    """What a network answers for one item, and how wrong it is.

    Attributes:
        said: its answer in words.
        true: the true answer.
        error: 0 if it is right; 1 if it is wrong, or how wrong it is if there are degrees.
        points: points ``(T, N, 2)`` that it finds in the input, from 0 to 1 across and down; None if there are none.
    """

    said: str
    true: str
    error: float
    points: np.ndarray | None = None


class Metrics(Protocol):
    """Running metrics of a task, a torchmetrics nn.Module, so that they add up over batches and processes."""

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds outputs ``(B, T, K)`` of a batch."""

    def compute(self) -> dict[str, Tensor]:
        """The metrics: scalars, which are logged, and longer tensors."""

    def reset(self) -> None:
        """Forgets all batches."""


class Task:
    """What a network learns from which recordings. An application is one subclass, a dataclass of its options.

    The life of a task: it is created from its options; `open` reads the data set's lists and thereby the labels; then
    `records`, `read` and `length` provide the data, `loss`, `metrics` and `predictions` serve training, and `watcher`
    serves a stream. A task restored from a checkpoint (`prernn.tasks.restore`) is not opened: it has labels, but no
    data.

    Items and batches. `read` returns one recording as a dict: ``input (T, ...)``, for pictures float32 ``(T, C, H, W)``
    or snippets ``(T, C, D, H, W)``, and whatever the loss and the metrics need. `prernn.training.batches.collate` makes
    a batch of them: tensors are padded with zeros along their first dimension to the longest and stacked,
    ``(B, T, ...)``; ints become an int64 tensor ``(B,)``; anything else a list of B. It adds ``lengths (B,)``, the
    number of valid steps of ``input``, and ``path``, a list of B.

    Attributes:
        name: name of the application, its key in `prernn.tasks.TASKS`.
        score: the metric that decides which epoch is best, and whether more ("max") or less ("min") of it is better.
        one_answer: whether a recording has one answer as a whole, so that ``prernn early`` can ask after a part of it.
        joins_clips: whether clips can follow each other in a row of a batch (`prernn.training.continuity`): `join`
            makes one item from several, and `loss` uses a batch's ``weight (B, T)``.
        loss_of_frames: whether the loss is a mean over frames, which can have weights.
        input: kind of input: "pictures", "words" or "features".
        goes_on_in_training: whether a record continues from the previous one in training too, as `goes_on` says: its
            items have ``goes_on``, and a number ``way`` for each parallel stream.
        keeps_outputs: whether a test keeps all outputs in a file, for ``prernn fuse``.
        comparable: whether ``prernn compare`` can train networks for it side by side.
        rows: the form of its watcher's rows, a key of `prernn.streaming.rows.ROWS`.
        watcher_options: names of the options of `watcher`, which are options of ``prernn stream``.
        kept_options: names of the options that evaluation and streaming need again, which a checkpoint keeps.
        measured_options: those of them that are measured on the training records if they are None: a test takes them
            from the checkpoint.
        path_options: names of the options that are paths, which a run stores as absolute paths, to be readable from
            anywhere.
        deinterlace: whether interlaced frames are deinterlaced, in training, evaluation and streams.
        labels: names of the network's outputs, or None if they are not classes.
        remarks: lines that are printed before training begins.
        transform: the evaluation transform as plain data (`prernn.media.transforms.TransformSpec`), for the checkpoint.
    """

    name: ClassVar[str]
    score: ClassVar[tuple[str, Literal["max", "min"]]]
    one_answer: ClassVar[bool] = False
    joins_clips: ClassVar[bool] = False
    loss_of_frames: ClassVar[bool] = True
    input: ClassVar[Literal["pictures", "words", "features"]] = "pictures"
    goes_on_in_training: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = True
    comparable: ClassVar[bool] = True
    rows: ClassVar[Literal["csv", "json"]] = "json"
    watcher_options: ClassVar[tuple[str, ...]] = ()
    kept_options: ClassVar[tuple[str, ...]] = ()
    measured_options: ClassVar[tuple[str, ...]] = ()
    path_options: ClassVar[tuple[str, ...]] = ()
    deinterlace: bool = False
    remarks: tuple[str, ...] = ()
    labels: list[str] | None = None
    transform: dict[str, Any] | None = None

    @property
    def kept_name(self) -> str:
        """The task's name in a checkpoint: its name, or its class if it is not one of prernn's own."""
        kind = type(self)
        own = kind.__module__.startswith("prernn.")
        return self.name if own else lasting(f"{kind.__module__}.{kind.__qualname__}")

    @property
    def outputs(self) -> int:
        """Size of the network's output layer."""
        if self.labels is None:
            raise ValueError(f"task {self.name!r}: expected it to be opened, it has no labels yet")
        return len(self.labels)

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Options of the backbone that the data determine, such as the number of words."""
        return {}

    @property
    def clip_length(self) -> int | None:
        """Number of steps of every training item, if it is fixed."""
        return None

    @property
    def rate(self) -> float | None:
        """Frames a second that the network sees in training, and in a stream; None if there is no single rate."""
        return None

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the lists below ``root``.

        Args:
            root: the data set's folder.
            spec: the backbone's requirements on its input (for pictures ``size``, ``mean`` and ``std``); the task uses
                them if its own options don't say otherwise.

        Raises:
            ValueError: lists or folders are missing or malformed; the message names file and line.
        """
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Called before training records are read, with the number of their epoch."""

    @property
    def has_validation(self) -> bool:
        """Whether the data set has validation videos of its own, that is, `records` of "val"."""
        return False

    def records(self, subset: Subset) -> Sequence[Any]:
        """The videos of a subset, each with an attribute ``path``. Raises ValueError like `open`."""
        raise NotImplementedError

    def recording(self, record: Any) -> tuple[int, str]:
        """Label of a training record, 0 if it has none or several, and the recording that it was cut from.

        A share of each label can be held out for validation; records of one recording stay together.
        """
        return 0, record.path

    def evaluated(self, records: Sequence[Any]) -> Sequence[Any]:
        """Training records as evaluation would read them."""
        return records

    def goes_on(self, record: Any) -> bool:
        """Whether in evaluation a record is the next piece of the same video as the record before it in its list.

        In training too, if `goes_on_in_training` is set.

        The items of such a task have ``goes_on``, 1 or 0, and a piece starts from the final state of the previous one.
        """
        return False

    def examples(self, records: Sequence[Any]) -> dict[str, int]:
        """How many training examples each label has; empty for a task without classes."""
        return {}

    def read(self, record: Any, chance: torch.Generator | None, *, tolerate_truncation: bool = False) -> dict[str, Any]:
        """One video as an item.

        Args:
            record: one of `records`.
            chance: None for evaluation, in which nothing is random. In training torch's default generator, seeded for
                this video and epoch, so that torchvision's transforms draw from it too.
            tolerate_truncation: use what can be decoded of a truncated video.

        Raises:
            VideoError: the video or its annotation can't be used.
        """
        raise NotImplementedError

    def join(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Consecutive items as one: tensors are joined along their first dimension, the rest is the first item's.

        A task whose items have something for the whole item, such as a label, overrides this.
        """
        first = items[0]
        return {
            name: torch.cat([item[name] for item in items]) if isinstance(value, Tensor) else value
            for name, value in first.items()
        }

    def length(self, record: Any) -> int:
        """Number of steps of the item, found without decoding it (0 if they hardly differ). VideoError as in `read`."""
        return 0

    def probe(self, record: Any) -> None:
        """Opens what a record is read from, decoding almost nothing. VideoError if that fails.

        A task whose records are not videos overrides this.
        """
        try:
            probe(record.path)
        except VideoError as error:
            if type(self).__module__.startswith("prernn."):
                raise
            raise VideoError(f"{error}; if records are not videos, the task must override `probe`") from error

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Scalar loss of outputs ``(B, T, K)``, a mean over the batch's videos; padding is ignored.

        A batch of rows of clips has a ``weight (B, T)`` for each frame (see ``joins_clips``).
        """
        raise NotImplementedError

    def metrics(self) -> Metrics:
        """New running metrics."""
        raise NotImplementedError

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of ``predictions.csv`` (``path`` first) for a batch."""
        raise NotImplementedError

    def verdicts(self, out: Tensor, batch: dict[str, Any]) -> list[Verdict]:
        """What outputs ``(B, T, K)`` answer for each item of an evaluation batch, and what is true.

        By default they come from predictions with columns ``true`` and ``label``; without these there are none.
        """
        rows = [row for row in self.predictions(out, batch) if "true" in row]
        return [Verdict(row["label"], row["true"], float(row["label"] != row["true"])) for row in rows]

    def joined_predictions(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The rows of all batches as they go into ``predictions.csv``, if `predictions` returned parts of them."""
        return rows

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes pictures and tables of a test into the run's folder.

        Args:
            results: the metrics as plain numbers and lists, and ``labels``.
            root: the folder.

        Returns:
            What goes into ``metrics.json``: long lists that were written to their own table may be left out.
        """
        return results

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """Creates what follows a stream with trained networks, for ``prernn stream``.

        Args:
            nets: the networks; several if their answers can be averaged.
            options: those of `watcher_options` that were given.

        Raises:
            ValueError: networks or options that don't fit.
            NotImplementedError: more networks than can be followed together; a task without streams.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one whose streams can be followed")

    def frames(self, source: str) -> Generator[tuple[float, Any], None, None] | None:
        """The input of a stream from a source: times in seconds, and what `watcher` sees; None for pictures."""
        return None

    def answers(self, out: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Outputs ``(N, K)`` with one true answer each, and these answers ``(N,)``, on which confidence is fitted.

        Args:
            out: outputs ``(B, T, K)`` of a batch.
            batch: the batch.

        Raises:
            NotImplementedError: the task's outputs are not class probabilities.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one that gives probabilities of classes, and events")

    def events_in(self, times: Sequence[float], probabilities: Tensor, *, everything: bool = False) -> list[EventSpan]:
        """The finished events that a stream of the task finds, in the order of their starts.

        Args:
            times: T seconds, ascending.
            probabilities: ``(T, K)``, as output by the network; the task's temperature is applied here.
            everything: everything that a lower threshold would find, see `prernn.tasks.confidence.threshold`.

        Raises:
            NotImplementedError: the task has no events.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one that gives probabilities of classes, and events")

    def confident(self, temperature: float, unknown_below: float, threshold: float | None) -> dict[str, Any]:
        """The options that give the task this confidence (`prernn.tasks.confidence`), among those a checkpoint keeps.

        Args:
            temperature: of the softmax.
            unknown_below: probability below which an answer is "unknown".
            threshold: probability that an event must reach; None leaves it unchanged.

        Raises:
            NotImplementedError: the task's outputs are not class probabilities.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one that gives probabilities of classes, and events")

    def noted(self, recipe: Recipe) -> Recipe:
        """The recipe with what a checkpoint keeps about the task: labels, transform, rate, its name and its options."""
        options = {key: _plain(getattr(self, key)) for key in self.kept_options}
        kept = KeptTask(self.kept_name, options)
        noted = dataclasses.replace(recipe, labels=self.labels, transform=self.transform, task=kept)
        return dataclasses.replace(noted, rate=self.rate)


def only(nets: Sequence[SequenceNetwork]) -> SequenceNetwork:
    """The one network of a task that follows streams with only one.

    Raises:
        NotImplementedError: there are several.
    """
    if len(nets) != 1:
        raise NotImplementedError(f"expected one checkpoint for this task, got {len(nets)}")
    return nets[0]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """``(B, T)`` for ``steps`` T, True where a step is not padding.

    Raises:
        ValueError: lengths outside 1..T.
    """
    if bool(((lengths < 1) | (lengths > steps)).any()):
        raise ValueError(f"lengths: expected 1 to {steps}, got {lengths.tolist()}")
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
