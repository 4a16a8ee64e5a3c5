"""The form that every application in `prernn.tasks` has: data set, loss, metrics and what is reported."""

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
    """What a network says of one item, and how wrong it is.

    Attributes:
        said: its answer in words.
        true: the true one.
        error: 0 where it is right; 1 where it is wrong, or how wrong it is where there are degrees.
        points: ``(T, N, 2)`` that it finds in the input, from 0 to 1 across and down; None where there are none.
    """

    said: str
    true: str
    error: float
    points: np.ndarray | None = None


class Metrics(Protocol):
    """Running metrics of a task, an nn.Module of torchmetrics', so that they add up over batches and processes."""

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds outputs ``(B, T, K)`` of a batch."""

    def compute(self) -> dict[str, Tensor]:
        """The metrics: scalars, which are logged, and longer tensors."""

    def reset(self) -> None:
        """Forgets all batches."""


class Task:
    """What a network learns from which recordings. An application is one subclass, a dataclass of its options.

    Life of a task: it is made from its options; `open` reads the data set's lists and so learns the labels; then
    `records`, `read` and `length` serve the data, `loss`, `metrics` and `predictions` the training, and `watcher` a
    stream. A task that was rebuilt from a checkpoint (`prernn.tasks.restore`) is not opened: it has labels, but no
    data.

    Items and batches. `read` gives one recording as a dict: ``input (T, ...)``, for pictures float32 ``(T, C, H, W)``
    or snippets ``(T, C, D, H, W)``, and whatever the loss and the metrics need. `prernn.training.batches.collate` makes
    a batch of them: tensors are padded with zeros along their first dimension to the longest and stacked,
    ``(B, T, ...)``; ints become an int64 tensor ``(B,)``; anything else a list of B. It adds ``lengths (B,)``, the
    valid steps of ``input``, and ``path``, B of them.

    Attributes:
        name: of the application, its key in `prernn.tasks.TASKS`.
        score: the metric that tells the best epoch, and whether more ("max") or less ("min") of it is better.
        one_answer: whether a recording has one answer as a whole, so that ``prernn early`` can ask after a part of it.
        joins_clips: whether clips can follow each other in a row of a batch (`prernn.training.continuity`): `join`
            makes one item of several, and `loss` heeds a batch's ``weight (B, T)``.
        loss_of_frames: whether the loss is a mean over frames, which can have weights.
        input: what it is made of: "pictures", "words" or "features".
        goes_on_in_training: whether in training too a record goes on from the one before it, as `goes_on` says: its
            items have ``goes_on``, and those of streams side by side a number ``way`` each.
        keeps_outputs: whether a test keeps all outputs in a file, for ``prernn fuse``.
        comparable: whether ``prernn compare`` can train networks for it side by side.
        rows: the form of the rows that its watcher gives, a key of `prernn.streaming.rows.ROWS`.
        watcher_options: names of what `watcher` takes beside networks, options of ``prernn stream``.
        kept_options: names of the options that evaluation and streaming need again, which a checkpoint keeps.
        measured_options: those of them that are measured on the training records where they are None: a test takes what
            the checkpoint has.
        path_options: names of the options that are paths, which a run keeps whole, to be read from anywhere.
        deinterlace: whether interlaced frames are made progressive, in training, evaluation and streams.
        labels: names of the network's outputs, or None where they are no classes.
        remarks: lines that a training says before it begins.
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
        """What a checkpoint calls the task: its name, or its class where it is not one of prernn's own."""
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
        """Options of the backbone that the data say, such as how many words there are."""
        return {}

    @property
    def clip_length(self) -> int | None:
        """Steps of every training item, where they are a fixed number."""
        return None

    @property
    def rate(self) -> float | None:
        """Frames a second that the network sees in training, which its stream keeps to; None where there is no one."""
        return None

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the lists below ``root``.

        Args:
            root: the data set's folder.
            spec: what the backbone says of its input (for pictures ``size``, ``mean`` and ``std``); the task takes what
                it has a use for, where its own options say nothing.

        Raises:
            ValueError: lists or folders that are absent or malformed, naming file and line.
        """
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Called before training records are read, with the number of the epoch that they are read in."""

    @property
    def has_validation(self) -> bool:
        """Whether the data set has validation videos of its own, so that there are `records` of "val"."""
        return False

    def records(self, subset: Subset) -> Sequence[Any]:
        """The videos of a subset, each with an attribute ``path``. Raises ValueError as `open` does."""
        raise NotImplementedError

    def recording(self, record: Any) -> tuple[int, str]:
        """Label of a training record, 0 where it has none or several, and what it was cut from.

        Of each label a share can be held out for validation; records of one recording stay together.
        """
        return 0, record.path

    def evaluated(self, records: Sequence[Any]) -> Sequence[Any]:
        """Training records as evaluation would have them."""
        return records

    def goes_on(self, record: Any) -> bool:
        """Whether in evaluation a record is the next piece of the same video as the record before it in its list.

        In training too, where `goes_on_in_training` says so.

        The items of such a task have ``goes_on``, 1 or 0, and the state of a piece's end is the next one's begin.
        """
        return False

    def examples(self, records: Sequence[Any]) -> dict[str, int]:
        """How many training examples each label has; empty for a task without classes."""
        return {}

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

    def join(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Items that follow each other as one: tensors are joined along their first dimension, the rest is the first's.

        A task whose items have something for the whole of them, such as a label, says here what becomes of it.
        """
        first = items[0]
        return {
            name: torch.cat([item[name] for item in items]) if isinstance(value, Tensor) else value
            for name, value in first.items()
        }

    def length(self, record: Any) -> int:
        """Steps that the item will have, without decoding it (0 where they hardly differ). VideoError as `read`."""
        return 0

    def probe(self, record: Any) -> None:
        """Opens what a record is read from, and decodes next to nothing. VideoError where that can't be done.

        A task whose records are no videos has its own way.
        """
        try:
            probe(record.path)
        except VideoError as error:
            if type(self).__module__.startswith("prernn."):
                raise
            raise VideoError(f"{error}; where records are no videos, the task says by `probe` how they open") from error

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Scalar loss of outputs ``(B, T, K)``, a mean over the batch's videos; padding counts for nothing.

        A batch of rows of clips has ``weight (B, T)``, that of each frame (see ``joins_clips``).
        """
        raise NotImplementedError

    def metrics(self) -> Metrics:
        """New running metrics."""
        raise NotImplementedError

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of ``predictions.csv`` (``path`` first) for a batch."""
        raise NotImplementedError

    def verdicts(self, out: Tensor, batch: dict[str, Any]) -> list[Verdict]:
        """What outputs ``(B, T, K)`` say of each item of a batch of evaluation, and what is true.

        Predictions with a column ``true`` beside ``label`` say it themselves; others have none, unless a task does.
        """
        rows = [row for row in self.predictions(out, batch) if "true" in row]
        return [Verdict(row["label"], row["true"], float(row["label"] != row["true"])) for row in rows]

    def joined_predictions(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The rows of all batches as they go into ``predictions.csv``, where `predictions` gave parts of them."""
        return rows

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes pictures and tables of a test into the run's folder.

        Args:
            results: the metrics as plain numbers and lists, and ``labels``.
            root: the folder.

        Returns:
            What is to stand in ``metrics.json``: long lists that went into a table of their own may be left out.
        """
        return results

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """What follows a stream with trained networks, as ``prernn stream`` does.

        Args:
            nets: the networks; several where their answers can be averaged.
            options: those of `watcher_options` that were given.

        Raises:
            ValueError: networks or options that don't fit.
            NotImplementedError: more networks than can be followed together; a task without streams.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one whose streams can be followed")

    def frames(self, source: str) -> Generator[tuple[float, Any], None, None] | None:
        """What a stream of a source is made of: times in seconds, and what `watcher` sees; None for pictures."""
        return None

    def answers(self, out: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Outputs ``(N, K)`` that have one true answer each, and these answers ``(N,)``: what confidence is fitted on.

        Args:
            out: outputs ``(B, T, K)`` of a batch.
            batch: the batch.

        Raises:
            NotImplementedError: a task whose outputs are no probabilities of classes.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one that gives probabilities of classes, and events")

    def events_in(self, times: Sequence[float], probabilities: Tensor, *, everything: bool = False) -> list[EventSpan]:
        """The events that a stream of the task finds, those that have ended, in the order of their starts.

        Args:
            times: T seconds, ascending.
            probabilities: ``(T, K)``, as the network gives them; the task's temperature is applied here.
            everything: all that a lower threshold would find, see `prernn.tasks.confidence.threshold`.

        Raises:
            NotImplementedError: a task without events.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one that gives probabilities of classes, and events")

    def confident(self, temperature: float, unknown_below: float, threshold: float | None) -> dict[str, Any]:
        """The options that make the task as sure as that (`prernn.tasks.confidence`), of those that a checkpoint keeps.

        Args:
            temperature: of the softmax.
            unknown_below: probability below which an answer is "unknown".
            threshold: probability that an event has to come up to; None leaves it as it is.

        Raises:
            NotImplementedError: a task whose outputs are no probabilities of classes.
        """
        raise NotImplementedError(f"task {self.name!r}: expected one that gives probabilities of classes, and events")

    def noted(self, recipe: Recipe) -> Recipe:
        """The recipe with what a checkpoint keeps of the task: labels, transform, rate, its name and its options."""
        options = {key: _plain(getattr(self, key)) for key in self.kept_options}
        kept = KeptTask(self.kept_name, options)
        noted = dataclasses.replace(recipe, labels=self.labels, transform=self.transform, task=kept)
        return dataclasses.replace(noted, rate=self.rate)


def only(nets: Sequence[SequenceNetwork]) -> SequenceNetwork:
    """The one network of a task that follows streams with one.

    Raises:
        NotImplementedError: several.
    """
    if len(nets) != 1:
        raise NotImplementedError(f"expected one checkpoint for this task, got {len(nets)}")
    return nets[0]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """``(B, T)`` for ``steps`` T, True where a step is no padding.

    Raises:
        ValueError: lengths outside 1..T.
    """
    if bool(((lengths < 1) | (lengths > steps)).any()):
        raise ValueError(f"lengths: expected 1 to {steps}, got {lengths.tolist()}")
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
