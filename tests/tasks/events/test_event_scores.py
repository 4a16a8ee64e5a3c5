"""Scores of events and frames: numbers worked out by hand, and a second way to compute each."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision

from prernn.tasks.events.event_metrics import EventMetrics
from prernn.tasks.events.event_scores import Interval, f1, first_right, matches, temporal_iou
from prernn.tasks.segments.frame_scores import average_precision
from prernn.tasks.segments.metrics import runs


def spans(*values):
    return [Interval(*value) for value in values]


def test_f1_and_iou_by_hand():
    """Of four found events one is exact, one has IoU 2/6, one another label in the right place, one is a second one."""
    true = spans((1, 0, 4), (2, 10, 14), (1, 20, 30))
    found = spans((1, 0, 4), (2, 12, 16), (2, 20, 30), (1, 1, 3))
    assert [(m.found, m.true, m.iou) for m in matches(found, true, 0.0)] == [(0, 0, 1.0), (1, 1, pytest.approx(1 / 3))]
    metrics = EventMetrics()
    metrics.update(found, true)
    values = {name: float(value) for name, value in metrics.compute().items()}
    two, one = 2 * 2 / 7, 2 * 1 / 7
    assert values == pytest.approx(
        {"event_f1_10": two, "event_f1_25": two, "event_f1_50": one, "mean_iou": (1 + 1 / 3) / 2}
    )
    metrics.update([], spans((1, 0, 1)))  # another video, in which nothing is found
    assert float(metrics.compute()["event_f1_50"]) == pytest.approx(2 * 1 / 8)
    assert math.isnan(f1(0, 0, 0))


sequences = st.lists(st.integers(0, 2), min_size=1, max_size=25)


@given(found=sequences, true=sequences, least=st.sampled_from([0.1, 0.25, 0.5]))
def test_matches_are_those_of_a_count_by_steps(found, true, least):
    """Lea et al.'s count, with every event as the set of its steps."""
    one, other = runs(found), runs(true)
    taken, wanted = set(), []
    for i, event in enumerate(one):
        steps = set(range(int(event.begin), int(event.end)))
        best, iou = -1, 0.0
        for j, rival in enumerate(other):
            theirs = set(range(int(rival.begin), int(rival.end)))
            overlap = len(steps & theirs) / len(steps | theirs) * (event.label == rival.label)
            if overlap > iou:
                best, iou = j, overlap
        if iou >= least and best not in taken:
            taken.add(best)
            wanted.append((i, best, pytest.approx(iou)))
    assert [tuple(match) for match in matches(one, other, least)] == wanted
    assert all(temporal_iou(event, event) == 1 for event in one)
    assert len(matches(other, other, 0.5)) == len(other)


def test_the_first_right_answer():
    true = spans((1, 0, 3), (2, 4, 6), (1, 6, 9))
    assert first_right([0, 0, 1, 1, 1, 1, 1, 2, 2], true) == [2, None, 0]


def test_calibrated_precision_by_hand():
    """Ranked 1 0 1 0 0: the precision is 1 and 2/3; calibrated, with w = 3/2, 1 and 2 / (2 + 2/3)."""
    score, positive = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.1]), torch.tensor([1, 0, 1, 0, 0]).bool()
    assert float(average_precision(score, positive)) == pytest.approx((1 + 2 / 3) / 2)
    assert float(average_precision(score, positive, calibrated=True)) == pytest.approx((1 + 3 / 4) / 2)
    assert bool(average_precision(score, torch.zeros(5).bool()).isnan())
    assert float(average_precision(score, torch.ones(5).bool(), calibrated=True)) == 1


@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_average_precision_is_torchmetrics_and_calibrated_that_of_a_count_by_thresholds(pairs):
    score = torch.tensor([value / 7 for value, _ in pairs])
    positive = torch.tensor([flag for _, flag in pairs])
    if not positive.any():
        assert bool(average_precision(score, positive).isnan())
        return
    plain = average_precision(score, positive)
    torch.testing.assert_close(plain, torch.as_tensor(binary_average_precision(score, positive.long())))
    ratio = float((~positive).sum() / positive.sum())
    total, before = 0.0, 0
    for threshold in sorted(set(score.tolist()), reverse=True):
        true = int((positive & (score >= threshold)).sum())
        false = int((~positive & (score >= threshold)).sum())
        total += (true / (true + false / ratio) if false else float(true > 0)) * (true - before)
        before = true
    assert float(average_precision(score, positive, calibrated=True)) == pytest.approx(total / before, rel=1e-5)


@given(positive=st.integers(1, 5), copies=st.integers(1, 6))
def test_calibrated_precision_does_not_feel_how_rare_a_class_is(positive, copies):
    """Negative frames that are there several times change precision, and not the calibrated one."""
    score = torch.tensor([0.9, 0.5, 0.1] * positive + [0.7, 0.3] * copies * positive)
    truth = torch.tensor([True] * (3 * positive) + [False] * (2 * copies * positive))
    once = average_precision(
        torch.tensor([0.9, 0.5, 0.1, 0.7, 0.3]), torch.tensor([1, 1, 1, 0, 0]).bool(), calibrated=True
    )
    torch.testing.assert_close(average_precision(score, truth, calibrated=True), once)
