"""Sound files for tests: tones as WAV and as NIST SPHERE."""

import wave

import numpy as np


def tone(frequency, seconds, rate=8000, loud=0.3):
    """Samples of a sine, float."""
    return loud * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write_wav(path, samples, rate=8000):
    """16 bit; samples ``(N,)`` or, of several channels, ``(N, C)``."""
    samples = np.asarray(samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def write_sphere(path, samples, rate=8000):
    """As TIMIT's files are: a header of 1,024 bytes, and 16 bit."""
    fields = {"channel_count": 1, "sample_count": len(samples), "sample_rate": rate, "sample_n_bytes": 2}
    lines = ["NIST_1A", "   1024", *(f"{name} -i {value}" for name, value in fields.items())]
    lines += ["sample_byte_format -s2 01", "sample_coding -s3 pcm", "sample_sig_bits -i 16", "end_head"]
    header = ("\n".join(lines) + "\n").encode().ljust(1024)
    path.write_bytes(header + (np.asarray(samples) * 32767).round().astype("<i2").tobytes())
    return path
