"""Events of tasks at a temperature and a threshold, found after the fact."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prernn.streaming.events import EventRule
from prernn.tasks.action.task import Action
from prernn.tasks.events.ctc_decoders import GreedyDecoder
from prernn.tasks.face.task import Face
from prernn.tasks.gesture.sure import SureGestures
from prernn.tasks.gesture.task import Gesture
from prernn.tasks.segments.metrics import SegmentMetrics
from prernn.tasks.segments.task import Segments
from prernn.training.batches import collate

seeds = st.integers(0, 10_000)


def random_outputs(seed, steps=30, outputs=4):
    chance = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(steps, outputs, generator=chance, dtype=torch.float64)


def known(kind, **options):
    task = kind(**options)
    task.labels = ["nothing", "wave", "point", "grab"]
    return task


@given(seed=seeds, threshold=st.sampled_from([0.0, 0.5, 0.8, 0.9, 0.97]))
def test_sure_gestures_are_those_that_come_up_to_the_threshold(seed, threshold):
    scores = random_outputs(seed).log_softmax(-1)
    found = SureGestures(GreedyDecoder(), threshold).events(scores)
    wanted = [event for event in GreedyDecoder().events(scores) if event.kind == "end"]
    wanted = [event for event in wanted if event.probability >= threshold]
    assert [event for event in found if event.kind == "end"] == wanted
    begins = [event for event in found if event.kind == "begin"]
    assert [(event.label, event.begin) for event in begins] == [(event.label, event.begin) for event in wanted]
    for begin, end in zip(begins, wanted, strict=True):
        own = scores[begin.begin : begin.step + 1, begin.label].exp()
        assert threshold <= begin.probability == pytest.approx(float(own.max()))
        assert begin.step < end.step
        assert not len(own[:-1]) or float(own[:-1].max()) < max(threshold, 1e-9)  # at the first step that is sure


def test_a_gesture_that_is_not_sure_in_time_is_none():
    scores = torch.tensor([[0.4, 0.6]] * 9 + [[0.1, 0.9]], dtype=torch.float64).log()
    assert SureGestures(GreedyDecoder(), 0.8, patience=8).events(scores) == []
    assert [event.step for event in SureGestures(GreedyDecoder(), 0.8, patience=9).events(scores)] == [9, 10]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Action, {"background": "nothing", "events": EventRule(0.5, 0.3, 0.2, 0.3)}),
        (Segments, {"events": EventRule(0.5, 0.3, 0.2, 0.3)}),
        (Gesture, {"extent": 1.0}),
        (Gesture, {"extent": 0.2}),
    ],
)
@given(seed=seeds, threshold=st.sampled_from([0.55, 0.8, 0.95]))
def test_everything_has_the_events_of_any_higher_threshold(kind, options, seed, threshold):
    """Without a cool-down; so the threshold that is fitted on everything keeps its promise."""
    probabilities, times = random_outputs(seed).softmax(-1), [i / 10 for i in range(30)]
    task = known(kind, **options)
    everything = task.events_in(times, probabilities, everything=True)
    kept = {**task.confident(2.0, 0.1, threshold)}
    if "events" in kept:
        kept["events"] = {**kept["events"], "cool_down": 0.0}
    sharp = known(kind, **options | kept)
    found = sharp.events_in(times, probabilities)
    warm = known(kind, **options | task.confident(2.0, 0.1, None)).events_in(times, probabilities, everything=True)
    assert [(e.label, e.score) for e in found] == [(e.label, e.score) for e in warm if e.score >= threshold]
    assert all(event.label != "nothing" for event in everything)


@given(seed=seeds, warmth=st.sampled_from([0.5, 1.0, 3.0]))
def test_metrics_at_a_temperature_are_those_of_cooler_outputs(seed, warmth):
    out = random_outputs(seed).float()
    label = torch.zeros(30, dtype=torch.int64)
    label[5:15] = 2
    item = {"input": out, "label": label, "warm_up": 0, "start": 0, "rate": 10.0, "path": "a"}
    batch = collate([item])
    values = []
    for one, by in ((out, warmth), (out / warmth, 1.0)):
        metrics = SegmentMetrics(["nothing", "wave", "point", "grab"], EventRule(0.5, 0.3, 0.1), by)
        metrics.update(one[None], batch)
        values.append(metrics.compute())
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name], equal_nan=True)


def test_answers_are_the_frames_or_the_spikes_that_have_a_true_label():
    out = torch.stack([random_outputs(0, 6), random_outputs(1, 6)])
    batch = {"lengths": torch.tensor([6, 2]), "label": torch.tensor([1, 3])}
    logits, label = known(Action).answers(out, batch)
    torch.testing.assert_close(logits, torch.cat([out[0], out[1, :2]]))
    assert label.tolist() == [1] * 6 + [3] * 2
    frames = {
        "lengths": torch.tensor([6, 2]),
        "label": torch.arange(12).view(2, 6) % 4,
        "warm_up": torch.tensor([4, 0]),
    }
    logits, label = known(Segments).answers(out, frames)
    torch.testing.assert_close(logits, torch.cat([out[0, 4:], out[1, :2]]))
    assert label.tolist() == [0, 1, 2, 3]
    signs = {
        "lengths": torch.tensor([6, 2]),
        "target": torch.tensor([[2, 1], [3, 0]]),
        "intervals": torch.tensor([[[0, 8], [16, 24]], [[0, 8], [0, 0]]]),
    }
    logits, label = known(Gesture, snippet=4).answers(out, signs)
    assert label.tolist() == [2, 1, 3]
    parts = [out[0, :3].log_softmax(-1), out[0, 3:].log_softmax(-1), out[1, :2].log_softmax(-1)]
    for row, part in zip(logits, parts, strict=True):
        torch.testing.assert_close(row, part[part[:, 0].argmin()])


def test_a_task_without_classes_has_no_confidence():
    for ask in (
        lambda task: task.answers(torch.zeros(1, 1, 4), {}),
        lambda task: task.events_in([0.0], torch.zeros(1, 4)),
        lambda task: task.confident(1.0, 0.0, None),
    ):
        with pytest.raises(NotImplementedError, match="task 'face': expected one that gives probabilities of classes"):
            ask(Face())
    for kind in (Action, Segments, Gesture):
        with pytest.raises(ValueError, match="unknown_below"):
            kind(unknown_below=2.0)
        assert {"temperature", "unknown_below"} <= set(kind.kept_options)
        assert dataclasses.asdict(kind())["temperature"] == 1.0
