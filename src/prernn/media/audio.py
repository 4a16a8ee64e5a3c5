"""Sound as numbers: samples of a file, and what recognisers of speech read of them."""

import itertools
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prernn.media.video import VideoError

if TYPE_CHECKING:
    import av

_said: set[tuple[int, int, int]] = set()  # rates and channels that were told of

MICROPHONE = "microphone:"
"""What the name of a microphone as a source begins with; ``microphone:default`` is the system's own."""

QUIET = 1e-6
"""Power below which frequencies are silent, of samples from -1 to 1."""


def sample_rate(path: str | Path) -> int:
    """Samples a second of a sound file. VideoError where it can't be read."""
    container, stream = _opened(path)
    with container:
        return int(stream.rate)


def seconds_of(path: str | Path) -> float:
    """How long a sound file says it is; 0 where it says nothing. VideoError where it can't be read."""
    container, stream = _opened(path)
    with container:
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0


def read_audio(path: str | Path, rate: int | None = None) -> Tensor:
    """A sound file's samples, float32 ``(N,)`` from -1 to 1: WAV, NIST SPHERE (TIMIT's), FLAC, and what PyAV reads.

    Several channels become their mean. Another rate than that of the file is made by FFmpeg's resampler; of each kind
    of file that is changed a warning says so, once.

    Args:
        path: the file.
        rate: samples a second; None is that of the file.

    Raises:
        VideoError: a file that can't be read, without a sample, or with samples that are no numbers.
    """
    return torch.cat(list(read_sound(path, rate)))


def read_sound(source: str | Path, rate: int | None = None) -> Iterator[Tensor]:
    """`read_audio` part by part, as they come: also of ``-``, standard input, and ``microphone:NAME``.

    Raises:
        VideoError: as `read_audio`; a microphone that can't be opened.
    """
    import av

    container, stream = _opened(source)
    with container:
        own, channels = int(stream.rate), stream.codec_context.channels
        rate = own if rate is None else rate
        if (rate != own or channels > 1) and (own, channels, rate) not in _said:
            _said.add((own, channels, rate))
            message = f"sound of {own} Hz, {channels} channels, is made sound of {rate} Hz, 1 channel: {source}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        resampler, count = av.AudioResampler(format="fltp", rate=rate), 0
        try:
            for frame in itertools.chain(container.decode(stream), [None]):
                for part in resampler.resample(frame):
                    samples = torch.from_numpy(part.to_ndarray().mean(0))  # over channels
                    if not bool(samples.isfinite().all()):
                        raise VideoError(f"{source}: expected samples that are numbers, found NaN or infinite ones")
                    count += len(samples)
                    yield samples
        except av.error.FFmpegError as error:
            raise VideoError(f"{source}: does not decode: {error}") from error
    if not count:
        raise VideoError(f"{source}: expected sound, found no sample")


def moments(features: Iterable[Tensor], least: float) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each feature over all windows ``(T, F)``; None where there is no window.

    Args:
        features: of each recording.
        least: variance; a smaller one counts as this.
    """
    count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for windows in (each.double() for each in features):
        count, total, squares = count + len(windows), total + windows.sum(0), squares + windows.square().sum(0)
    if not count:
        return None
    mean = total / count
    return mean.tolist(), (squares / count - mean.square()).clamp(min=least).sqrt().tolist()


def _opened(path: str | Path) -> "tuple[av.container.InputContainer, av.AudioStream]":
    import av

    name, options = _place(str(path))
    try:
        container = av.open(name, **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: can't be read as sound: {error}") from error
    if not container.streams.audio:
        container.close()
        raise VideoError(f"{path}: expected a file with sound, found none in it")
    return container, container.streams.audio[0]


def _place(source: str) -> tuple[str, dict[str, Any]]:
    """av.open's name and arguments for a file, standard input or a microphone."""
    if source == "-":
        return "pipe:0", {}
    if not source.startswith(MICROPHONE):
        return source, {}
    name = source.removeprefix(MICROPHONE)
    if sys.platform == "darwin":
        return f":{name}", {"format": "avfoundation"}
    return (f"audio={name}", {"format": "dshow"}) if sys.platform == "win32" else (name, {"format": "alsa"})


