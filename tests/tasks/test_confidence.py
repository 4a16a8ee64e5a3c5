"""How sure answers are: temperature, thresholds for a rate of false alarms, unknown."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from prernn.streaming.events import EventRule, events_of
from prernn.streaming.prediction import Prediction
from prernn.tasks.confidence import Confidence, temperature, threshold


@given(true=st.floats(0.3, 5.0), seed=st.integers(0, 20))
def test_the_temperature_is_that_by_which_the_logits_are_too_large(true, seed):
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4000, 4, generator=chance)
    label = torch.multinomial(logits.softmax(-1), 1, generator=chance)[:, 0]
    found = temperature(true * logits, label)
    assert found == pytest.approx(true, rel=0.15)
    best = F.cross_entropy(true * logits / found, label)
    for other in (0.9 * found, 1.1 * found):
        assert best <= F.cross_entropy(true * logits / other, label)
    before, after = (
        multiclass_calibration_error((scale * logits).softmax(-1), label, 4) for scale in (true, true / found)
    )
    assert after <= before + 0.02


@pytest.mark.parametrize(("label", "low", "high"), [(0, 0.01, 0.1), (1, 10.0, 100.01)])
def test_temperatures_without_bound_stay_within_limits(label, low, high):
    assert low <= temperature(torch.tensor([[1.0, 0.0]] * 3), torch.tensor([label] * 3)) <= high


def test_what_temperature_refuses():
    with pytest.raises(ValueError, match=r"logits \(N, K\) and labels \(N,\)"):
        temperature(torch.rand(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="finite"):
        temperature(torch.tensor([[torch.nan, 0.0]]), torch.tensor([0]))


streams = st.lists(st.sampled_from([0.1, 0.35, 0.5, 0.6, 0.8, 0.9, 1.0]), min_size=2, max_size=60)


@given(stream=streams, per_hour=st.sampled_from([0, 60, 600, 3600]))
def test_a_threshold_lets_no_more_false_events_pass_than_asked_and_no_lower_one_does(stream, per_hour):
    times = [i / 10 for i in range(len(stream))]
    probabilities = torch.tensor(stream, dtype=torch.float64)[:, None]
    rule = EventRule(high=0.3, low=0.3, least=0.0)
    hours = len(stream) / 10 / 3600
    everything = events_of(times, probabilities, ["wave"], rule)
    on = threshold(everything, hours, per_hour)
    left = [event for event in everything if event.score >= on]
    assert len(left) <= hours * per_hour + 1e-9
    if 0.3 <= on <= 1:
        assert left == events_of(times, probabilities, ["wave"], EventRule(high=on, low=0.3, least=0.0))
    if on > 0:
        assert sum(event.score >= on - 1e-9 for event in everything) > hours * per_hour + 1e-9


def test_an_answer_that_is_too_improbable_is_unknown_and_temperature_changes_no_answer():
    logits = torch.tensor([2.0, 0.0, -1.0])
    plain = Prediction(3, 0.1, "wave", float(logits.softmax(-1)[0]), 1.0, logits.softmax(-1))
    cooler = Confidence(temperature=2.0).of(plain)
    torch.testing.assert_close(cooler.probabilities, (logits / 2).softmax(-1))
    assert (cooler.label, cooler.probability) == ("wave", float(cooler.probabilities[0]))
    assert Confidence(2.0, unknown_below=cooler.probability).of(plain).label == "wave"
    assert Confidence(2.0, unknown_below=cooler.probability + 1e-3).of(plain).label == "unknown"
    with pytest.raises(ValueError, match="temperature"):
        Confidence(0.0)
