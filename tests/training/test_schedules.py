"""Learning rates by the batch: torch's own where torch has them, and what every schedule keeps to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from prernn.training.learning import Schedule


def rates(make, steps):
    """The rate of each step that a scheduler of torch gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@given(in_epoch=st.integers(1, 9), epochs=st.integers(3, 9))
def test_one_cycle_and_cosine_are_torchs(in_epoch, epochs):
    steps = in_epoch * epochs

    def ours(schedule):
        return [schedule.rate_at(step, in_epoch, steps) for step in range(steps)]

    def one_cycle(optimizer, share=0.3):
        return OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=share, cycle_momentum=False)

    if 0.3 * steps > 1:
        assert ours(Schedule("one_cycle")) == pytest.approx(rates(one_cycle, steps), abs=1e-12)
    if in_epoch > 1:
        expected = rates(lambda optimizer: one_cycle(optimizer, 1 / epochs), steps)
        assert ours(Schedule("one_cycle", warm_up=1)) == pytest.approx(expected, abs=1e-9)
    expected = rates(lambda optimizer: CosineAnnealingLR(optimizer, steps), steps)
    assert ours(Schedule("cosine")) == pytest.approx(expected, abs=1e-9)


schedules = st.builds(
    Schedule,
    kind=st.sampled_from(["constant", "step", "cosine", "one_cycle"]),
    every=st.integers(1, 3),
    start=st.integers(0, 3),
    warm_up=st.one_of(st.none(), st.floats(0, 20)),
)


@given(schedule=schedules, in_epoch=st.integers(1, 7), epochs=st.integers(1, 8))
def test_a_share_is_above_0_and_at_most_1_at_every_step(schedule, in_epoch, epochs):
    steps = in_epoch * epochs
    found = [schedule.rate_at(step, in_epoch, steps) for step in range(steps)]
    assert all(0 < share <= 1 for share in found)
    last = schedule.rate_at(steps, in_epoch, steps)  # torch asks for it behind the last step
    assert 0 <= last <= 1
    if schedule.kind in ("cosine", "one_cycle") and 1 + (schedule.warm_up or 0) * in_epoch < steps:
        assert last <= found[-1]
    if schedule.kind in ("constant", "step"):
        rise = (schedule.warm_up or 0) * in_epoch
        expected = [min((n + 1) / rise if n < rise else 1, 1) * schedule.rate(n // in_epoch) for n in range(steps)]
        assert found == pytest.approx(expected)


def test_a_resumed_schedule_goes_on_where_it_was():
    schedule = Schedule("cosine", warm_up=1.5)

    def make(optimizer):
        return LambdaLR(optimizer, lambda step: schedule.rate_at(step, 4, 20))

    whole = rates(make, 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    state = scheduler.state_dict()
    again = make(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    again.load_state_dict(state)
    assert again.get_last_lr()[0] == whole[7]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"warm_up": -1}, ValueError, "warm_up: expected a number from 0 on, got -1"),
        ({"kind": "plateau", "warm_up": 2}, NotImplementedError, "expected no warm_up before a plateau, got 2"),
        ({"kind": "cosine", "stop_at": 1e-3}, ValueError, "expected no stop_at if the rate changes with each batch"),
        ({"warm_up": 1, "stop_at": 1e-3}, ValueError, "got 0.001"),
    ],
)
def test_what_does_not_go_together_is_said(options, error, said):
    with pytest.raises(error, match=said):
        Schedule(**options)
