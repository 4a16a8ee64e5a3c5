"""From a picture to a network's input, as in the evaluation transform of `prernn.media.transforms`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

FLOW_MEAN, FLOW_STD = 128 / 255, 0.226
"""Defaults for optical flow as prernn stores it, if the transform has none."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in the luma of BT.601, as in torchvision."""


def frame_transform(spec: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from one uint8 frame ``(H, W, C)`` to float32 ``(C, size, size)``.

    It resizes the shorter side, crops the center, and computes ``(x / 255 - mean) / std`` in each channel.

    Args:
        spec: the "transform" in a file's metadata.
    """
    size = int(spec.get("size", 224))
    shorter = int(spec.get("resize") or size)
    flow, grey = bool(spec.get("flow", False)), bool(spec.get("grey", False))
    mean = np.float32(spec.get("mean", FLOW_MEAN if flow else (0.485, 0.456, 0.406)))
    std = np.float32(spec.get("std", FLOW_STD if flow else (0.229, 0.224, 0.225)))

    def transform(frame: np.ndarray) -> np.ndarray:
        if frame.dtype != np.uint8 or frame.ndim != 3:
            raise ValueError(f"frame: expected uint8 (H, W, C), got {frame.dtype} {frame.shape}")
        if 0 in frame.shape or (frame.shape[2] != 3 and not flow):
            raise ValueError(f"frame: expected a picture (H, W, 3), got shape {frame.shape}")
        picture = _cut(_resized(frame, shorter), size)
        if grey:
            picture = _grey(picture)
        scaled = picture.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1))

    return transform


def _resized(frame: np.ndarray, shorter: int) -> np.ndarray:
    height, width, channels = frame.shape
    if height <= width:
        new_height, new_width = shorter, int(shorter * width / height)
    else:
        new_height, new_width = int(shorter * height / width), shorter
    if (new_height, new_width) == (height, width):
        return frame
    how = (new_width, new_height), Image.Resampling.BILINEAR
    if channels == 3:
        return np.asarray(Image.fromarray(frame).resize(*how))
    planes = [np.asarray(Image.fromarray(np.ascontiguousarray(frame[..., c])).resize(*how)) for c in range(channels)]
    return np.stack(planes, axis=2)


def _cut(picture: np.ndarray, size: int) -> np.ndarray:
    """The center, padded with black if the picture is smaller."""
    height, width = picture.shape[:2]
    if height < size or width < size:
        left, top = max((size - width) // 2, 0), max((size - height) // 2, 0)
        right, bottom = max((size - width + 1) // 2, 0), max((size - height + 1) // 2, 0)
        picture = np.pad(picture, ((top, bottom), (left, right), (0, 0)))
        height, width = picture.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return picture[top : top + size, left : left + size]


def _grey(picture: np.ndarray) -> np.ndarray:
    red, green, blue = (picture[..., c].astype(np.float32) * np.float32(LUMA[c]) for c in range(3))
    return np.repeat((red + green + blue).astype(np.uint8)[..., None], 3, axis=2)
