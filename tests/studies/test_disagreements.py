"""Videos that one network gets right and another wrong: which networks, which videos, and what is written."""

import csv
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from prernn.models.from_config import NetworkSpec
from prernn.studies.comparison import disagreements
from prernn.studies.comparison.draws import once
from prernn.studies.comparison.lineup import Row
from prernn.tasks.action.task import Action
from prernn.tasks.face.task import Face
from prernn.tasks.gesture.task import Gesture
from prernn.tasks.task import Verdict

TASK = Action()


def right(*numbers, of=5):
    return {n: Verdict("a" if n in numbers else "b", "a", float(n not in numbers)) for n in range(of)}


def row(name, method, scores, verdicts):
    finals = [{"metrics": {"clip_accuracy": score}} for score in scores]
    finals[0]["verdicts"] = verdicts
    return Row(name, NetworkSpec(method=method), finals=finals)


def test_the_best_converted_network_stands_against_the_best_other():
    rows = [
        row("frame-wise", "framewise", [0.9, 0.5], right(0)),
        row("traditional", "traditional", [0.8, 0.8], right(1)),
        row("PreGRU", "prernn", [0.3, 0.3], right(2)),
        row("PreLSTM", "prernn", [0.4, 0.4], right(3)),
        row("diverged", "prernn", [math.nan, 0.9], right(4)),
    ]
    assert [each.name for each in disagreements.contestants(rows, TASK)] == ["PreLSTM", "traditional"]
    assert disagreements.contestants(rows[:2], TASK) is None
    assert disagreements.contestants([row("PreGRU", "prernn", [0.3], {}), rows[0]], TASK) is None
    rows = [row(str(k), "rcn" if k < 2 else "framewise", [0.1 * k], right(0)) for k in range(4)]
    task = Action()
    task.score = ("clip_accuracy", "min")
    assert [each.name for each in disagreements.contestants(rows, task)] == ["0", "2"]


def test_where_they_differ():
    one, other = right(0, 1, 3), right(1, 4)
    assert disagreements.disagreements(one, other) == [0, 3, 4]
    degrees = [{n: Verdict("", "", error) for n, error in enumerate(values)} for values in ((1, 2, 3), (4, 2, 1))]
    assert disagreements.disagreements(*degrees) == [0, 2]
    assert disagreements.disagreements(one, one) == []


@dataclass
class Record:
    path: str


class Videos:
    """Items with frames of noise."""

    def __init__(self, shape):
        self.shape, self.records = shape, [Record(f"/{n}.mp4") for n in range(5)]

    def __getitem__(self, number):
        return {"input": torch.randn(self.shape, generator=torch.Generator().manual_seed(number))}


SHAPES = {"color": (7, 3, 8, 8), "two frames": (2, 3, 8, 8), "flow": (4, 20, 8, 8), "snippets": (3, 3, 8, 9, 9)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_table_and_a_picture_are_written(shape, tmp_path):
    points = np.random.default_rng(0).random((shape[0], 68, 2))
    both = right(0, 1, 3), {n: verdict._replace(points=points) for n, verdict in right(1, 4).items()}
    rows = [row("PreGRU", "prernn", [0.6], both[0]), row("traditional GRU", "traditional", [0.4], both[1])]
    disagreements.write(rows, Videos(shape), TASK, tmp_path)
    with open(tmp_path / "disagreements.csv") as lines:
        found = list(csv.DictReader(lines))
    assert [line["path"] for line in found] == ["/0.mp4", "/3.mp4", "/4.mp4"]
    assert found[2] == {"path": "/4.mp4", "true": "a", "PreGRU": "b", "traditional GRU": "a"}
    assert (tmp_path / "disagreements.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_of_networks_that_agree(tmp_path):
    rows = [row(name, name, [0.5], right(0)) for name in ("prernn", "traditional")]
    disagreements.write(rows, Videos((2, 3, 8, 8)), TASK, tmp_path)
    assert not list(tmp_path.iterdir())


def test_each_task_says_what_is_right():
    action = Action()
    action.labels = ["jump", "run"]
    out = torch.tensor([[[2.0, 1.0]], [[2.0, 1.0]]])
    batch = {"label": torch.tensor([0, 1]), "lengths": torch.tensor([1, 1]), "path": ["a", "b"]}
    assert action.verdicts(out, batch) == [Verdict("jump", "jump", 0.0), Verdict("jump", "run", 1.0)]
    face, generator = Face(), torch.Generator().manual_seed(0)
    points = torch.rand(1, 3, 136, generator=generator) - 0.5
    boxes = torch.tensor([10.0, 10.0, 110.0, 110.0]).expand(1, 3, 4)
    truth = points.view(1, 3, 68, 2) * 100 + 60
    batch = {"truth": truth, "boxes": boxes, "lengths": torch.tensor([2]), "path": ["a"]}
    (verdict,) = face.verdicts(points, batch)
    assert verdict.error == pytest.approx(0, abs=1e-5)
    assert verdict.points.shape == (2, 68, 2)
    assert np.abs(verdict.points - (truth[0, :2].numpy() - 10) / 100).max() < 1e-6
    assert face.verdicts(points + 0.1, batch)[0].error > 0.05
    gesture = Gesture(snippet=1)
    gesture.labels = ["no gesture", "left", "right"]
    batch = {
        "target": torch.tensor([[2]]),
        "intervals": torch.tensor([[[0, 3]]]),
        "frames": torch.tensor([3]),
        "lengths": torch.tensor([3]),
        "path": ["a"],
    }
    for label, error in ((1, 1.0), (2, 0.0)):
        out = torch.zeros(1, 3, 3)
        out[:, 1, label] = 9
        assert gesture.verdicts(out, batch) == [Verdict(gesture.labels[label], "right", error)]


def test_the_training_set_is_looked_at_in_its_first_pass():
    items = [{"number": number, "pass": way} for way in range(3) for number in (4, 1, 2)]
    assert once(items) == items[:3]
