"""A stream of actions: events as rows, a class that means nothing, answers that are too improbable."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import prernn
from footage import class_videos
from prernn.streaming.events import EventRule, EventSpan, EventTracker
from prernn.streaming.prediction import Prediction
from prernn.streaming.stream import Stream
from prernn.tasks import restore
from prernn.tasks.action.task import Action
from prernn.tasks.action.watcher import ClassWatcher
from prernn.tasks.confidence import Confidence
from small_cnns import ResidualNet, shake

LABELS = ["nothing", "wave", "nod"]
SPEC = {"size": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def network():
    net = shake(prernn.convert(ResidualNet(), cell="gru")).eval()
    net.recipe = replace(net.recipe, labels=LABELS, transform={"size": 8})
    return net


class Scripted(Stream):
    """A stream whose probabilities are written down, one row a frame."""

    def __init__(self, rows):
        super().__init__(network())
        self.labels, self._rows = LABELS, iter(rows)

    def probabilities(self, frame, time=None):
        return torch.tensor(next(self._rows))


ROWS = [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]


def watched(**options):
    tracker = EventTracker(LABELS, EventRule(0.6, 0.5, 0.0), quiet=(0,))
    watcher = ClassWatcher(Scripted(ROWS), tracker=tracker, **options)
    frame = np.zeros((48, 64, 3), np.uint8)
    rows = [row for i in range(len(ROWS)) for row in watcher.see(i, i / 10, frame)]
    return watcher, rows, rows + watcher.finish()


def test_events_come_between_the_rows_where_they_are_asked_for():
    _, _, plain = watched()
    assert all(isinstance(row, Prediction) for row in plain)
    _, before, rows = watched(events=True)
    events = [(e.label, e.start, e.end) for e in rows if isinstance(e, EventSpan)]
    assert events == [("wave", 0.1, None), ("wave", 0.1, 0.3), ("nod", 0.4, None), ("nod", 0.4, 0.5)]
    assert len(rows) - len(before) == 1  # the last one ends with the source
    assert [row.label for row in rows if isinstance(row, Prediction)] == [row.label for row in plain]
    with pytest.raises(ValueError, match="tracker"):
        ClassWatcher(Scripted(ROWS), events=True)


def test_the_strip_is_drawn_with_a_tracker():
    frame = np.zeros((240, 320, 3), np.uint8)
    drawn = watched()[0].draw(frame)
    assert (drawn.max(2).astype(int) - drawn.min(2) > 40).any(1).sum() > (240 // 24) - 2
    assert not np.array_equal(drawn, ClassWatcher(Scripted(ROWS)).draw(frame))


def test_improbable_answers_are_unknown():
    _, _, rows = watched(confidence=Confidence(unknown_below=0.65))
    assert [row.label for row in rows] == ["nothing", "wave", "unknown", "nothing", "nod"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    class_videos(folder, LABELS)
    return folder


def test_the_background_class_makes_no_events_and_is_kept(root):
    task = Action(background="nothing", events=EventRule(0.7, 0.6), temperature=1.5, unknown_below=0.2)
    task.open(root, SPEC)
    net = network()
    again = restore(task.noted(net.recipe))
    assert (again.background, again.events, again.temperature) == ("nothing", EventRule(0.7, 0.6), 1.5)
    net.recipe = task.noted(net.recipe)
    watcher = again.watcher(net, events=True)
    assert watcher._tracker.quiet == {task.labels.index("nothing")}
    with pytest.raises(ValueError, match=r"background: expected one of the classes .*, got 'rest'"):
        Action(background="rest").open(root, SPEC)
    for wrong in ({"temperature": 0}, {"unknown_below": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Action(**wrong)
