"""Predictions of a stream as rows, lines and drawings."""

import csv
import io
import itertools

import numpy as np
import pytest

from equations import close
from prernn.media import video
from prernn.streaming.drawing import annotate
from prernn.streaming.prediction import predictions
from prernn.streaming.rows import write_csv
from prernn.streaming.stream import Stream
from streamed_networks import FLOAT32, LABELS, made_up, network


def test_predictions_name_time_and_label(clip):
    net = network()
    found, stream = list(predictions(Stream(net), clip)), Stream(net)
    for index, (prediction, (time, frame)) in enumerate(zip(found, video.read_frames(clip), strict=True)):
        probabilities = stream.probabilities(frame)
        assert (prediction.index, prediction.time) == (index, pytest.approx(time))
        assert prediction.label == LABELS[probabilities.argmax()]
        assert prediction.probability == pytest.approx(probabilities.max().item())
        assert prediction.latency_ms > 0
        close(prediction.probabilities, probabilities, **FLOAT32)


def test_predictions_without_labels_and_with_wrong_ones(clip):
    net = network()
    net.recipe.labels = None
    assert {p.label for p in predictions(Stream(net), clip)} <= set("01234")
    net.recipe.labels = ["one", "two"]
    with pytest.raises(ValueError, match="expected 5 labels, one an output, got 2"):
        next(predictions(Stream(net), clip))
    with pytest.raises(ValueError, match="one stream for one source, got batch_size=2"):
        next(predictions(Stream(net, batch_size=2), clip))


def test_predictions_of_snippets(snippet_net, clip):
    (prediction,) = predictions(Stream(snippet_net), clip)
    assert (prediction.index, prediction.time) == (3, pytest.approx(0.3))


def test_csv_file(tmp_path):
    path = tmp_path / "out.csv"
    write_csv(path, (made_up(index) for index in range(3)))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["0", "1", "2"]
    assert rows[1] == {
        "frame": "1", "time_s": "0.100", "label": "a, b", "probability": "0.2500", "latency_ms": "12.35"
    }  # fmt: skip


def test_csv_file_is_complete_or_absent(tmp_path):
    path = tmp_path / "out.csv"
    with pytest.raises(KeyError):
        write_csv(path, (made_up({0: 0, 1: 1}[index]) for index in itertools.count()))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r"not written: No such file or directory: .*/absent/out.csv"):
        write_csv(tmp_path / "absent" / "out.csv", [])


def test_csv_rows_appear_at_once_in_an_open_file():
    file, lines = io.StringIO(), []

    def endless():
        for index in itertools.count():
            lines.append(file.getvalue().count("\n"))
            if index == 3:
                raise KeyboardInterrupt
            yield made_up(index)

    with pytest.raises(KeyboardInterrupt):
        write_csv(file, endless())
    assert lines == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [(480, 640), (96, 96), (400, 60), (5, 7), (1, 1)])
@pytest.mark.parametrize(
    "label", ["fade in", "a label that is much too long for any frame that is not as wide as this"]
)
def test_annotate_any_size(size, label):
    frame = np.full((*size, 3), 128, np.uint8)
    drawn = annotate(frame, made_up(label=label))
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    assert (frame == 128).all()
    assert (drawn != 128).any()
    if min(size) > 50:
        assert (drawn[size[0] // 2] == 128).all()  # the middle stays free


def test_annotate_draws_a_bar_of_the_probability():
    frame = np.zeros((100, 200, 3), np.uint8)

    def green(share):
        row = annotate(frame, made_up(probability=share))[95].astype(int)
        return ((row[:, 1] - row[:, 0]) > 50).sum()

    assert green(1.0) == pytest.approx(2 * green(0.5), abs=3)
    assert green(0.0) <= 1
    assert green(float("nan")) == 0


@pytest.mark.parametrize("frame", [np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)])
def test_annotate_wrong_frames(frame):
    with pytest.raises(ValueError, match=r"expected a frame uint8 \(H, W, 3\), got"):
        annotate(frame, made_up())
