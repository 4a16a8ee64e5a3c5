"""Sound as numbers: samples of a file, and the features that speech recognizers compute from them."""

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

_said: set[tuple[int, int, int]] = set()  # rates and channels already warned about

MICROPHONE = "microphone:"
"""Prefix of a source that is a microphone; ``microphone:default`` is the system's default."""

QUIET = 1e-6
"""Power below which a frequency counts as silent, for samples from -1 to 1."""


def sample_rate(path: str | Path) -> int:
    """Samples per second of a sound file. VideoError if it can't be read."""
    container, stream = _opened(path)
    with container:
        return int(stream.rate)


def seconds_of(path: str | Path) -> float:
    """Length of a sound file in seconds as it states it, 0 if it doesn't. VideoError if it can't be read."""
    container, stream = _opened(path)
    with container:
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0


def read_audio(path: str | Path, rate: int | None = None) -> Tensor:
    """Reads a sound file's samples, float32 ``(N,)`` from -1 to 1: WAV, NIST SPHERE (TIMIT), FLAC, all that PyAV reads.

    Several channels are averaged. A different rate than the file's is produced by FFmpeg's resampler. A warning says
    when sound is changed in these ways, once for each combination of rates and channels.

    Args:
        path: the file.
        rate: samples per second; None keeps the file's.

    Raises:
        VideoError: a file that can't be read, has no samples, or has samples that are NaN or infinite.
    """
    return torch.cat(list(read_sound(path, rate)))


def read_sound(source: str | Path, rate: int | None = None) -> Iterator[Tensor]:
    """Like `read_audio`, but yields parts as they arrive; also reads ``-`` (standard input) and ``microphone:NAME``.

    Raises:
        VideoError: as in `read_audio`, or a microphone that can't be opened.
    """
    import av

    container, stream = _opened(source)
    with container:
        own, channels = int(stream.rate), stream.codec_context.channels
        rate = own if rate is None else rate
        if (rate != own or channels > 1) and (own, channels, rate) not in _said:
            _said.add((own, channels, rate))
            message = f"sound of {own} Hz, {channels} channels, is converted to {rate} Hz, 1 channel: {source}"
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
    """Mean and standard deviation of each feature over all windows; None if there is no window.

    Args:
        features: windows ``(T, F)`` of each recording.
        least: lower limit of the variance.
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
        raise VideoError(f"{path}: expected a file with sound, found none")
    return container, container.streams.audio[0]


def _place(source: str) -> tuple[str, dict[str, Any]]:
    """The name and arguments that av.open takes for a file, standard input or a microphone."""
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
    """The log power of each frequency in windows: a spectrogram, the input of end-to-end recognizers.

    It takes a Hamming window of ``window`` seconds every ``hop`` seconds: ``x = ln(|rfft(samples)|^2 + 1e-6)``.

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
        """Number of frequencies in a window."""
        return _samples(self.window, rate) // 2 + 1

    def lengths(self, rate: int) -> tuple[int, int]:
        """Samples in a window, and samples from the start of one window to the next."""
        return _samples(self.window, rate), _samples(self.hop, rate)

    def __call__(self, samples: Tensor, rate: int) -> Tensor:
        """Windows ``(T, F)`` of samples ``(N,)``; an incomplete last window is dropped."""
        window, hop = self.lengths(rate)
        if len(samples) < window:
            return samples.new_zeros(0, self.size(rate))
        parts = samples.unfold(0, window, hop) * torch.hamming_window(window, device=samples.device)
        return (torch.fft.rfft(parts).abs().square() + QUIET).log()


@dataclass(frozen=True)
class Cepstra:
    """Mel-frequency cepstral coefficients with first and second differences: the input of recognizers for TIMIT.

    A window of ``window`` seconds is taken every ``hop`` seconds. Its features are the first ``count`` coefficients of
    the discrete cosine transform of the log power in ``bands`` bands of the mel scale (Davis and Mermelstein, 1980),
    their slopes over five windows, and the slopes of these. All computed by torchaudio.

    Attributes:
        window: seconds.
        hop: seconds.
        bands: number of mel bands.
        count: coefficients kept; there are three times as many features.

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
        """Number of features per window."""
        return 3 * self.count

    def steps(self, samples: int, rate: int) -> int:
        """Number of windows in ``samples`` samples, at least one."""
        window, hop = self._lengths(rate)
        return 1 + max(0, samples - window) // hop

    def middles(self, steps: int, rate: int) -> np.ndarray:
        """Time of the middle of each window in seconds, ``(T,)``."""
        window, hop = self._lengths(rate)
        return (np.arange(steps) * hop + window / 2) / rate

    def __call__(self, samples: Tensor, rate: int) -> Tensor:
        """Features ``(T, 3 * count)`` of samples ``(N,)``; less than one window is padded with silence.

        Raises:
            ImportError: torchaudio is missing: ``pip install "prernn[speech]"``.
        """
        try:
            from torchaudio.functional import compute_deltas
            from torchaudio.transforms import MFCC
        except ImportError as error:
            raise ImportError('torchaudio is missing: pip install "prernn[speech]"', name="torchaudio") from error
        window, hop = self._lengths(rate)
        points = 2 ** math.ceil(math.log2(max(window, 512 * rate / 16000)))  # each narrow band needs a few points
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
