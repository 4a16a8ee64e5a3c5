"""Pictures are written whole, for awkward inputs too."""

import numpy as np
import pytest

from prernn import plots


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_curves_and_strip_and_confusion(tmp_path):
    series = {"loss": {"a": [1.0, 0.5], "b": [1.2]}, "accuracy": {"a": [0.1, 0.9], "b": [0.3]}}
    assert is_png(plots.curves(series, tmp_path / "new" / "curves.png"))
    frames = [np.zeros((9, 7, 3), np.uint8)]
    assert is_png(plots.strip(frames, np.array([[0.2, 0.8]]), ["x", "y"], tmp_path / "strip.png"))
    assert is_png(plots.confusion(np.array([[0, 0], [1, 3]]), ["x", "y"], tmp_path / "confusion.png"))
    assert is_png(plots.confusion(np.eye(101), [str(k) for k in range(101)], tmp_path / "many.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["confusion.png", "many.png", "new", "strip.png"]


def test_more_classes_than_colours(tmp_path):
    frames = [np.zeros((8, 8, 3), np.uint8)] * 3
    labels = [str(k) for k in range(25)]
    assert is_png(plots.strip(frames, np.full((3, 25), 1 / 25), labels, tmp_path / "strip.png"))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space left"):
        plots.curves({"loss": {"a": [1.0]}}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []
