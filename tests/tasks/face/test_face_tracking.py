"""A face followed through a stream: found, tracked, lost and found again."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from equations import close
from footage import face
from prernn.conversion.convert import convert
from prernn.conversion.recipe import KeptTask, Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.media.encoding import write_video
from prernn.media.video import read_frames
from prernn.streaming.stream import Stream
from prernn.tasks.face.box import face_box
from prernn.tasks.face.landmarks import write_pts
from prernn.tasks.face.smoothing import Smoothing, smooth
from prernn.tasks.face.task import Face
from prernn.tasks.face.videos import FaceVideo
from prernn.tasks.face.watcher import FaceWatcher
from small_cnns import FcNet

SIZE = 64
HEIGHT, WIDTH = 120, 200


def recipe(**options):
    task = Face(**options)
    task.transform = {"size": SIZE, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return task.noted(Recipe())


class DiscNet(SequenceNetwork):
    """Sees a bright disc as a face that fills it, from its middle and spread; its state counts the frames."""

    state_names = ()

    def __init__(self):
        super().__init__((3, SIZE, SIZE))
        self.weight = nn.Parameter(torch.ones(()))
        self.recipe = recipe()
        self.states, self.inputs = [], []

    def step(self, frame, state):
        self.states.append(state)
        self.inputs.append(frame[0].clone())
        light = frame[0, 0]
        place = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
        x, y = light.sum(0), light.sum(1)
        middle = torch.stack([(x * place).sum(), (y * place).sum()]) / light.sum()
        spread = ((x * (place - middle[0]) ** 2).sum() / light.sum()).sqrt()
        points = middle + 2 * spread * face().float()
        return points.flatten()[None], 1 if state is None else state + 1


def disc(x, y, radius=20.0):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)
    return np.repeat((255 * inside).astype(np.uint8)[..., None], 3, 2)


class Finder:
    """A detector that sees the light of a frame, for as long as it is told to, and counts its calls."""

    def __init__(self, sees=True):
        self.sees, self.calls = sees, 0

    def __call__(self, frame):
        self.calls += 1
        rows, columns = np.nonzero(frame[..., 0] > 128)
        if not self.sees or not len(rows):
            return []
        return [(columns.min(), rows.min(), columns.max(), rows.max())]


def watch(places, finder=None, **options):
    """The rows of a disc at ``places`` (x, y, radius; None for a black picture), and the network and detector."""
    net, finder = DiscNet(), finder or Finder()
    watcher = FaceWatcher(net, detector=finder, **options)
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows = []
    for i, place in enumerate(places):
        frame = black if place is None else disc(*place)
        rows += watcher.see(i, i / 25, frame)
        drawn = watcher.draw(frame)
        assert drawn is not frame
        assert np.array_equal(drawn, frame) == (rows[-1]["points"] is None)
    assert watcher.finish() == []
    assert [row["frame"] for row in rows] == list(range(len(places)))
    return rows, net, finder


def follows(row, x, y, radius=20.0):
    """Whether the row's points are those of the disc, to half a pixel."""
    wanted = radius * face().numpy() + (x, y)
    return np.abs(np.array(row["points"]) - wanted).max() < 0.5


def test_a_face_is_found_once_and_then_tracked():
    places = [(60 + 2 * t, 50 + t, 20 - 0.2 * t) for t in range(10)]
    rows, net, finder = watch(places, check_every=None)
    assert all(follows(row, *place) for row, place in zip(rows, places, strict=True))
    assert [row["tracked"] for row in rows] == [False] + 9 * [True]
    assert finder.calls == 1
    assert net.states == [None, None, *range(1, 10)]  # the first frame twice, then one state all along
    assert set(rows[0]) == set(rows[1]) == {"frame", "time_s", "points", "box", "tracked", "latency_ms"}
    assert set(rows[2]) == set(rows[9]) == {*rows[0], "tremble"}
    assert all(row["tremble"] < 0.02 for row in rows[2:])  # even motion, but for the pixels
    assert np.array(rows[0]["points"]).shape == (68, 2)
    assert rows[3]["time_s"] == 3 / 25
    json.dumps(rows)


