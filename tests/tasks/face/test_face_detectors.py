"""Detectors of faces, by name and on pictures."""

import types

import numpy as np
import pytest
import torch

from footage import SHARED
from prernn.media.video import read_frames
from prernn.tasks.face.box import overlap
from prernn.tasks.face.detectors import cascade_detector, detector_from, yunet_detector


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
    for name in ("", "yunet", "yunet:", "cascade:x", "dlib"):
        with pytest.raises(ValueError, match='expected "cascade" or "yunet:FILE"'):
            detector_from(name)
    with pytest.raises(ValueError, match="expected YuNet's ONNX file, found none"):
        detector_from(f"yunet:{tmp_path / 'none.onnx'}")
    (tmp_path / "bad.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"bad\.onnx: expected YuNet's ONNX file"):
        detector_from(f"yunet:{tmp_path / 'bad.onnx'}")


def test_yunet_boxes(tmp_path, monkeypatch):
    """With a stand-in for OpenCV's class, as the model can't be had here: sizes, colours and boxes."""
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
