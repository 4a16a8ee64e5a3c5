"""An answer drawn on a frame."""

import functools

import numpy as np

from prernn.streaming.prediction import Prediction


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