def test_smoothing_filters_what_is_told_and_not_where_the_face_is_looked_for():
    places = [(60 + 3 * (t % 2), 50, 20) for t in range(8)]
    plain, *_ = watch(places, check_every=None)
    rows, *_ = watch(places, check_every=None, smoothing=Smoothing(1.0, 0.0))
    points = torch.tensor([row["points"] for row in plain], dtype=torch.float64)
    sides = torch.tensor([row["box"][2] - row["box"][0] for row in plain], dtype=torch.float64)
    wanted = smooth(points, torch.arange(8) / 25, sides, Smoothing(1.0, 0.0))
    close(torch.tensor([row["points"] for row in rows], dtype=torch.float64), wanted, atol=0.02)
    assert [row["box"] for row in rows] == [row["box"] for row in plain]
    assert all(row["tremble"] < 0.3 * other["tremble"] for row, other in zip(rows[2:], plain[2:], strict=True))


def test_a_lost_face_begins_a_new_filter():
    rows, *_ = watch([(60, 50), (60, 50), None, (140, 60), (140, 60)], smoothing=Smoothing(0.1, 0.0))
    assert follows(rows[3], 140, 60)
    assert follows(rows[4], 140, 60)
    assert "tremble" not in rows[4]


def test_a_network_that_learned_in_boxes_that_stand_keeps_its_box():
    net, black = DiscNet(), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    net.recipe = recipe(box="first")
    watcher = FaceWatcher(net, detector=Finder(), check_every=None)
    places = [(60 + 2 * t, 50) for t in range(12)]
    rows = [watcher.see(t, t / 25, disc(*place))[0] for t, place in enumerate(places)]
    assert all(follows(row, *place) for row, place in zip(rows, places, strict=True))
    boxes = [row["box"] for row in rows]
    moved = [t for t in range(1, 12) if boxes[t] != boxes[t - 1]]
    assert 1 <= len(moved) <= 4
    assert [t for t in range(1, 12) if net.states[t + 1] is None] == moved  # the first frame was looked at twice
    assert watcher.see(12, 0.5, black)[0]["points"] is None


def test_the_box_is_that_of_the_points_before():
    rows, *_ = watch([(60, 50), (64, 52), (66, 54)], check_every=None)
    for before, row in pairwise(rows):
        wanted = face_box(torch.tensor(before["points"]), 0.2)
        close(torch.tensor(row["box"]), wanted, atol=0.02)


def test_no_face_no_points():
    rows, net, finder = watch([None, None, (60, 50), None, None])
    assert [row["points"] is None for row in rows] == [True, True, False, True, True]
    assert rows[0] == {"frame": 0, "time_s": 0.0, "points": None}
    assert finder.calls == 5
    assert len(net.states) == 3  # no network where there is no face; at the fourth frame it sees that there is none


LOST = {
    "it jumps": ((60, 50), (150, 50)),
    "it moves by more than half its box": ((60, 50), (91, 50)),
    "it grows": ((90, 55, 15), (90, 55, 50)),
    "it shrinks": ((90, 55, 40), (90, 55, 15)),
}


@pytest.mark.parametrize("case", LOST)
def test_a_lost_face_is_found_again_in_the_same_frame(case):
    first, second = LOST[case]
    rows, net, finder = watch([first, first, second, second], check_every=None)
    assert [row["tracked"] for row in rows] == [False, True, False, True]
    assert follows(rows[2], *second)
    assert follows(rows[3], *second)
    assert finder.calls == 2
    assert net.states == [None, None, 1, 2, None, None, 1]


def test_a_source_that_changes_its_size_is_looked_at_anew():
    net, finder = DiscNet(), Finder()
    watcher = FaceWatcher(net, detector=finder, check_every=None)
    wider = np.pad(disc(60, 50), ((0, 0), (0, 40), (0, 0)))
    rows = [watcher.see(i, i / 25, frame)[0] for i, frame in enumerate([disc(60, 50)] * 2 + [wider] * 2)]
    assert [row["tracked"] for row in rows] == [False, True, False, True]
    assert all(follows(row, 60, 50) for row in rows)
    assert net.states == [None, None, 1, None, None, 1]


def test_a_face_that_leaves_the_picture_is_lost():
    """Of a disc that goes out at the left, until there is nothing for the detector."""
    rows, *_ = watch([(40 - 6 * t, 60) for t in range(14)], check_every=None)
    seen = [row["points"] is not None for row in rows]
    assert seen[:6] == 6 * [True]
    assert seen[-2:] == [False, False]


class ScriptedNet(DiscNet):
    """Says where the next box is, whatever it sees: moved by so many sides of this one, and so many times as large."""

    def __init__(self, *moves):
        super().__init__()
        self.moves = iter(moves)

    def step(self, frame, state):
        (x, y), scale = next(self.moves)
        box = face_box(face(), 0.2)
        centered = (face() - (box[:2] + box[2:]) / 2) / (box[2] - box[0])
        return (centered * scale + torch.tensor([x, y])).float().flatten()[None], None


