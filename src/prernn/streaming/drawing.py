"""Draws an answer on a frame, and the events of the last seconds."""

import functools
import hashlib
from collections.abc import Iterable

import numpy as np

from prernn.streaming.events import EventSpan
from prernn.streaming.prediction import Prediction

SHOWN_SECONDS = 10.0
"""How far back the timeline goes."""


def annotate(frame: np.ndarray, prediction: Prediction) -> np.ndarray:
    """A copy of a uint8 ``(H, W, 3)`` frame with the label, its probability and a bar at the bottom, latency on top.

    Raises:
        ValueError: the frame has another dtype or shape.
    """
    from PIL import Image, ImageDraw

    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"expected a frame uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    height, width, _ = frame.shape
    size = _letters(height, width)
    margin, font = size // 3, _font(size)
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    top = _answer_top(height, width)
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


def _letters(height: int, width: int) -> int:
    """Font size, in pixels."""
    return max(10, round(min(height, width) / 16))


def _answer_top(height: int, width: int) -> int:
    """The upper edge of the band with the answer, in pixels from the top."""
    size = _letters(height, width)
    return height - 2 * size - size // 3


class EventStrip:
    """The events of the last seconds as a strip above the answer that `annotate` draws; its right end is now.

    A label always has the same color, and its name is written in its span if there is room.
    """

    def __init__(self, seconds: float = SHOWN_SECONDS) -> None:
        self.seconds = seconds
        self._spans: dict[tuple[str, float], EventSpan] = {}  # by label and start, because the end comes later

    def add(self, events: Iterable[EventSpan]) -> None:
        """Adds events that have begun or ended."""
        self._spans |= {(event.label, event.start): event for event in events}

    def draw(self, frame: np.ndarray, now: float) -> np.ndarray:
        """A copy of a uint8 ``(H, W, 3)`` frame with the strip at ``now`` seconds; forgets events that are too old."""
        from PIL import Image, ImageDraw

        first = now - self.seconds
        self._spans = {key: event for key, event in self._spans.items() if event.end is None or event.end > first}
        height, width, _ = frame.shape
        bottom, strip = _answer_top(height, width), max(4, height // 24)
        size = height // 30
        font = _font(max(1, size))
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image, "RGBA")
        draw.rectangle((0, bottom - strip, width, bottom - 1), fill=(0, 0, 0, 170))
        for event in self._spans.values():
            left, right = (
                round((min(max(time, first), now) - first) / self.seconds * width)
                for time in (event.start, now if event.end is None else event.end)
            )
            box = (left, bottom - strip, max(left, right - 1), bottom - 1)
            draw.rectangle(box, fill=(*_color(event.label), 255))
            if size >= 8 and right - left > font.getlength(event.label) + 4:  # smaller text can't be read
                draw.text((left + 2, bottom - strip / 2), event.label, "black", font, anchor="lm")
        return np.array(image)


def _color(label: str) -> tuple[int, int, int]:
    """A light color, the same for a label in every process."""
    import colorsys

    hue = hashlib.blake2b(label.encode(), digest_size=1).digest()[0] / 256
    red, green, blue = colorsys.hls_to_rgb(hue, 0.65, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


@functools.cache
def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitted(text: str, width: float, font) -> str:
    """The text, truncated if it is wider than ``width`` pixels."""
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
