"""Optical flow for the temporal stream of two-stream networks: computed in advance, or on the fly in a stream.

The flow between two frames says for every pixel how far it moved in x and y. Simonyan and Zisserman, "Two-Stream
Convolutional Networks for Action Recognition in Videos", NIPS 2014, stack the flow of ten frames as the 20 input
channels of a CNN. PreRNN (section 4.3) does the same with the TV-L1 method: Zach, Pock and Bischof, "A Duality Based
Approach for Realtime TV-L1 Optical Flow", DAGM 2007.

Flow is stored as uint8: ``128 + 127 v / bound``, rounded, for v pixels between two frames, clipped to ``+-bound``.
A frame's flow is the motion since the previous frame, zero for the first. So it never depends on later frames, and a
video has as many flow frames as frames.

A cache holds one Matroska file per video, of grey pictures ``(2H, W)`` with x above y, compressed losslessly with FFV1,
so a stream and a cache give exactly the same numbers. The settings are in the file's metadata.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

STILL = 128
"""The stored value for no motion."""


@dataclass(frozen=True)
class FlowSettings:
    """How flow is computed; stored in every cache file.

    Attributes:
        short_side: frames are first shrunk so that their shorter side has this many pixels; None leaves them as they
            are. Flow is in pixels of the shrunk frames.
        bound: flow is clipped to this many pixels per frame in either direction; a level of uint8 is bound / 127
            pixels.
        method: "tvl1", OpenCV's TV-L1 with its default parameters.

    Raises:
        ValueError: a number out of range, or another method.
    """

    short_side: int | None = 256
    bound: float = 20.0
    method: Literal["tvl1"] = "tvl1"

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"flow short_side: expected at least 1 pixel, got {self.short_side}")
        if not 0 < self.bound < float("inf"):
            raise ValueError(f"flow bound: expected pixels above 0, got {self.bound}")
        if self.method != "tvl1":
            raise ValueError(f'flow method: expected "tvl1", got {self.method!r}')
        object.__setattr__(self, "bound", float(self.bound))  # so that 20 and 20.0 are written the same way


def flow_frames(frames: Iterable[np.ndarray], settings: FlowSettings) -> Iterator[np.ndarray]:
    """Yields for every uint8 RGB frame ``(H, W, 3)`` the flow since the previous one, uint8 ``(h, w, 2)``: x, then y.

    ``h``, ``w`` are the size after shrinking. The first frame's flow is all 128, that is, no motion.

    Raises:
        ValueError: a frame that is not uint8 ``(H, W, 3)``, or differs in shape from the first.
    """
    flow = Flow(settings)
    for frame in frames:
        yield flow(frame)


class FlowStack:
    """The stacked flow of a stream, frame by frame: from uint8 RGB ``(H, W, 3)`` to uint8 ``(h, w, 2 stack)``.

    The stack is the flow of this frame and of the ``stack - 1`` frames before it, oldest first, x and y alternating,
    with 128 before the first frame: the same as `read_flow_clip` gives for this frame, but with channels last.

    Raises:
        ValueError: a stack below 1; when called, a bad frame as in `flow_frames`.
    """

    def __init__(self, settings: FlowSettings, stack: int = 10) -> None:
        check_stack(stack)
        self._flow = Flow(settings)
        self._latest: deque[np.ndarray] = deque(maxlen=stack)
        self._stack = stack

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self._latest.append(self._flow(frame))
        missing = [np.full_like(self._latest[0], STILL)] * (self._stack - len(self._latest))
        return np.concatenate([*missing, *self._latest], axis=2)  # (h, w, 2 stack)


class Flow:
    """Flow from each frame to the next, frame by frame."""

    def __init__(self, settings: FlowSettings) -> None:
        import cv2

        if not hasattr(cv2, "optflow"):
            raise ImportError("TV-L1 flow needs OpenCV's contrib modules: pip install opencv-contrib-python-headless")
        self.settings = settings
        self.method = cv2.optflow.DualTVL1OpticalFlow_create()  # type: ignore[attr-defined]  # of contrib
        self.shape: tuple[int, ...] | None = None
        self.before: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        shape = self.shape or (*frame.shape[:2], 3)
        if frame.dtype != np.uint8 or frame.shape != shape:
            raise ValueError(f"flow: expected a uint8 frame {shape}, got {frame.dtype} {frame.shape}")
        self.shape = shape
        before, self.before = self.before, self._shrunk_grey(frame)
        if before is None:
            return np.full((*self.before.shape, 2), STILL, np.uint8)
        # pixels between the frames (h, w, 2), x first
        return _quantized(self.method.calc(before, self.before, None), self.settings.bound)

    def _shrunk_grey(self, frame: np.ndarray) -> np.ndarray:
        import cv2

        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)  # (H, W)
        height, width = grey.shape
        side, short = self.settings.short_side, min(height, width)
        if side is None or short <= side:
            return grey
        size = (round(width * side / short), round(height * side / short))
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)  # (h, w)


def _quantized(flow: np.ndarray, bound: float) -> np.ndarray:
    """Pixels to uint8, 1 to 255: the range is symmetric, so that mirrored flow can be stored exactly."""
    clipped = np.clip(np.nan_to_num(flow, nan=0.0), -bound, bound)
    return (STILL + np.rint(clipped * (127 / bound))).astype(np.uint8)


def check_stack(stack: int) -> None:
    """Raises ValueError for a stack of less than one frame."""
    if stack < 1:
        raise ValueError(f"flow stack: expected at least 1 frame, got {stack}")