@dataclass(frozen=True)
class LogSpectrum:
    """The logarithm of each frequency's power, in windows: a spectrogram, what end-to-end recognisers read.

    A Hamming window of ``window`` seconds every ``hop`` seconds, ``x = ln(|rfft(samples)|^2 + 1e-6)``.

    Attributes:
        window: seconds.
        hop: seconds.

    Raises:
        ValueError: numbers out of range.
    """

    window: float = 0.02
    hop: float = 0.01

    def __post_init__(self) -> None:
        _check_windows("spectrum", self.window, self.hop)
        if self.hop > self.window:
            raise ValueError(f"spectrum: expected a hop of at most the window's {self.window} s, got {self.hop}")

    def size(self, rate: int) -> int:
        """Frequencies of a window."""
        return _samples(self.window, rate) // 2 + 1

    def lengths(self, rate: int) -> tuple[int, int]:
        """Samples of a window and between the starts of two windows."""
        return _samples(self.window, rate), _samples(self.hop, rate)

    def __call__(self, samples: Tensor, rate: int) -> Tensor:
        """Windows ``(T, F)`` of samples ``(N,)``, as many as are full."""
        window, hop = self.lengths(rate)
        if len(samples) < window:
            return samples.new_zeros(0, self.size(rate))
        parts = samples.unfold(0, window, hop) * torch.hamming_window(window, device=samples.device)
        return (torch.fft.rfft(parts).abs().square() + QUIET).log()


@dataclass(frozen=True)
class Cepstra:
    """Mel-frequency cepstral coefficients with first and second differences: what TIMIT's recognisers read.

    A window of ``window`` seconds every ``hop`` seconds; its power in ``bands`` bands of the mel scale, their
    logarithm's discrete cosine transform, of which the first ``count`` coefficients are kept (Davis and Mermelstein,
    1980), and their slopes over five windows, twice. All by torchaudio.

    Attributes:
        window: seconds.
        hop: seconds.
        bands: of the mel scale.
        count: coefficients; there are three times as many features.

    Raises:
        ValueError: numbers out of range, more coefficients than bands.
    """

    window: float = 0.02
    hop: float = 0.01
    bands: int = 26
    count: int = 13

    def __post_init__(self) -> None:
        _check_windows("cepstra", self.window, self.hop)
        if not 1 <= self.count <= self.bands:
            raise ValueError(f"cepstra: expected 1 to {self.bands} coefficients of as many bands, got {self.count}")

    @property
    def size(self) -> int:
        """Features of a window."""
        return 3 * self.count

    def steps(self, samples: int, rate: int) -> int:
        """How many windows so many samples have, one at least."""
        window, hop = self._lengths(rate)
        return 1 + max(0, samples - window) // hop

    def middles(self, steps: int, rate: int) -> np.ndarray:
        """Seconds of the middle of each window ``(T,)``."""
        window, hop = self._lengths(rate)
        return (np.arange(steps) * hop + window / 2) / rate

    def __call__(self, samples: Tensor, rate: int) -> Tensor:
        """Features ``(T, 3 * count)`` of samples ``(N,)``; fewer than a window are filled up with silence.

        Raises:
            ImportError: torchaudio is missing: ``pip install "prernn[speech]"``.
        """
        try:
            from torchaudio.functional import compute_deltas
            from torchaudio.transforms import MFCC
        except ImportError as error:
            raise ImportError('torchaudio is missing: pip install "prernn[speech]"', name="torchaudio") from error
        window, hop = self._lengths(rate)
        points = 2 ** math.ceil(math.log2(max(window, 512 * rate / 16000)))  # narrow bands want some points each
        before, after = (points - window) // 2, points - window - (points - window) // 2
        room = max(0, window - len(samples))
        padded = torch.nn.functional.pad(samples, (before, after + room))
        mel = {"n_fft": points, "win_length": window, "hop_length": hop, "n_mels": self.bands, "center": False}
        cepstra = MFCC(rate, self.count, log_mels=True, melkwargs=mel)(padded)  # (count, T)
        first = compute_deltas(cepstra)
        return torch.cat([cepstra, first, compute_deltas(first)]).T.contiguous()

    def _lengths(self, rate: int) -> tuple[int, int]:
        return _samples(self.window, rate), _samples(self.hop, rate)


def _check_windows(name: str, window: float, hop: float) -> None:
    if not (0 < window < math.inf and 0 < hop < math.inf):
        raise ValueError(f"{name}: expected window and hop above 0 seconds, got {window} and {hop}")


def _samples(seconds: float, rate: int) -> int:
    return max(1, round(seconds * rate))
