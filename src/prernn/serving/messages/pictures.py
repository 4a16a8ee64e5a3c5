"""Decodes frames as clients send them, JPEG or raw RGB, safely for any bytes."""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

MOST_ELONGATED = 16
"""Largest ratio of a picture's sides: a transform resizes the shorter side to some 100 pixels, the longer to match."""

LATEST = 1e9
"""Largest time stamp in seconds: up to there a float64 can distinguish microseconds."""

MOST_SCANS = 100
"""Largest number of scans of a JPEG: a progressive one has about ten; thousands take an hour to decode."""

STAMP = struct.Struct("<d")
"""The time stamp in front of a frame: float64, little-endian, seconds."""


class Raw(NamedTuple):
    """The size of raw RGB frames."""

    height: int
    width: int


def stamped(message: bytes) -> tuple[float, bytes]:
    """Time in seconds and picture from a message that begins with the time.

    Raises:
        ValueError: the message is too short, or its time is invalid.
    """
    if len(message) < STAMP.size:
        raise ValueError(f"expected a time stamp of {STAMP.size} bytes and a picture, got {len(message)} bytes")
    (time,) = STAMP.unpack_from(message)
    if not abs(time) <= LATEST:  # nor NaN
        raise ValueError(f"expected a time stamp of at most {LATEST:g} seconds, got {time}")
    return time, message[STAMP.size :]


def picture(data: bytes, raw: Raw | None, most_pixels: int) -> np.ndarray:
    """A frame, uint8 RGB ``(H, W, 3)``, upright, as a player shows it.

    Args:
        data: a JPEG; or with ``raw`` the bytes of ``(H, W, 3)``.
        raw: the size of raw frames.
        most_pixels: most pixels that a picture may have; checked before anything is decoded.

    Raises:
        ValueError: the bytes are no such picture, or it is too large, or too long and thin.
    """
    if raw is not None:
        wanted = raw.height * raw.width * 3
        if len(data) != wanted:
            raise ValueError(f"expected {raw.width} x {raw.height} x 3 = {wanted} bytes, got {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(raw.height, raw.width, 3)
    if (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise ValueError(f"expected a JPEG of at most {MOST_SCANS} scans, got {scans}")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            check_size(*image.size, most_pixels)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except ValueError:
        raise
    except Exception as error:  # whatever a metadata parser raises on invalid bytes
        raise ValueError(f"expected a JPEG, got {len(data)} bytes that are none: {error}") from error


def check_size(width: int, height: int, most_pixels: int) -> None:
    """Raises ValueError for a picture that is too large, or too long and thin."""
    if width * height > most_pixels:
        raise ValueError(f"expected a picture of at most {most_pixels} pixels, got {width} x {height}")
    if min(width, height) < 1 or max(width, height) > MOST_ELONGATED * min(width, height):
        raise ValueError(f"expected a picture at most {MOST_ELONGATED} times as long as wide, got {width} x {height}")
