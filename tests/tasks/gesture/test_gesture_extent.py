"""From a spike to the gesture round it: whole gestures, as they arrive, never taken back."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gesture_videos import make_batch
from prernn.tasks.events.ctc_decoders import BeamDecoder, GreedyDecoder
from prernn.tasks.gesture.extent import WholeGestures, gesture_decoder
from prernn.tasks.gesture.metrics import GestureMetrics


def log_probs(some, label=1, outputs=3):
    """Log-probabilities ``(T, K)`` of "no gesture" and one label, which has nearly all of "some gesture"."""
    some = torch.tensor(some, dtype=torch.float64)
    rest = (some / 100).unsqueeze(1).expand(-1, outputs - 2)
    own = (some - rest.sum(1)).unsqueeze(1)
    others = torch.cat([rest, own] if label == outputs - 1 else [own, rest], 1)
    return torch.cat([1 - some.unsqueeze(1), others], 1).log()


def spans(decoder, scores):
    events = decoder.events(scores)
    begins, ends = ([e for e in events if e.kind == kind] for kind in ("begin", "end"))
    assert [e.kind for e in events] == ["begin", "end"] * len(begins)
    return [(e.label, e.begin, e.end) for e in ends], [(e.step, f.step) for e, f in zip(begins, ends, strict=True)]


def test_a_gesture_reaches_over_the_steps_in_which_something_is_afoot():
    some = [0.01, 0.01, 0.3, 0.4, 0.95, 0.4, 0.02, 0.01]
    # log-odds: rest -4.6, peak 2.9, halfway -0.8, which is 0.3 in terms of probability, and a little more
    assert spans(GreedyDecoder(), log_probs(some)) == ([(1, 4, 5)], [(4, 5)])
    assert spans(WholeGestures(GreedyDecoder(), 0.5), log_probs(some)) == ([(1, 3, 6)], [(4, 6)])
    assert spans(WholeGestures(GreedyDecoder(), 0.4), log_probs(some)) == ([(1, 2, 6)], [(4, 6)])
    assert spans(WholeGestures(GreedyDecoder(), 0.4), log_probs(some[:6])) == ([(1, 2, 6)], [(4, 6)])
    assert spans(WholeGestures(GreedyDecoder(), 0.4, reach=2), log_probs(some))[0] == [(1, 4, 5)]


def test_a_constant_murmur_is_no_gesture_before_or_after_one():
    some = [0.2] * 6 + [0.9] + [0.2] * 6
    assert spans(WholeGestures(GreedyDecoder(), 0.3), log_probs(some))[0] == [(1, 6, 7)]


def test_two_gestures_side_by_side_share_no_step():
    some = [0.01, 0.4, 0.9, 0.45, 0.4, 0.9, 0.4, 0.01]
    scores = log_probs(some)
    scores[4:] = log_probs(some, label=2)[4:]
    found, _ = spans(WholeGestures(GreedyDecoder(), 0.4), scores)
    assert found == [(1, 1, 5), (2, 5, 7)]


sequences = st.lists(st.lists(st.integers(-4, 6), min_size=3, max_size=3), min_size=1, max_size=16)
decoders = st.sampled_from([GreedyDecoder, lambda: BeamDecoder(5, certainty=0.7, patience=4)])


@given(logits=sequences, make=decoders, share=st.sampled_from([0.0, 0.3, 0.5, 0.9]), reach=st.sampled_from([1, 3, 16]))
def test_they_are_the_gestures_of_the_decoder_and_no_shorter(logits, make, share, reach):
    scores = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    inner, _ = spans(make(), scores)
    outer, steps = spans(WholeGestures(make(), share, reach), scores)
    assert [label for label, _, _ in outer] == [label for label, _, _ in inner]
    for (_, begin, end), (_, first, last), (seen, ended) in zip(outer, inner, steps, strict=True):
        assert 0 <= begin <= first
        assert last <= end <= len(logits)
        assert begin <= seen
        assert end <= ended + 1
    assert all(a[2] <= b[1] for a, b in pairwise(outer))


@given(logits=sequences, cut=st.integers(1, 16), make=decoders)
def test_what_was_given_is_not_taken_back(logits, cut, make):
    scores = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    short, whole = WholeGestures(make(), 0.4), WholeGestures(make(), 0.4)
    given = [event for step in scores[:cut] for event in short.push(step)]
    assert whole.events(scores)[: len(given)] == given
    assert (short.open is None) == (not given or given[-1].kind == "end")


def test_at_one_the_decoder_has_its_say_alone():
    assert isinstance(gesture_decoder("greedy", extent=1.0), GreedyDecoder)
    assert isinstance(gesture_decoder("beam", {"width": 3}).decoder, BeamDecoder)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="extent: expected a number from 0 to 1"):
            gesture_decoder("greedy", extent=wrong)


def test_metrics_say_how_well_begin_and_end_agree():
    """A gesture in frames 8 to 24 of 32, in snippets of 4: the spike alone is 16 to 20, IoU 1/4; the whole 8 to 24."""
    scores = log_probs([0.01, 0.01, 0.4, 0.4, 0.95, 0.4, 0.02, 0.01])[None]
    batch = make_batch([[1]], [[[8, 24]]], [8], [32])
    for extent, iou, half in ((1.0, 0.25, 0.0), (0.4, 1.0, 1.0)):
        metrics = GestureMetrics(2, gesture_decoder("greedy", extent=extent), snippet=4)
        metrics.update(scores, batch)
        found = metrics.compute()
        assert float(found["mean_iou"]) == pytest.approx(iou)
        assert (float(found["event_f1_25"]), float(found["event_f1_50"])) == (1.0, half)
