"""Speech recognition in VCTK's folders: the letters of what is said, with CTC."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real, whole
from prernn.media.audio import LogSpectrum, moments, read_audio, read_sound, sample_rate, seconds_of
from prernn.media.video import VideoError
from prernn.streaming.watch import Watcher
from prernn.tasks.events.best_path import best_path
from prernn.tasks.events.ctc_decoders import BeamDecoder, Decoder, GreedyDecoder
from prernn.tasks.events.ctc_loss import least_steps, log_probs, loss_of_each_label
from prernn.tasks.speech.letters import ALPHABET, read_letters
from prernn.tasks.speech.vctk import Utterance, split
from prernn.tasks.task import Metrics, Subset, Task, only

DEFAULT_SPECTRUM = LogSpectrum()
BLANK_NAME = "<blank>"
"""The name of output 0."""

WINDOWS = 2
"""Number of windows of sound in a step."""


@dataclass(eq=False)
class Speech(Task):
    """What is said, letter by letter, with CTC (Graves et al., ICML 2006): Deep Speech 2 without a language model.

    The root folder contains VCTK's folders, ``wav48_silence_trimmed`` or ``wav48`` with ``SPEAKER/NAME.wav`` or
    ``.flac``, and ``txt`` with ``SPEAKER/NAME.txt``. Speakers are kept apart: every tenth is for the test, unless
    ``train.txt`` and ``test.txt`` list recordings, and some of the others are held out for validation. The input is
    steps of two windows of `prernn.media.audio.LogSpectrum`, each frequency minus its mean and divided by its standard
    deviation over the training recordings. The network is a `prernn.models.networks.deep_speech.DeepSpeech`
    (``method: deep_speech``).

    Attributes:
        spectrum: windows.
        alphabet: the lower-case letters to recognize, and the space; output 0 is the blank.
        tail: seconds of silence added after each recording: a network that looks ahead needs them for its last letters.
        decoder: "greedy", the most probable path, or "beam", the most probable text by prefix beam search; for tests
            and streams.
        width: number of texts that the beam follows.
        test_speakers: speakers whose recordings are the test, see above.
        rate_hz: samples a second; None takes that of the first training recording. Others are resampled.
        measured: maximum number of recordings on which mean and deviation are measured, spread over those for training,
            including the ones held out.
        mean: mean of each frequency; None measures it; a checkpoint keeps it.
        std: standard deviation of each frequency; None measures it; a checkpoint keeps it.
    """

    spectrum: LogSpectrum = DEFAULT_SPECTRUM
    alphabet: str = ALPHABET
    tail: float = 0.0
    decoder: Literal["greedy", "beam"] = "greedy"
    width: int = 10
    test_speakers: list[str] | None = None
    rate_hz: int | None = None
    measured: int = 500
    mean: list[float] | None = None
    std: list[float] | None = None

    name: ClassVar[str] = "speech"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("character_error_rate", "min")
    input: ClassVar[Literal["pictures", "words", "features"]] = "features"
    comparable: ClassVar[bool] = False
    watcher_options: ClassVar[tuple[str, ...]] = ("decoder",)
    measured_options: ClassVar[tuple[str, ...]] = ("rate_hz", "mean", "std")
    kept_options: ClassVar[tuple[str, ...]] = (
        "spectrum",
        "alphabet",
        "tail",
        "decoder",
        "width",
        "rate_hz",
        "mean",
        "std",
    )

    labels: list[str] | None = field(init=False, default=None)
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.spectrum, dict):  # as in a checkpoint
            self.spectrum = LogSpectrum(**self.spectrum)
        for name in ("width", "measured"):
            whole(name, getattr(self, name))
        if self.rate_hz is not None:
            whole("rate_hz", self.rate_hz)
        real("tail", self.tail, 0)
        if self.decoder not in ("greedy", "beam"):
            raise ValueError(f"decoder: expected greedy or beam, got {self.decoder!r}")
        different = len(set(self.alphabet)) == len(self.alphabet)
        if not different or " " not in self.alphabet or self.alphabet != self.alphabet.lower():
            raise ValueError(f"alphabet: expected different small letters and the space, got {self.alphabet!r}")
        self._parts: dict[str, list[Utterance]] = {}
        self._seconds: dict[str, float] = {}

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Finds the recordings, and measures some of those for training.

        Raises:
            ValueError: missing folders, lists or speakers; no readable recording.
        """
        self._parts = split(Path(root), self.test_speakers)
        self.labels = [BLANK_NAME, *self.alphabet]
        self._measure()
        counts = {part: (len(found), len({one.speaker for one in found})) for part, found in self._parts.items()}
        told = ", ".join(f"{part} {count} of {speakers} speakers" for part, (count, speakers) in counts.items())
        self.remarks = (f"{len(self.alphabet)} letters; recordings: {told}; {self.rate_hz} Hz",)

    def _measure(self) -> None:
        """Rate, mean and deviation, unless they are given."""
        train = self._parts["train"]
        if self.rate_hz is None:
            self.rate_hz = next(filter(None, map(_rate_of, train)), None)
        if self.rate_hz is None:
            raise ValueError(f"{train[0].path}: none of the training recordings can be read")
        size = self.spectrum.size(self.rate_hz)
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None and len(given) != size:
                raise ValueError(f"{name}: expected {size} numbers, one a frequency, got {len(given)}")
        if self.mean is not None and self.std is not None:
            return
        found = moments(self._readable(train[:: -(-len(train) // self.measured)]), 1e-6)
        if found is None:
            raise ValueError(f"{train[0].path}: none of the training recordings can be read")
        self.mean, self.std = self.mean or found[0], self.std or found[1]

    def _readable(self, recordings: Sequence[Utterance]) -> Iterator[Tensor]:
        """Windows of the readable recordings."""
        assert self.rate_hz is not None
        for one in recordings:
            with contextlib.suppress(VideoError):  # reported on reading
                yield self.spectrum(read_audio(one.path, self.rate_hz), self.rate_hz)

    @property
    def backbone_options(self) -> dict[str, Any]:
        """The number of frequencies."""
        return {"features": self.spectrum.size(self.rate_hz or 16000)}

    @property
    def rate(self) -> float | None:
        """Steps a second."""
        return 1 / (WINDOWS * self.spectrum.hop)

    def records(self, subset: Subset) -> list[Utterance]:
        """The recordings of a subset."""
        return self._parts[subset]

    def recording(self, record: Utterance) -> tuple[int, str]:
        """The speaker, of whom all recordings or none are held out."""
        return 0, record.speaker

    def length(self, record: Utterance) -> int:
        """Number of steps that the item will have, according to the sound file's metadata."""
        if record.path not in self._seconds:
            self._seconds[record.path] = seconds_of(record.path)
        return round((self._seconds[record.path] + self.tail) * (self.rate or 0))

    def probe(self, record: Utterance) -> None:
        """Opens the sound file."""
        sample_rate(record.path)

    def examples(self, records: Sequence[Utterance]) -> dict[str, int]:
        """How many recordings each speaker has."""
        return dict(Counter(one.speaker for one in records))

    def read(
        self, record: Utterance, chance: torch.Generator | None, *, tolerate_truncation: bool = False
    ) -> dict[str, Any]:
        """One recording: ``input (T, 2, F)``, steps of two windows, and ``target (N,)``, numbers of letters.

        Raises:
            VideoError: sound or text that can't be used, or more letters than steps.
        """
        said = read_letters(record.text, self.alphabet)
        assert self.rate_hz is not None
        steps = torch.cat(list(self._steps([read_audio(record.path, self.rate_hz)])))
        target = torch.tensor([1 + self.alphabet.index(letter) for letter in said])
        if len(steps) < (needed := least_steps(target)):
            raise VideoError(f"{record.path}: expected at least {needed} steps for its text, got {len(steps)}")
        return {"input": steps, "target": target}

    def _steps(self, sound: Iterable[Tensor]) -> Iterator[Tensor]:
        """Steps ``(T, 2, F)`` of sound, part by part as it comes; the last step is filled up with silence."""
        assert self.rate_hz is not None
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        window, hop = self.spectrum.lengths(self.rate_hz)
        room, taken = window + hop, WINDOWS * hop  # samples that a step covers, and by which the next one starts later
        rest, nothing = torch.zeros(0), True
        for part in itertools.chain(sound, [torch.zeros(round(self.tail * self.rate_hz)), None]):
            last = part is None
            rest = rest if part is None else torch.cat([rest, part])
            if last and (nothing or len(rest) > window - hop):  # samples that no step has covered
                rest = torch.cat([rest, torch.zeros(room - len(rest))])
            if len(rest) >= room:
                count = 1 + (len(rest) - room) // taken
                windows = (self.spectrum(rest[: room + (count - 1) * taken], self.rate_hz) - mean) / std
                yield windows.unflatten(0, (count, WINDOWS))
                rest, nothing = rest[count * taken :], False

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """``-log p`` of each text, divided by its number of letters, averaged over the batch."""
        return loss_of_each_label(out, batch["target"], batch["lengths"])

    def heard(self, out: Tensor) -> str:
        """The text of outputs ``(T, K)`` of one recording."""
        found = best_path(out) if self.decoder == "greedy" else self._exact().decode(log_probs(out))
        return " ".join("".join(self.alphabet[label - 1] for label in found).split())

    def _exact(self) -> BeamDecoder:
        """The decoder for whole recordings, for which nothing must be reported early."""
        return BeamDecoder(self.width, certainty=1.0, patience=None)

    def said(self, target: Tensor) -> str:
        """The text of a target ``(N,)``, zeros after its end."""
        return "".join(self.alphabet[label - 1] for label in target.tolist() if label)

    def metrics(self) -> Metrics:
        """See `prernn.tasks.speech.metrics.LetterMetrics`."""
        from prernn.tasks.speech.metrics import LetterMetrics

        return LetterMetrics(self.heard, self.said)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One row per recording: ``path``, the recognized ``label``, and the ``true`` text."""
        return [
            {"path": path, "label": self.heard(out[row, :steps]), "true": self.said(batch["target"][row])}
            for row, (path, steps) in enumerate(zip(batch["path"], batch["lengths"].tolist(), strict=True))
        ]

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """The text of speech as it grows. The option ``decoder`` overrides the task's."""
        from prernn.tasks.speech.watcher import SpeechWatcher

        net, kind = only(nets), options.get("decoder") or self.decoder
        beam = self._exact if net.sees_ahead else partial(BeamDecoder, self.width)
        makers: dict[str, Callable[[], Decoder]] = {"greedy": GreedyDecoder, "beam": beam}
        return SpeechWatcher(net, decoder=makers[kind](), letters=self.alphabet, step=self._step)

    @property
    def _step(self) -> float:
        """Duration of a step in seconds, in whole samples."""
        assert self.rate_hz is not None
        return WINDOWS * self.spectrum.lengths(self.rate_hz)[1] / self.rate_hz

    def frames(self, source: str) -> Generator[tuple[float, Any], None, None]:
        """Steps of a sound file, standard input or a microphone, with the time in seconds at which each begins."""
        parts = self._steps(read_sound(source, self.rate_hz))
        for number, step in enumerate(itertools.chain.from_iterable(parts)):
            yield number * self._step, step


def _rate_of(recording: Utterance) -> int | None:
    """Samples a second; None if it can't be read, which is reported on reading."""
    try:
        return sample_rate(recording.path)
    except VideoError:
        return None
