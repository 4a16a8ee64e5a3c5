"""``examples/people.py``: two faces, of which one comes later and goes again."""

import csv
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import prernn
from prernn.media.encoding import write_video
from prernn.media.video import read_frames
from prernn.streaming.stream import Stream
from streamed_networks import LABELS, SPEC

PATH = Path(__file__).parents[1] / "examples" / "people.py"


@pytest.fixture
def people(monkeypatch):
    spec = importlib.util.spec_from_file_location("people", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", outputs=5).eval()
    net.recipe = replace(net.recipe, transform=SPEC | {"size": 16}, labels=LABELS, rate=10.0)
    prernn.save(net, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def film(tmp_path):
    """The second face is there from frame 4 to frame 8, the first all the time, moving on."""
    data = pytest.importorskip("skimage.data")
    face = cv2.resize(data.astronaut()[20:220, 120:320], (120, 120))
    frames = []
    for number in range(24):
        frame = np.full((160, 360, 3), 90, np.uint8)
        frame[20:140, 10 + number : 130 + number] = face
        if 4 <= number < 9:
            frame[20:140, 220:340] = face[:, ::-1]
        frames.append(frame)
    write_video(tmp_path / "film.mp4", frames, 10)
    return tmp_path / "film.mp4"


def test_each_person_has_a_state_of_their_own(people, run, film, monkeypatch, capsys):
    """And it says what a stream of that person's crops alone says."""
    monkeypatch.setattr(sys, "argv", ["people.py", str(run), str(film), "--faces"])
    people.main()
    frames = dict(read_frames(film))
    by_person = {}
    for time, person, *box, label, probability in csv.reader(capsys.readouterr().out.splitlines()):
        seen = (float(time), tuple(map(int, box)), label, float(probability))
        by_person.setdefault(int(person), []).append(seen)
    first, second = by_person[0], by_person[1]
    assert len(by_person) == 2
    assert len(first) == 24
    assert 5 <= len(second) <= 5 + people.PATIENCE
    for seen in (first, second):
        stream = Stream(prernn.load(run))
        for time, box, label, probability in seen:
            frame = next(frame for stamp, frame in frames.items() if abs(stamp - time) < 0.01)
            expected = stream.probabilities(people.crop(frame, box))
            assert label == LABELS[int(expected.argmax())]
            assert probability == pytest.approx(float(expected.max()), abs=2e-4)


def test_boxes_are_followed_by_their_overlap(people):
    """Who moves is the same; who jumps is somebody else; who is unseen for too long has left."""

    class Streams:
        def __init__(self):
            self.count, self.left = 0, []

        def join(self):
            self.count += 1
            return self.count - 1

        def leave(self, number):
            self.left.append(number)

    streams = Streams()
    now = people.follow(streams, {}, [(0, 0, 10, 10), (50, 0, 60, 10)])
    assert now == {0: ((0, 0, 10, 10), 0), 1: ((50, 0, 60, 10), 0)}
    now = people.follow(streams, now, [(53, 0, 63, 10), (2, 1, 12, 11)])  # in another order
    assert now == {0: ((2, 1, 12, 11), 0), 1: ((53, 0, 63, 10), 0)}
    for _ in range(people.PATIENCE):
        now = people.follow(streams, now, [(100, 0, 110, 10), (2, 1, 12, 11)])
        assert set(now) == {0, 1, 2}
    now = people.follow(streams, now, [(100, 0, 110, 10)])
    assert (set(now), streams.left) == ({0, 2}, [1])
    near = {7: ((0, 0, 10, 10), 0), 8: ((5, 0, 15, 10), 0)}  # each box overlaps with both: the larger share counts
    assert people.follow(streams, near, [(4, 0, 14, 10), (1, 0, 11, 10)]) == {
        8: ((4, 0, 14, 10), 0),
        7: ((1, 0, 11, 10), 0),
    }


def test_who_stands_and_walks(people):
    """The detector runs, and finds nobody in a grey wall."""
    assert people.body_detector()(np.full((200, 160, 3), 120, np.uint8)) == []
