"""A network that has diverged: its outputs count as wrong everywhere, and nothing finite is lost to it."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

import prernn
from prernn.streaming.prediction import predict
from prernn.tasks.classification import answers
from prernn.tasks.clips.clip_metrics import ClipMetrics
from prernn.tasks.events.ctc_decoders import GreedyDecoder
from prernn.tasks.face.metrics import FaceMetrics
from prernn.tasks.gesture.metrics import GestureMetrics

NAN, INF = float("nan"), float("inf")


def batch_of(labels, steps):
    lengths = torch.full((len(labels),), steps)
    return {"label": torch.tensor(labels), "lengths": lengths, "path": [str(i) for i in range(len(labels))]}


def test_answers():
    scores = torch.tensor([[0.1, 0.9], [NAN, 0.9], [0.3, 0.2], [NAN, NAN], [INF, 0.1], [-INF, 0.1]])
    assert answers(scores).tolist() == [1, 2, 0, 2, 2, 1]


@pytest.mark.parametrize("value", [NAN, INF])
def test_nothing_is_right_of_a_network_of_classes_that_diverged(value):
    metrics = ClipMetrics(3)
    metrics.update(torch.full((4, 5, 3), value), batch_of([0, 0, 0, 1], 5))
    values = metrics.compute()
    assert [float(values[name]) for name in ("clip_accuracy", "frame_accuracy")] == [0, 0]
    assert values["class_accuracy"][:2].tolist() == [0, 0]
    assert values["class_accuracy"][2].isnan()
    assert torch.equal(values["confusion"], torch.zeros(3, 3, dtype=torch.int64))


def test_some_rows_alone():
    out = torch.zeros(3, 2, 2)
    out[:, :, 0] = 1.0
    out[0, 1] = NAN  # half a clip
    metrics = ClipMetrics(2)
    metrics.update(out, {**batch_of([0, 0, 1], 2), "path": ["a", "a", "b"]})
    values = metrics.compute()
    assert values["clip_accuracy"] == pytest.approx(1 / 3)
    assert values["video_accuracy"] == 0  # a clip of video a is no number
    assert values["frame_accuracy"] == pytest.approx(3 / 6)
    assert values["class_accuracy"].tolist() == [0.5, 0]
    assert values["confusion"].tolist() == [[1, 0], [1, 0]]


class Diverges(torch.nn.Module):
    """Outputs of a class, until its third picture."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.out = torch.nn.Conv2d(3, 2, 1), torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.out(torch.relu(self.fc(self.conv(x).mean((2, 3)))))


def test_a_stream_says_so_once():
    net = prernn.convert(Diverges(), "fc", image_size=(4, 4)).eval()
    stream = prernn.Stream(net)
    frame, weight = torch.ones(3, 4, 4), net.cnn.conv.weight.detach()
    kept = weight.clone()
    assert stream(frame).isfinite().all()
    weight.fill_(NAN)
    with pytest.warns(RuntimeWarning, match="not a number"):
        assert stream(frame).isnan().all()
    weight.copy_(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stream(frame).isnan().all()  # its state has no way back
    stream.reset()
    assert stream(frame).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*not a number")
def test_a_prediction_has_no_label():
    net = prernn.convert(Diverges(), "fc", image_size=(4, 4)).eval()
    net.recipe = replace(net.recipe, labels=["a", "b"])
    net.cnn.conv.weight.detach().fill_(NAN)
    found = predict([prernn.Stream(net)], 0, 0.0, torch.ones(3, 4, 4))
    assert found.label == ""
    assert math.isnan(found.probability)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_gestures_of_a_network_that_diverged_are_neither_classified_nor_detected(value):
    batch = {
        "target": torch.tensor([[1, 2], [1, 0]]),
        "intervals": torch.tensor([[[0, 8], [16, 24]], [[0, 8], [0, 0]]]),
        "lengths": torch.tensor([4, 4]),
        "frames": torch.tensor([32, 32]),
        "fps": [30.0, 30.0],
        "path": ["a", "b"],
    }
    metrics = GestureMetrics(2, GreedyDecoder(), snippet=8)
    metrics.update(torch.full((2, 4, 3), value), batch)
    values = metrics.compute()
    assert values["accuracy"] == values["detected"] == values["false_alarms"] == 0
    assert values["class_accuracy"].tolist() == [0, 0]
    assert int(values["confusion"].sum()) == 0


def test_faces_of_a_network_that_diverged_are_failures():
    points = torch.rand(1, 2, 136)
    batch = {
        "points": points,
        "truth": 100 * points.unflatten(-1, (68, 2)),
        "boxes": torch.tensor([[[0.0, 0.0, 100.0], [0.0, 0.0, 100.0]]]),
        "lengths": torch.tensor([2]),
    }
    metrics = FaceMetrics()
    metrics.update(torch.full((1, 2, 136), NAN), batch)
    values = metrics.compute()
    assert values["failure_rate"] == 1
    assert values["auc"] == 0
    assert values["nme"].isnan()
