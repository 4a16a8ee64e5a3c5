"""A folder of pictures as a video."""

import math
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from prernn.media.source import IMAGE_SUFFIXES, Address, VideoError


def folder_frames(folder: Address, fps: float) -> list[tuple[float, Path]]:
    """The images of a folder with their times in seconds, in natural order: frame2 comes before frame10.

    Raises:
        ValueError: a rate that is not a positive number.
        VideoError: a folder without images.
    """
    if not 0 < fps < math.inf:
        raise ValueError(f"fps of a folder of frames: expected a rate above 0, got {fps}")
    files = [file for file in Path(str(folder)).glob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise VideoError(f"{folder}: a folder without frames (expected {', '.join(sorted(IMAGE_SUFFIXES))})")
    return [(i / fps, file) for i, file in enumerate(sorted(files, key=_natural))]


def _natural(file: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", file.name)  # every second part is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name


def load(folder: Address, file: Path) -> np.ndarray:
    """An image as it should be displayed (upright), uint8 RGB ``(H, W, 3)``; VideoError if it cannot be read."""
    try:
        with Image.open(file) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{folder}: frame {file.name} cannot be read: {error}") from error
    if mode.startswith(("I", "F")):  # converting these to 8 bits would only clip them
        raise VideoError(f"{folder}: frame {file.name}: expected 8 bits per channel, got mode {mode}")
    return np.array(upright)
