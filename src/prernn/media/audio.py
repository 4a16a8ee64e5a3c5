"""Sound as numbers: samples of a file, and what recognisers of speech read of them."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prernn.media.video import VideoError

if TYPE_CHECKING:
    import av

_said: set[tuple[int, int, int]] = set()  # rates and channels that were told of


def sample_rate(path: str | Path) -> int:
    """Samples a second of a sound file. VideoError where it can't be read."""
    container, stream = _opened(path)
    with container:
        return int(stream.rate)


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
    import av

    container, stream = _opened(path)
    with container:
        own, channels = int(stream.rate), stream.codec_context.channels
        rate = own if rate is None else rate
        if (rate != own or channels > 1) and (own, channels, rate) not in _said:
            _said.add((own, channels, rate))
            message = f"sound of {own} Hz, {channels} channels, is made sound of {rate} Hz, 1 channel: {path}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        resampler = av.AudioResampler(format="fltp", rate=rate)
        try:
            frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
            parts = [part.to_ndarray().mean(0) for part in (*frames, *resampler.resample(None))]  # over channels
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{path}: does not decode: {error}") from error
    samples = torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.float32))
    if not len(samples):
        raise VideoError(f"{path}: expected sound, found no sample")
    if not bool(samples.isfinite().all()):
        raise VideoError(f"{path}: expected samples that are numbers, found NaN or infinite ones")
    return samples


def _opened(path: str | Path) -> "tuple[av.container.InputContainer, av.AudioStream]":
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: can't be read as sound: {error}") from error
    if not container.streams.audio:
        container.close()
        raise VideoError(f"{path}: expected a file with sound, found none in it")
    return container, container.streams.audio[0]


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
        if not (0 < self.window < math.inf and 0 < self.hop < math.inf):
            raise ValueError(f"cepstra: expected window and hop above 0 seconds, got {self.window} and {self.hop}")
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
        return max(1, round(self.window * rate)), max(1, round(self.hop * rate))
