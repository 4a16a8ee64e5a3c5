"""Evaluation without resets: one stream through all videos, at other rates, and on pictures that stand still."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import close
from prernn.conversion.graph.trunk import split
from prernn.tasks.clips.clip_metrics import ClipMetrics
from prernn.training.batches import collate
from prernn.training.evaluation import evaluate, in_batches, next_outputs
from prernn.training.frozen_trunk.features import outputs
from prernn.training.live import at_rate, evaluate_live, random_orders, stand_still, through_clock
from small_cnns import CNNS, film, prepare, shake


class Keep:
    """Metrics that keep the outputs of each video, in float64."""

    def __init__(self):
        self.seen = []

    def update(self, out, batch):
        self.seen += [(path, out[i, : batch["lengths"][i]]) for i, path in enumerate(batch["path"])]

    def compute(self):
        return {}


def items(lengths):
    return [{"input": film(1, steps)[0], "label": n % 3, "path": str(n)} for n, steps in enumerate(lengths)]


@pytest.mark.parametrize("make", [prernn.convert, prernn.traditional, prernn.convert_rcn])
@pytest.mark.parametrize("kind", list(CNNS))
@torch.no_grad()
def test_one_state_goes_through_all_videos(make, kind):
    net = shake(make(prepare(CNNS[kind]()), image_size=(8, 8))).eval()
    videos, orders, keep = items([4, 2, 5, 3]), [[2, 0, 1, 3], [3, 1, 2, 0], [0, 1, 2, 3]], Keep()
    trunk, rest = split(net)
    evaluate_live(lambda batch, state: next_outputs(net, batch, state), keep, videos, orders)
    cached, behind = [], Keep()
    for video in videos:
        first, *more = trunk(video["input"])
        cached.append({**video, "input": first, **{f"input_{i}": value for i, value in enumerate(more)}})
    start = net.init_state(3, (8, 8))
    evaluate_live(lambda batch, state: outputs(rest, state or start, batch), behind, cached, orders)
    for number, order in enumerate(orders):
        whole, _ = net(torch.cat([videos[n]["input"] for n in order])[None])
        expected = whole[0].split([len(videos[n]["input"]) for n in order])
        for kept in (keep.seen, behind.seen):
            own = kept[number :: len(orders)]
            assert [path for path, _ in own] == [str(n) for n in order]
            close([out for _, out in own], [part.float() for part in expected], atol=1e-5, rtol=1e-5)


def test_orders_are_permutations_by_their_seed():
    orders = random_orders(7, 4, seed=2)
    assert orders == random_orders(7, 4, seed=2)
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(1, 30), st.sampled_from([0.25, 0.5, 1 / 3, 1.0, 1.5, 2.0, 3.0]))
def test_other_rates_show_frames_again_or_leave_some_out(steps, rate):
    item = {"input": torch.arange(steps), "label": 3, "other": torch.zeros(steps + 1)}
    shown = at_rate(item, rate)
    seen = shown["input"].tolist()
    assert len(seen) == max(1, math.floor(steps * rate + 1e-6))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert shown["label"] == 3
    assert shown["other"] is item["other"]
    if rate in (2.0, 3.0):
        assert seen == [n for n in range(steps) for _ in range(int(rate))]
    if rate in (0.5, 0.25):
        assert seen == list(range(0, steps, int(1 / rate)))[: len(seen)]


@given(st.integers(1, 30), st.sampled_from([2.0, 3.0, 1.0]))
def test_the_clock_drops_what_a_faster_camera_shows_too_much(steps, rate):
    item = {"input": torch.arange(steps), "label": 3}
    assert through_clock(item, rate)["input"].tolist() == list(range(steps))


@given(st.integers(2, 30))
def test_the_clock_holds_what_a_slower_camera_shows_too_little(steps):
    seen = through_clock({"input": torch.arange(2 * steps), "label": 3}, 0.5)["input"].tolist()
    assert seen == [n // 2 * 2 for n in range(2 * steps - 1)]


class Counter:
    """Says class n at the n-th frame that it sees, up to 3; its state is how many there were."""

    def __call__(self, batch, state):
        begin = 0 if state is None else int(state[0][0])
        steps = batch["input"].shape[1]
        place = torch.arange(begin, begin + steps).clamp(max=3)
        return torch.nn.functional.one_hot(place, 4).float()[None], ((torch.tensor([[begin + steps]]),),)


def test_a_picture_that_stands_still():
    found = stand_still(Counter(), {"input": torch.zeros(1, 2), "label": 0, "path": "a"}, 1203)
    assert found == {"changes": 2, "drift": 0, "largest": 1204, "first": 1}  # 1, 2, then always 3
    assert stand_still(Counter(), {"input": torch.zeros(1, 2), "label": 0, "path": "a"}, 3)["drift"] == 1


def test_live_is_not_reset():
    """A network that remembers the first class that it ever saw is right with resets alone."""

    def first(batch, state):
        own = batch["input"][:, 0].long() if state is None else state[0][0]
        return torch.nn.functional.one_hot(own, 3).float()[:, None].expand(-1, batch["input"].shape[1], -1), ((own,),)

    videos = [{"input": torch.full((4,), float(n % 3)), "label": n % 3, "path": str(n)} for n in range(9)]
    reset = evaluate(lambda batch: first(batch, None)[0], ClipMetrics(3), in_batches(videos, 4))
    live = evaluate_live(first, ClipMetrics(3), videos, random_orders(9, 5))
    assert reset["clip_accuracy"] == 1
    assert live["clip_accuracy"] == pytest.approx(1 / 3)


@settings(max_examples=50)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=6))
def test_frames_until_the_answer_is_right_and_stays_so(clips):
    expected = []
    for right in clips:
        begin = next((n for n in range(len(right)) if all(right[n:])), None)
        expected.append(None if begin is None else begin + 1)
    metrics = ClipMetrics(2)
    values = [{"input": torch.tensor(right).float(), "label": 1, "path": str(n)} for n, right in enumerate(clips)]
    batch = collate(values)
    metrics.update(torch.stack([0.5 - batch["input"], batch["input"] - 0.5], -1), batch)
    found = metrics.compute()
    known = sorted(frames for frames in expected if frames)
    assert found["never_right"] == pytest.approx(expected.count(None) / len(expected))
    if known:
        assert found["frames_until_right"] == known[(len(known) - 1) // 2]
    else:
        assert found["frames_until_right"].isnan()
    late = [sum(right[len(right) // 2 :]) * 2 > len(right) - len(right) // 2 for right in clips]
    draws = [sum(right[len(right) // 2 :]) * 2 == len(right) - len(right) // 2 for right in clips]
    share = float(found["late_accuracy"]) * len(clips)
    assert sum(late) - 1e-4 <= share <= sum(late) + sum(draws) + 1e-4
