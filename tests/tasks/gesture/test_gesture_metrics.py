"""The metrics of a stream of gestures against a slow count."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gesture_videos import make_batch, outputs_of, path_probability
from prernn.tasks.events.ctc_decoders import BeamDecoder, Event, GreedyDecoder
from prernn.tasks.gesture.events import detections, part_cuts, seen_frames
from prernn.tasks.gesture.metrics import GestureMetrics


def test_metrics_of_a_case_by_hand():
    # snippets of 8 frames: an event of step s is seen at frame 8 (s + 1)
    paths = [[0, 1, 1, 0, 0, 2, 2, 0, 3, 0], [0, 0, 2, 2, 0]]
    batch = make_batch([[1, 2], [3]], [[[5, 20], [36, 46]], [[10, 30]]], [10, 5], [80, 40])
    metrics = GestureMetrics(3, GreedyDecoder(), snippet=8, tolerance=4)
    metrics.update(outputs_of(paths, 4, 10), batch)
    values = metrics.compute()
    # 1 is seen at 16, 11 frames after its begin; 2 at 48, 12 after; 3 and the other video's 2 are false alarms
    assert values["detected"] == pytest.approx(2 / 3)
    assert values["delay"] == pytest.approx((11 + 12) / 2)
    assert values["false_alarms"] == pytest.approx(2 / (120 / 30 / 60))
    assert values["edit_distance"] == pytest.approx(2 / 3)  # 3 is inserted, 3 is replaced
    # cut at frame 28: [0 1 1 0] is 1, the rest is 2 rather than 3, and the other video 2
    assert values["confusion"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert torch.equal(values["class_accuracy"], torch.tensor([1.0, 1.0, 0.0]))


def test_a_tolerance_of_frames_decides_what_a_late_event_is():
    batch = make_batch([[1]], [[[0, 10]]], [4], [32])
    found = {}
    for tolerance in (5, 6):
        metrics = GestureMetrics(2, GreedyDecoder(), snippet=8, tolerance=tolerance)
        metrics.update(outputs_of([[0, 1, 0, 0]], 3, 4), batch)  # seen at frame 16
        found[tolerance] = float(metrics.compute()["detected"])
    assert found == {5: 0.0, 6: 1.0}


def brute_edit_distance(first, second):
    if not first or not second:
        return len(first) + len(second)
    same = first[0] == second[0]
    return min(
        brute_edit_distance(first[1:], second) + 1,
        brute_edit_distance(first, second[1:]) + 1,
        brute_edit_distance(first[1:], second[1:]) + (not same),
    )


@st.composite
def annotated(draw):
    """Random outputs and annotation of a few videos."""
    videos = draw(st.integers(1, 4))
    lengths = [draw(st.integers(3, 7)) for _ in range(videos)]
    target, intervals = [], []
    for length in lengths:
        count = draw(st.integers(1, 2))
        cuts = sorted(draw(st.sets(st.integers(0, 4 * length), min_size=2 * count, max_size=2 * count)))
        intervals.append([cuts[2 * n : 2 * n + 2] for n in range(count)])
        target.append([draw(st.integers(1, 3)) for _ in range(count)])
    frames = [4 * length - draw(st.integers(0, 2)) for length in lengths]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    out = torch.randn(videos, max(lengths), 4, generator=generator, dtype=torch.float64) * 3
    return out, make_batch(target, intervals, lengths, frames)


@given(annotated())
def test_metrics_are_those_of_a_slow_count(case):
    out, batch = case
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    edits = gestures = hits = delay = alarms = 0
    for video, length in enumerate(batch["lengths"].tolist()):
        scores = out[video, :length].log_softmax(-1)
        true = [k for k in batch["target"][video].tolist() if k]
        spans = batch["intervals"][video].tolist()[: len(true)]
        middles = [(before[1] + after[0]) / 2 for before, after in itertools.pairwise(spans)]
        middle = min(max(round(middles[0] / 4), 1), length - 1) if middles else length
        for part, label in zip((scores[:middle], scores[middle:]), true, strict=False):
            chances = [path_probability(part, [k]) for k in (1, 2, 3)]
            confusion[label - 1, chances.index(max(chances))] += 1
        path = scores.argmax(-1).tolist()
        events = [(k, step) for step, k in enumerate(path) if k and (step == 0 or path[step - 1] != k)]
        edits += brute_edit_distance([k for k, _ in events], true)
        gestures += len(true)
        free = [True] * len(true)
        for k, step in events:
            seen = min(4 * (step + 1), int(batch["frames"][video]))
            fits = [n for n in range(len(true)) if free[n] and true[n] == k and spans[n][0] < seen <= spans[n][1] + 4]
            if fits:
                free[fits[0]] = False
                hits, delay = hits + 1, delay + seen - spans[fits[0]][0]
            else:
                alarms += 1
    metrics = GestureMetrics(3, GreedyDecoder(), snippet=4, tolerance=4)
    metrics.update(out, batch)
    values = {name: value.tolist() for name, value in metrics.compute().items()}
    assert values["confusion"] == confusion.tolist()
    assert values["edit_distance"] == pytest.approx(edits / gestures)
    assert values["detected"] == pytest.approx(hits / gestures)
    assert values["delay"] == pytest.approx(delay / hits if hits else math.nan, nan_ok=True)
    assert values["false_alarms"] == pytest.approx(alarms / (int(batch["frames"].sum()) / 30 / 60))


@given(annotated())
def test_metrics_add_up_over_batches_and_take_logs_of_probabilities_for_outputs(case):
    out, batch = case
    decoder = BeamDecoder(4, certainty=0.8, patience=3)
    whole, parts = (GestureMetrics(3, decoder, snippet=4) for _ in range(2))
    whole.update(out.softmax(-1).log(), batch)
    for video in range(len(out)):
        rows = {key: value[video : video + 1] for key, value in batch.items() if key != "skipped"}
        parts.update(out[video : video + 1], rows)
    parts.update(out[:0], {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    first, second = whole.compute(), parts.compute()
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], equal_nan=True)
    whole.reset()
    whole.update(out, batch)
    for name, value in whole.compute().items():
        torch.testing.assert_close(value, first[name], equal_nan=True)


def test_outputs_of_a_network_that_has_diverged_count_as_no_gesture():
    batch = make_batch([[2]], [[[0, 10]]], [4], [32])
    metrics = GestureMetrics(2, GreedyDecoder())
    metrics.update(torch.full((1, 4, 3), math.nan), batch)
    values = metrics.compute()
    assert (values["detected"], values["false_alarms"], values["edit_distance"]) == (0, 0, 1)
    assert math.isnan(values["delay"])


def test_metrics_refuse_other_outputs():
    with pytest.raises(ValueError, match="expected 3 outputs, got 4"):
        GestureMetrics(2, GreedyDecoder()).update(torch.zeros(1, 4, 4), {})
    with pytest.raises(ValueError, match="at least 2, got 1"):
        GestureMetrics(1, GreedyDecoder())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 10), st.integers(1, 9))
def test_parts_have_a_step_each_and_end_with_the_video(widths, more, snippet):
    ends = list(itertools.accumulate(widths))
    intervals = [(end - width, end) for end, width in zip(ends, widths, strict=True)]
    steps = len(widths) + more
    cuts = part_cuts(intervals, steps, snippet)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, steps, len(widths) + 1)
    assert all(before < after for before, after in itertools.pairwise(cuts))


def test_parts_are_cut_halfway_between_neighbors():
    assert part_cuts([(0, 10), (30, 40), (64, 80)], 10, 8) == [0, 2, 6, 10]


def test_an_event_detects_the_first_gesture_that_is_left():
    intervals = [(0, 10), (12, 20)]
    assert detections([(1, 8), (1, 16)], [1, 1], intervals, 8) == [8, 4]
    assert detections([(1, 16), (1, 18)], [1, 1], intervals, 8) == [16, 6]
    assert detections([(1, 8), (1, 9)], [1, 1], intervals, 0) == [8]
    assert detections([(2, 8)], [1, 1], intervals, 8) == []
    assert seen_frames(Event("begin", 1, 0, None, 3, 1.0), 8, 30) == 30
