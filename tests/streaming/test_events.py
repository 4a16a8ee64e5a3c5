"""Events out of probabilities: what the definition says, as they arrive and all at once; rows; the strip."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prernn.streaming.drawing import EventStrip, annotate
from prernn.streaming.events import EventRule, EventSpan, EventTracker, events_of
from prernn.streaming.prediction import Prediction
from prernn.streaming.rows import json_rows, with_events

LABELS = ["background", "wave", "nod"]
RULES = [EventRule(0.6, 0.3, 0.0, 0.0), EventRule(0.6, 0.3, 0.25, 0.0), EventRule(0.6, 0.6, 0.1, 0.35), EventRule()]


def by_definition(times, probabilities, label, rule):
    """The events of one label: runs at ``low`` or above that reach ``high`` and last; none begins in a cool-down."""
    steps, found, begin, ready = [*times, 2 * times[-1] - times[-2]], [], None, -math.inf
    inside = [p >= rule.low for p in probabilities] + [False]
    i = 0
    while i < len(times):
        if not inside[i] or times[i] < ready:
            i += 1
            continue
        begin, i = i, inside.index(False, i)
        length = steps[i] - steps[begin]
        if max(probabilities[begin:i]) >= rule.high and length >= rule.least - 1e-9:
            found.append((LABELS[label], steps[begin], steps[i], max(probabilities[begin:i])))
            ready = steps[i] + rule.cool_down
    return found


streams = st.lists(st.tuples(*[st.sampled_from([0.1, 0.3, 0.35, 0.6, 0.7, 0.9])] * 3), min_size=2, max_size=30)


@given(stream=streams, rule=st.sampled_from(RULES))
def test_events_are_what_the_definition_says(stream, rule):
    times = [round(i / 10, 6) for i in range(len(stream))]
    probabilities = torch.tensor(stream, dtype=torch.float64)
    found = events_of(times, probabilities, LABELS, rule, quiet=(0,))
    wanted = [e for label in (1, 2) for e in by_definition(times, [p[label] for p in stream], label, rule)]
    assert len(found) == len(wanted)
    for event, (label, start, end, score) in zip(found, sorted(wanted, key=lambda e: (e[1], e[0])), strict=True):
        assert (event.label, event.score) == (label, score)
        assert (event.start, event.end) == pytest.approx((start, end))
        assert (event.start_frame, event.end_frame) == (round(start * 10), round(end * 10))


@given(stream=streams, rule=st.sampled_from(RULES), cut=st.integers(0, 30))
def test_a_later_moment_changes_nothing_that_was_given(stream, rule, cut):
    tracker, given_so_far = EventTracker(LABELS, rule), []
    for i, p in enumerate(stream[:cut]):
        given_so_far += tracker.push(i, i / 10, torch.tensor(p))
    other = copy.deepcopy(tracker)
    rest = [e for i, p in enumerate(stream[cut:], cut) for e in tracker.push(i, i / 10, torch.tensor(p))]
    rest += tracker.finish()
    more = other.finish()
    for later in (rest, more):
        events = given_so_far + later
        begun = [(e.label, e.start) for e in events if e.end is None]
        assert begun == sorted(set(begun), key=begun.index)  # each begins once
        assert {(e.label, e.start) for e in events if e.end is not None} == set(begun)  # and ends


def test_a_tracker_that_has_finished_is_as_new_and_knows_what_goes_on():
    tracker = EventTracker(LABELS, EventRule(0.5, 0.4, 0.1))
    tracker.push(0, 0.0, torch.tensor([0.1, 0.9, 0.0]))
    assert tracker.open == []  # not long enough yet
    tracker.push(1, 0.1, torch.tensor([0.1, 0.9, 0.0]))
    assert [(e.label, e.end) for e in tracker.open] == [("wave", None)]
    [end] = tracker.finish()
    assert (end.start, end.end, end.end_frame) == (0.0, 0.2, 2)
    assert tracker.finish() == []
    assert tracker.push(0, 0.0, torch.tensor([1.0, math.nan, 0.0]))[0:0] == []  # not a number is no event


def test_what_a_tracker_refuses():
    tracker = EventTracker(LABELS)
    tracker.push(0, 1.0, torch.rand(3))
    with pytest.raises(ValueError, match=r"time from 1\.0 on, got 0\.5"):
        tracker.push(1, 0.5, torch.rand(3))
    with pytest.raises(ValueError, match=r"\(3,\), got shape \(2,\)"):
        tracker.push(1, 2.0, torch.rand(2))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"high": 1.5}, "events high"),
        ({"low": 0.0}, "events low"),
        ({"high": 0.3, "low": 0.4}, "at most high, 0.3, got 0.4"),
        ({"least": -1}, "events least"),
        ({"cool_down": math.nan}, "events cool_down"),
    ],
)
def test_a_rule_that_makes_no_sense(numbers, said):
    with pytest.raises(ValueError, match=said):
        EventRule(**numbers)


def test_events_that_have_ended_go_to_a_file_of_their_own():
    rows, events = io.StringIO(), io.StringIO()
    with with_events(json_rows(rows), events) as write:
        write({"frame": 0})
        write(EventSpan("wave", 0.5, None, 0.7, 5))
        write(EventSpan("wave", 0.5, 1.25, 0.87654, 5, 12))
    assert rows.getvalue() == '{"frame": 0}\n'
    assert events.getvalue() == "label,start_s,end_s,start_frame,end_frame,score\nwave,0.500,1.250,5,12,0.8765\n"


def test_the_strip_shows_the_events_of_the_last_seconds():
    strip = EventStrip(seconds=10.0)
    strip.add([EventSpan("wave", 2.0, None, 0.9, 20)])
    strip.add([EventSpan("wave", 2.0, 4.0, 0.9, 20, 40), EventSpan("nod", 9.0, None, 0.9, 90)])
    frame = np.full((240, 320, 3), 128, np.uint8)
    shown = strip.draw(frame, 10.0)
    changed = (shown != frame).any(2)
    top, bottom = np.flatnonzero(changed.all(1))[[0, -1]]
    assert not changed[:top].any()
    assert not changed[bottom + 1 :].any()
    row = shown[top + 1]
    colored = row.max(1) - row.min(1) > 40  # what is not grey
    assert np.flatnonzero(colored[:200]).tolist() == list(range(64, 128))  # 2 s to 4 s of 10
    assert np.flatnonzero(colored[200:]).tolist() == list(range(288 - 200, 320 - 200))  # 9 s to now
    assert (frame == 128).all()
    answer = annotate(frame, Prediction(0, 0.0, "wave", 0.9, 1.0, torch.rand(3)))
    assert not (changed & (answer != frame).any(2)).any()  # it hides nothing of the answer
    assert not (strip.draw(frame, 15.0)[top + 1, :100].max(1) > 60).any()  # what is too old is gone
