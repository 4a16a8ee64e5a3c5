"""The One-Euro filter: laws of Casiez, Roussel and Vogel's equations, any time stamps, and where the task uses it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prernn.tasks.face.smoothing import Smoothing, smooth, smooth_step, smoothing_from

STEPS, POINTS = 40, 3


def walk(seed=0, steps=STEPS):
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(steps, POINTS, 2, generator=chance, dtype=torch.float64).cumsum(0)


def clock(steps=STEPS, rate=25.0):
    return torch.arange(steps, dtype=torch.float64) / rate


def sizes(steps=STEPS):
    return torch.full((steps,), 10.0, dtype=torch.float64)


def by_numbers(values, times, size, cutoff, beta, derivative_cutoff=1.0):
    """The paper's algorithm for one number, in plain Python."""

    def share(frequency, passed):
        return 1 / (1 + 1 / (2 * math.pi * frequency) / passed)

    kept, speed, shown = values[0], 0.0, [values[0]]
    for value, before, now in zip(values[1:], times, times[1:], strict=False):
        passed = now - before
        change = (value - kept) / passed / size
        speed += share(derivative_cutoff, passed) * (change - speed)
        kept += share(cutoff + beta * abs(speed), passed) * (value - kept)
        shown.append(kept)
    return shown


@given(st.floats(0.1, 20), st.floats(0, 50), st.integers(0, 99))
def test_a_coordinate_by_itself_is_the_papers_filter(cutoff, beta, seed):
    points = walk(seed)
    points[..., 1] = 0  # so that a point's speed is that of x
    found = smooth(points, clock(), sizes(), Smoothing(cutoff, beta))
    wanted = by_numbers(points[:, 0, 0].tolist(), clock().tolist(), 10.0, cutoff, beta)
    torch.testing.assert_close(found[:, 0, 0], torch.tensor(wanted, dtype=torch.float64), atol=1e-9, rtol=1e-9)


def test_what_rests_stays_and_a_high_cutoff_changes_nothing():
    still = walk(steps=1).expand(STEPS, -1, -1)
    torch.testing.assert_close(smooth(still, clock(), sizes(), Smoothing()), still, atol=1e-12, rtol=0)
    points = walk()
    torch.testing.assert_close(smooth(points, clock(), sizes(), Smoothing(1e12, 0)), points, atol=1e-6, rtol=0)


def test_even_motion_lags_by_the_time_constant():
    """Behind a fixed cutoff a ramp is late by tau, which is ``1 / (2 pi f_c)`` seconds."""
    ramp = torch.arange(500.0, dtype=torch.float64)[:, None, None].expand(-1, 1, 2)
    found = smooth(ramp, clock(500), sizes(500), Smoothing(0.8, 0.0))
    assert (ramp - found)[-1, 0, 0].item() == pytest.approx(25 / (2 * math.pi * 0.8), rel=1e-6)


def test_faster_points_lag_less_and_resting_ones_as_without_beta():
    ramp = 2 * torch.arange(500.0, dtype=torch.float64)[:, None, None].expand(-1, 1, 2)
    late = [
        float((ramp - smooth(ramp, clock(500), sizes(500), Smoothing(0.5, beta)))[-1, 0, 0]) for beta in (0, 0.1, 1)
    ]
    assert late[0] > late[1] > late[2] > 0


def test_scale_of_the_picture_plays_no_part():
    points = walk()
    twice = smooth(2 * points, clock(), 2 * sizes(), Smoothing())
    torch.testing.assert_close(twice, 2 * smooth(points, clock(), sizes(), Smoothing()))


@given(st.integers(1, STEPS - 1), st.integers(0, 99))
def test_steps_equal_the_whole_in_any_chunks_and_rows(cut, seed):
    points, times, size = walk(seed), clock(), sizes()
    state, shown = None, []
    for value, now, scale in zip(points, times, size, strict=True):
        value, state = smooth_step(value, now, scale, state, Smoothing())
        shown.append(value)
    whole = smooth(points, times, size, Smoothing())
    torch.testing.assert_close(torch.stack(shown), whole, atol=1e-12, rtol=0)
    rows = smooth(torch.stack([points, walk(seed + 1)]), times.expand(2, -1), size.expand(2, -1), Smoothing())
    torch.testing.assert_close(rows[0], whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        smooth(points[:cut], times[:cut], size[:cut], Smoothing()), whole[:cut], atol=1e-12, rtol=0
    )


@given(st.lists(st.sampled_from([0.0, 0.04, 0.04, 3.0, -0.04, -100.0, 1e-300]), min_size=1, max_size=30))
def test_no_time_stamps_give_anything_but_numbers_between_what_was_seen(passed):
    times = torch.tensor(passed, dtype=torch.float64).cumsum(0)
    points = walk(steps=len(passed))
    found = smooth(points, times, sizes(len(passed)), Smoothing())
    assert bool(found.isfinite().all())
    assert bool((found <= points.cummax(0).values + 1e-9).all())
    assert bool((found >= points.cummin(0).values - 1e-9).all())


def test_a_repeated_stamp_holds_and_one_that_jumps_back_begins_anew():
    points, times = walk(steps=4), torch.tensor([0.0, 0.04, 0.04, 0.01], dtype=torch.float64)
    found = smooth(points, times, sizes(4), Smoothing())
    assert torch.equal(found[2], found[1])
    assert torch.equal(found[3], points[3])
    assert not torch.equal(found[1], points[1])


@pytest.mark.parametrize("wrong", [{"min_cutoff": 0}, {"min_cutoff": math.nan}, {"beta": -1}, {"derivative_cutoff": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Smoothing(**wrong)


def test_settings_as_text():
    assert smoothing_from("2,0.5") == Smoothing(2.0, 0.5)
    assert smoothing_from("none") is None
    for wrong in ("", "1", "1,2,3", "a,b", "0,1"):
        with pytest.raises(ValueError, match="smooth"):
            smoothing_from(wrong)
