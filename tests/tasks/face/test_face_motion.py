"""How landmarks move: tremble, stillness and lag of points whose motion is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from footage import face
from prernn.tasks.face.landmarks import inter_ocular
from prernn.tasks.face.motion import MOST_LAG, lag, still, trembles


def along(values, scale=40.0):
    """A face that moves to the right by so many pixels in each frame's place, ``(T, 68, 2)``."""
    shift = torch.as_tensor(values, dtype=torch.float64)[:, None, None] * torch.tensor([1.0, 0.0], dtype=torch.float64)
    return face() * scale + 100 + shift


def waves(steps=120):
    return 20 * (torch.arange(steps, dtype=torch.float64) / 9).sin()


@given(st.floats(-5, 5), st.floats(-3, 3))
def test_even_motion_does_not_tremble_and_acceleration_does(speed, acceleration):
    times = torch.arange(12, dtype=torch.float64)
    points = along(speed * times + acceleration / 2 * times**2)
    size = inter_ocular(points)
    torch.testing.assert_close(trembles(points, size), abs(acceleration) / size[1:-1], atol=1e-9, rtol=1e-6)


def test_points_drawn_anew_tremble_by_their_spread():
    chance = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(4000, 68, 2, generator=chance, dtype=torch.float64)
    value = trembles(noise, torch.ones(4000, dtype=torch.float64)).mean().item()
    assert value == pytest.approx(0.3 * math.sqrt(6) * math.sqrt(math.pi / 2), rel=0.01)


def test_still_is_where_both_steps_are_small():
    unit = inter_ocular(along([0.0]))[0].item()
    steps = torch.tensor([0.0, 0.0, 0.004, 0.0, 0.02, 0.0, 0.0, 0.0]) * unit
    assert still(along(steps.cumsum(0))).tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize("late", [0, 1, 2.5, 4, -1])
def test_lag_is_the_shift_to_a_part_of_a_frame_whatever_the_offset(late):
    times = torch.arange(150, dtype=torch.float64)

    def at(times):
        return 20 * (times / 9).sin() + 8 * (times / 4 + 1).cos()

    true, guess = along(at(times)), along(at(times - late)) + torch.randn(68, 2, dtype=torch.float64)
    assert lag(guess, true) == pytest.approx(late, abs=0.05)
    assert lag(guess[None].expand(3, -1, -1, -1), true[None].expand(3, -1, -1, -1)) == pytest.approx(late, abs=0.05)


def test_lag_says_no_more_than_it_looked_for():
    assert lag(along(waves().roll(15)), along(waves())) in (MOST_LAG, -2.0)
    assert math.isnan(lag(along(torch.zeros(50)), along(torch.zeros(50))))
    with pytest.raises(ValueError, match="at least 15 frames"):
        lag(along(torch.zeros(10)), along(torch.zeros(10)))