STAY = ((0.0, 0.0), 1.0)
STEPS = [
    ((0.3, 0.38), 1.0, True),
    ((0.3, 0.42), 1.0, False),
    ((-0.3, -0.42), 1.0, False),
    ((0.0, 0.0), 1.45, True),
    ((0.0, 0.0), 1.55, False),
    ((0.0, 0.0), 0.7, True),
    ((0.0, 0.0), 0.65, False),
    ((math.nan, 0.0), 1.0, False),
]


@pytest.mark.parametrize(("move", "scale", "kept"), STEPS)
def test_how_far_a_face_may_move_and_grow(move, scale, kept):
    net = ScriptedNet(STAY, STAY, (move, scale), STAY, STAY)
    watcher = FaceWatcher(net, detector=lambda frame: [(80, 40, 120, 80)], check_every=None)
    rows = [row for i in range(2) for row in watcher.see(i, 0.0, disc(100, 60))]
    assert [row["tracked"] for row in rows] == [False, kept]


@pytest.mark.parametrize(("step", "kept"), [(-0.33, True), (-0.36, False)])
def test_how_far_a_face_may_leave_the_picture(step, kept):
    """A box of 56 pixels from x = 8 on: half of it is outside after 36.5 pixels, which is 0.652 of its side."""
    net = ScriptedNet(STAY, STAY, ((step, 0.0), 1.0), ((-0.31, 0.0), 1.0))
    boxes = [[(16, 40, 56, 80)], []]
    watcher = FaceWatcher(net, detector=lambda frame: boxes.pop(0), check_every=None)
    rows = [row for i in range(3) for row in watcher.see(i, 0.0, disc(40, 60))]
    assert rows[1]["tracked"]
    assert (rows[2]["points"] is not None) == kept


@pytest.mark.parametrize(("sees", "lost_at"), [(False, 6), (True, None)])
def test_the_detector_confirms_what_is_tracked(sees, lost_at):
    """The network would see a face in the disc for ever; the detector no longer does after the first frame."""
    finder = Finder()
    net = DiscNet()
    watcher = FaceWatcher(net, detector=finder, check_every=3, patience=2)
    rows = watcher.see(0, 0.0, disc(60, 50))
    finder.sees = sees
    for i in range(1, 10):
        rows += watcher.see(i, i / 25, disc(60, 50))
    missing = [row["frame"] for row in rows if row["points"] is None]
    assert missing == ([] if lost_at is None else list(range(lost_at, 10)))


def test_one_check_with_a_face_makes_up_for_those_without():
    finder = Finder()
    watcher = FaceWatcher(DiscNet(), detector=finder, check_every=1, patience=2)
    for i in range(12):
        finder.sees = i % 2 == 0
        (row,) = watcher.see(i, 0.0, disc(60, 50))
        assert row["points"] is not None


def test_a_face_elsewhere_does_not_confirm():
    watcher = FaceWatcher(DiscNet(), detector=Finder(), check_every=1, patience=1)
    watcher.see(0, 0.0, disc(60, 50))
    watcher.detector = lambda frame: [(140, 30, 180, 70)]  # nothing there: the network sees black
    (row,) = watcher.see(1, 0.0, disc(60, 50))
    assert row["points"] is None


def test_the_largest_of_several_faces():
    both = np.maximum(disc(40, 50, 12), disc(140, 60, 25))
    watcher = FaceWatcher(DiscNet(), detector=lambda frame: [(28, 38, 52, 62), (115, 35, 165, 85)])
    (row,) = watcher.see(0, 0.0, both)
    assert follows(row, 140, 60, 25)


def test_a_detector_with_generous_boxes_will_do():
    """Boxes twice as large as the landmarks', as of a whole head: the second look puts it right."""
    watcher = FaceWatcher(DiscNet(), detector=lambda frame: [(20, 5, 110, 95)])
    (row,) = watcher.see(0, 0.0, disc(60, 50))
    assert follows(row, 60, 50)
    close(torch.tensor(row["box"]), face_box(20 * face().float() + torch.tensor([60.0, 50.0]), 0.2), atol=1.0)


