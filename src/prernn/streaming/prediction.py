"""What a network says of a frame, and how to put it on record: as a row of a CSV file, or on the frame itself."""

import contextlib
import csv
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from torch import Tensor

from prernn.reports.files import whole_file


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says at one moment.

    index: of the frame in its source, from 0; of a snippet, that of its last frame.
    time: of that frame, in seconds since the first.
    label: the most probable one, its number where the network has no labels.
    probability: of that label.
    latency_ms: milliseconds for transform and network.
    probabilities: of all labels, float32 ``(K,)`` on the CPU.
    """

    index: int
    time: float
    label: str
    probability: float
    latency_ms: float
    probabilities: Tensor


def write_csv(target: str | os.PathLike | TextIO, predictions: Iterable[Prediction]) -> None:
    """Writes one row a prediction: index, time_s, label, probability, latency_ms.

    To a path, the file appears under its name only when it is complete. To an open text file, such as
    ``sys.stdout``, each row appears at once, which suits a source without end.

    Raises:
        OSError: the file can't be written.
    """
    with csv_rows(target) as write:
        for prediction in predictions:
            write(prediction)


@contextlib.contextmanager
def csv_rows(target: str | os.PathLike | TextIO) -> Iterator[Callable[[Prediction], None]]:
    """Gives a function that writes a prediction's row to ``target``; paths and files as in `write_csv`."""
    with _lines(target) as line:
        line("index", "time_s", "label", "probability", "latency_ms")
        yield lambda p: line(str(p.index), f"{p.time:.3f}", p.label, f"{p.probability:.4f}", f"{p.latency_ms:.2f}")


@contextlib.contextmanager
def json_rows(target: str | os.PathLike | TextIO) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that writes a dict as one line of JSON to ``target``; paths and files as in `write_csv`."""
    with _lines(target) as line:
        yield lambda row: line(json.dumps(row))


@contextlib.contextmanager
def _lines(target: str | os.PathLike | TextIO) -> Iterator[Callable[..., None]]:
    """Gives a function that writes one line of cells, at once in an open file."""
    if not isinstance(target, str | os.PathLike):
        yield _line_writer(target)
        return
    path = Path(target)
    with whole_file(path) as part:
        with _naming(path):
            file = open(part, "w", newline="", encoding="utf-8")  # noqa: SIM115 (closed below)
        with file:
            yield _naming(path)(_line_writer(file))


def _line_writer(file: TextIO) -> Callable[..., None]:
    rows = csv.writer(file, lineterminator="\n")

    def write(*cells: str) -> None:
        if len(cells) == 1:  # a line as it is
            file.write(cells[0] + "\n")
        else:
            rows.writerow(cells)
        file.flush()

    return write


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets an OSError name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error


def annotate(frame: np.ndarray, prediction: Prediction) -> np.ndarray:
    """A copy of a uint8 ``(H, W, 3)`` frame with label, probability and its bar below, latency above.

    Raises:
        ValueError: a frame of another dtype or shape.
    """
    from PIL import Image, ImageDraw

    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"expected a frame uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    height, width, _ = frame.shape
    size = max(10, round(min(height, width) / 16))  # of the letters, in pixels
    margin, font = size // 3, _font(size)
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    top = height - 2 * size - margin
    draw.rectangle((0, top, width, height), fill=(0, 0, 0, 170))
    percent = f"{prediction.probability:.0%}"
    right = width - margin - font.getlength(percent)
    draw.text((right, top + size), percent, "white", font, anchor="lm")
    label = _fitted(prediction.label, right - 2 * margin, font)
    draw.text((margin, top + size), label, "white", font, anchor="lm")
    _draw_bar(draw, (margin, height - margin - size // 3, width - margin, height - margin), prediction.probability)
    latency = f"{prediction.latency_ms:.1f} ms"
    left = width - 2 * margin - font.getlength(latency)
    draw.rectangle((left, 0, width, size + margin), fill=(0, 0, 0, 170))
    draw.text((left + margin, (size + margin) / 2), latency, "white", font, anchor="lm")
    return np.array(image)


@functools.cache
def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitted(text: str, width: float, font) -> str:
    """The text, cut off where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _draw_bar(draw, box: tuple[int, int, int, int], share: float) -> None:
    left, top, right, bottom = box
    if right <= left or not 0 <= share <= 1:
        return  # a frame narrower than its margins, or the NaN of a network that has diverged
    draw.rectangle(box, fill=(255, 255, 255, 80))
    draw.rectangle((left, top, left + round((right - left) * share), bottom), fill=(90, 200, 120, 255))
