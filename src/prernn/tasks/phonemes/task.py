"""Phonemes in speech, in TIMIT's folders: a label at every window, or their sequence with CTC."""

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import whole
from prernn.media.audio import Cepstra, moments, read_audio, sample_rate
from prernn.media.video import VideoError
from prernn.streaming.watch import Watcher
from prernn.tasks.classification import report_classes
from prernn.tasks.events.best_path import best_path
from prernn.tasks.events.ctc_loss import least_steps, loss_of_each_label
from prernn.tasks.phonemes.timit import CORE, PHONES, Recording, Segment, folded, recordings, segments
from prernn.tasks.task import Metrics, Subset, Task, only, valid_steps

DEFAULT_CEPSTRA = Cepstra()
BLANK_NAME = "<blank>"
"""The name of output 0 with CTC."""


@dataclass(eq=False)
class Phonemes(Task):
    """The phoneme of each window of sound, with cross entropy; or with ``ctc`` the sequence of phonemes.

    The root folder contains TIMIT's folders, ``TRAIN`` and ``TEST`` with ``REGION/SPEAKER/NAME.WAV`` (RIFF or NIST
    SPHERE) and ``NAME.PHN``, one line ``BEGIN END PHONEME`` each, in samples. The ``sa`` sentences are excluded.
    Features are `prernn.media.audio.Cepstra`, each minus its mean and divided by its standard deviation over the
    training recordings. Whole speakers are held out for validation. The network is a
    `prernn.models.networks.features.Features` with recurrent layers (``method: traditional``).

    Attributes:
        cepstra: windows and coefficients.
        ctc: learn the sequence of phonemes, without their positions; output 0 is the blank.
        fold: fold TIMIT's 61 symbols into 39 classes, without ``q``; None does so if all labels are TIMIT's.
        core: test on TIMIT's core test set of 24 speakers, not on all; None does so if all of them are there.
        rate_hz: samples a second; None takes that of the first training recording. Others are resampled.
        mean: mean of each feature; None takes that of the training recordings, which a checkpoint keeps.
        std: standard deviation of each feature; None takes that of the training recordings, which a checkpoint keeps.
    """

    cepstra: Cepstra = DEFAULT_CEPSTRA
    ctc: bool = False
    fold: bool | None = None
    core: bool | None = None
    rate_hz: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None

    name: ClassVar[str] = "phonemes"
    input: ClassVar[Literal["pictures", "words", "features"]] = "features"
    comparable: ClassVar[bool] = False
    kept_options: ClassVar[tuple[str, ...]] = ("cepstra", "ctc", "rate_hz", "mean", "std")
    measured_options: ClassVar[tuple[str, ...]] = ("rate_hz", "mean", "std")

    labels: list[str] | None = field(init=False, default=None)
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.cepstra, dict):  # as in a checkpoint
            self.cepstra = Cepstra(**self.cepstra)
        if self.rate_hz is not None:
            whole("rate_hz", self.rate_hz)
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None and len(given) != self.cepstra.size:
                raise ValueError(f"{name}: expected {self.cepstra.size} numbers, one a feature, got {len(given)}")
        self._parts: dict[str, list[Recording]] = {}
        self._segments: dict[str, list[Segment]] = {}
        self._rates: dict[str, int] = {}

    @property
    def score(self) -> tuple[str, Literal["max", "min"]]:  # type: ignore[override]  # it depends on an option
        """Accuracy of windows, or with CTC the phoneme error rate."""
        return ("phoneme_error_rate", "min") if self.ctc else ("accuracy", "max")

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the labels of both parts, and the mean and deviation of the features of the training recordings.

        Raises:
            ValueError: missing folders; no readable label.
        """
        self._parts = {"train": recordings(Path(root), "train"), "test": recordings(Path(root), "test")}
        names = {segment.label for part in self._parts.values() for one in part for segment in self._known(one)}
        if not names:
            raise ValueError(
                f"{root}: expected labels NAME.PHN beside recordings NAME.WAV, found none that can be read"
            )
        timits = names <= PHONES
        self.fold = timits if self.fold is None else self.fold
        labels = sorted({label for name in names if (label := self._label(name)) is not None})
        self.labels = [BLANK_NAME, *labels] if self.ctc else labels
        there = {one.speaker for one in self._parts["test"]}
        if self.core is None:
            self.core = there >= CORE
        if self.core:
            self._parts["test"] = [one for one in self._parts["test"] if one.speaker in CORE]
            if not self._parts["test"]:
                raise ValueError(f"{root}: expected recordings of TIMIT's core test set in TEST, found none")
        self._measure()
        counts = {part: (len(found), len({one.speaker for one in found})) for part, found in self._parts.items()}
        told = ", ".join(f"{part} {count} of {speakers} speakers" for part, (count, speakers) in counts.items())
        kinds = " (61 symbols as 39)" if self.fold and timits else ""
        self.remarks = (f"{len(labels)} phonemes{kinds}; recordings: {told}; {self.rate_hz} Hz",)

    def _known(self, recording: Recording) -> list[Segment]:
        """A recording's segments; none if they can't be read, which is reported on reading."""
        try:
            return self._segments_of(recording)
        except VideoError:
            return []

    def _segments_of(self, recording: Recording) -> list[Segment]:
        if recording.path not in self._segments:
            self._segments[recording.path] = segments(recording)
        return self._segments[recording.path]

    def _label(self, name: str) -> str | None:
        return folded(name) if self.fold else name

    def _measure(self) -> None:
        """Rate, mean and deviation, unless they are given, of the readable training recordings."""
        if self.rate_hz is None:
            self.rate_hz = sample_rate(self._parts["train"][0].path)
        if self.mean is not None and self.std is not None:
            return
        found = moments(self._readable(self._parts["train"]), 1e-12)
        if found is None:
            raise ValueError(f"{self._parts['train'][0].path}: none of the training recordings can be read")
        self.mean, self.std = self.mean or found[0], self.std or found[1]

    def _readable(self, recordings: Sequence[Recording]) -> Iterator[Tensor]:
        """Features of the readable recordings."""
        for recording in recordings:
            with contextlib.suppress(VideoError):  # reported on reading
                yield self._features(recording.path)[0]

    def _rate_of(self, path: str) -> int:
        """Samples a second of a file, which is opened once to find out."""
        if path not in self._rates:
            self._rates[path] = sample_rate(path)
        return self._rates[path]

    def _features(self, path: str) -> tuple[Tensor, int]:
        """Features ``(T, F)`` of a sound file, not normalized, and how many samples it has."""
        assert self.rate_hz is not None
        samples = read_audio(path, self.rate_hz)
        return self.cepstra(samples, self.rate_hz), len(samples)

    def _input(self, features: Tensor) -> Tensor:
        return (features - torch.tensor(self.mean)) / torch.tensor(self.std)

    @property
    def backbone_options(self) -> dict[str, Any]:
        """The number of features."""
        return {"features": self.cepstra.size}

    @property
    def rate(self) -> float | None:
        """Windows a second."""
        return 1 / self.cepstra.hop

    def records(self, subset: Subset) -> list[Recording]:
        """The recordings of a subset."""
        return self._parts[subset]

    def recording(self, record: Recording) -> tuple[int, str]:
        """The speaker, of whom all recordings or none are held out."""
        return 0, record.speaker

    def examples(self, records: Sequence[Recording]) -> dict[str, int]:
        """How many segments each phoneme has."""
        counts = Counter(self._label(segment.label) for one in records for segment in self._known(one))
        return {name: counts[name] for name in self.labels or [] if name != BLANK_NAME}

    def length(self, record: Recording) -> int:
        """Number of windows that the item will have, by its labels; 0 if they can't be read."""
        found = self._known(record)
        rate = self.rate_hz or 1
        return self.cepstra.steps(round(found[-1].end * rate / self._rate_of(record.path)), rate) if found else 0

    def probe(self, record: Recording) -> None:
        """Opens the sound file."""
        sample_rate(record.path)

    def read(
        self, record: Recording, chance: torch.Generator | None, *, tolerate_truncation: bool = False
    ) -> dict[str, Any]:
        """One recording: ``input (T, F)``; ``label (T,)`` int64, -1 if not counted, or ``target (N,)`` with CTC.

        Raises:
            VideoError: sound or labels that can't be used; labels that overrun the sound; with CTC more phonemes than
                windows.
        """
        found = self._segments_of(record)
        features, samples = self._features(record.path)
        assert self.rate_hz is not None
        ratio = self.rate_hz / self._rate_of(record.path)  # labels count samples at the file's own rate
        end, slack = found[-1].end * ratio, self.cepstra.hop * self.rate_hz
        if end > samples + slack and not tolerate_truncation:
            raise VideoError(
                f"{record.labels}: expected labels within the {round(samples / ratio)} samples of {record.path}, "
                f"got one up to {found[-1].end}"
            )
        numbers = {name: number for number, name in enumerate(self.labels or [])}
        labels = [numbers.get(self._label(segment.label) or "", -1) for segment in found]
        if self.ctc:
            return {"input": self._input(features), "target": self._target(labels, len(features), record)}
        middles = self.cepstra.middles(len(features), self.rate_hz) * self.rate_hz / ratio
        begins, ends = (np.array([getattr(segment, name) for segment in found]) for name in ("begin", "end"))
        places = np.searchsorted(begins, middles, side="right") - 1
        inside = (places >= 0) & (middles < ends[places.clip(0)])
        label = np.where(inside, np.array(labels)[places.clip(0)], -1)
        return {"input": self._input(features), "label": torch.from_numpy(label.astype(np.int64))}

    def _target(self, labels: list[int], steps: int, record: Recording) -> Tensor:
        target = torch.tensor([label for label in labels if label >= 0], dtype=torch.int64)
        if steps < (needed := least_steps(target)):
            raise VideoError(f"{record.path}: expected at least {needed} windows for its phonemes, got {steps}")
        return target

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Cross entropy, averaged over all counted windows of a batch; with CTC ``-log p`` of each sequence, divided by
        its number of phonemes, averaged over the batch."""
        if not self.ctc:
            mask = valid_steps(batch["lengths"], out.shape[1])
            label = batch["label"].masked_fill(~mask, -1)
            clean = out.masked_fill(~mask[..., None], 0)
            total = F.cross_entropy(clean.transpose(1, 2), label, ignore_index=-1, reduction="sum")
            return total / (label >= 0).sum().clamp(min=1)
        return loss_of_each_label(out, batch["target"], batch["lengths"])

    def metrics(self) -> Metrics:
        """See `prernn.tasks.phonemes.metrics`."""
        from prernn.tasks.phonemes.metrics import SequenceMetrics, WindowMetrics

        return SequenceMetrics() if self.ctc else WindowMetrics(self.outputs)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One row per recording: ``path``, the recognized phonemes, and the ``true`` ones.

        Without CTC these are the runs of windows with the same most probable phoneme.
        """
        names, rows = self.labels or [], []
        for row, (path, steps) in enumerate(zip(batch["path"], batch["lengths"].tolist(), strict=True)):
            if self.ctc:
                said, true = best_path(out[row, :steps]), [k for k in batch["target"][row].tolist() if k > 0]
            else:
                said = torch.unique_consecutive(out[row, :steps].argmax(-1)).tolist()
                true = [k for k in torch.unique_consecutive(batch["label"][row, :steps]).tolist() if k >= 0]
            heard, spoken = (" ".join(names[k] for k in numbers) for numbers in (said, true))
            rows.append({"path": path, "label": heard, "true": spoken})
        return rows

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes ``confusion.png`` and ``classes.csv`` of the phonemes; returns their accuracies by name."""
        return results if self.ctc else report_classes(results, self.labels or [], root)

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """The phonemes of a sound file, each when it has ended."""
        from prernn.tasks.phonemes.watcher import PhonemeWatcher

        return PhonemeWatcher(only(nets), blank=BLANK_NAME if self.ctc else None, window=self.cepstra.window)

    def frames(self, source: str) -> Generator[tuple[float, Any], None, None]:
        """Features of a sound file, with the time in seconds at which each window begins."""
        for number, features in enumerate(self._input(self._features(source)[0])):
            yield number * self.cepstra.hop, features