def test_the_network_sees_what_it_saw_in_evaluation(tmp_path):
    points = 20 * face() + torch.tensor([60.0, 50.0])
    chance = np.random.default_rng(0)
    folder = tmp_path / "x"
    folder.mkdir()
    frame = chance.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_video(folder / "vid.mp4", [frame], 25)
    (folder / "vid.mp4").rename(folder / "vid.avi")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "vid.avi").touch()
    write_pts(folder / "annot" / "000001.pts", points)
    spec = {"size": SIZE, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    task = Face(margin=0.35)
    task.open(tmp_path, spec)
    item = task.read(FaceVideo(str(folder / "vid.avi")), None)
    net = DiscNet()
    net.recipe = Recipe.from_json(json.loads(json.dumps(task.noted(Recipe()).to_json())))
    tight = face_box(points, 0.0).tolist()
    _, decoded = next(iter(read_frames(folder / "vid.avi")))
    FaceWatcher(net, detector=lambda frame: [tight]).see(0, 0.0, decoded)
    close(net.inputs[0], item["input"][0], atol=1e-4)


def test_a_converted_network_follows_a_still_face():
    """One whose outputs are always a face in the middle of its box stays where the detector put it."""
    net = convert(FcNet(classes=136).eval(), "fc7", cell="gru").eval()
    net.recipe = recipe()
    output = net.output_layer
    with torch.no_grad():
        output.weight.zero_()
        box = face_box(face(), 0.2)
        output.bias.copy_(((face() - (box[:2] + box[2:]) / 2) / (box[2] - box[0])).flatten())
    watcher = FaceWatcher(Stream(net), detector=lambda frame: [(40, 30, 80, 70)], check_every=None)
    rows = [row for i in range(4) for row in watcher.see(i, 0.0, disc(60, 50))]
    assert [row["tracked"] for row in rows] == [False, True, True, True]
    for row in rows:
        close(torch.tensor(row["box"]), torch.tensor([32.0, 22.0, 88.0, 78.0]), atol=0.1)


def test_networks_and_options_that_do_not_fit():
    net = DiscNet()
    net.recipe = Recipe(task=KeptTask("action"), transform={})
    with pytest.raises(ValueError, match="task 'face', got one of 'action'"):
        FaceWatcher(net)
    with pytest.raises(ValueError, match="batch_size=2"):
        FaceWatcher(Stream(DiscNet(), batch_size=2), detector=Finder())
    for bad in ({"check_every": 0}, {"patience": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            FaceWatcher(DiscNet(), detector=Finder(), **bad)
    for box in ((1, 2, 3), (5, 5, 5, 9), (0, 0, math.nan, 9)):
        with pytest.raises(ValueError, match="detector: expected boxes"):
            FaceWatcher(DiscNet(), detector=lambda frame, box=box: [box]).see(0, 0.0, disc(60, 50))


def test_landmarks_that_drift_into_a_part_of_the_face_are_found_out():
    watcher = FaceWatcher(DiscNet(), detector=Finder(), check_every=1, patience=3)
    frame = disc(100, 60, 40)
    watcher.see(0, 0.0, frame)
    assert watcher._confirmed(frame)
    middle = watcher.points.mean(0)
    watcher.points = middle + 0.3 * (watcher.points - middle)
    assert not watcher._confirmed(frame)
    watcher.detector = lambda frame: [(0, 0, 30, 30)]  # somebody else: this one may just not be seen
    assert watcher._confirmed(frame)


class CreepingNet(DiscNet):
    """Gives the same points in every box, a little smaller or larger than those that the box is made of."""

    def __init__(self, factor):
        super().__init__()
        points = face().float()
        middle = (points.amin(0) + points.amax(0)) / 2
        side = face_box(points.double(), self.recipe.task.options["margin"])
        self.points = factor * (points - middle) / float(side[2] - side[0])

    def step(self, frame, state):
        return self.points.flatten()[None], 1


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_box_that_creeps_is_found_anew(factor):
    """Each step is a small one, but a network that errs to one side would end in a dot, or beyond the picture."""
    finder = Finder()
    watcher = FaceWatcher(CreepingNet(factor), detector=finder, check_every=None)
    rows = [row for i in range(60) for row in watcher.see(i, i / 25, disc(100, 60, 20))]
    sides = [row["box"][2] - row["box"][0] for row in rows]
    assert finder.calls == 3  # 23 steps of 3 % make a factor of 2
    assert max(sides) < 2.2 * min(sides)


def test_a_stream_smooths_as_the_run_does_unless_it_is_told_otherwise():
    task = Face(smooth=Smoothing(2.0, 3.0))
    assert task.watcher(DiscNet()).smoothing == Smoothing(2.0, 3.0)
    assert task.watcher(DiscNet(), smooth="1,10").smoothing == Smoothing(1.0, 10.0)
    assert task.watcher(DiscNet(), smooth="none").smoothing is None
    assert Face().watcher(DiscNet()).smoothing is None
