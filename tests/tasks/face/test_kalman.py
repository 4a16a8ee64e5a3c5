"""The Kalman filter of points: it is least squares, it does not lag behind even motion, and it goes on from a state."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.tasks.face.kalman import FIRST_SPEED, Kalman
from prernn.tasks.face.smoothing import smooth, smooth_on

SIZE = 8.0


def walk(seed, steps=12):
    return torch.randn(steps, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(0)


def sizes(steps):
    return torch.full((steps,), SIZE, dtype=torch.float64)


def least_squares(values, times, kalman):
    """The last place of the path that is most likely given all measurements: places and speeds at every step."""
    steps, rows, wanted = len(values), [], []

    def add(coefficients, value, covariance):
        whiten = np.linalg.inv(np.linalg.cholesky(np.atleast_2d(covariance)))
        rows.extend(whiten @ np.atleast_2d(coefficients))
        wanted.extend(whiten @ np.atleast_1d(value))

    unit = np.eye(2 * steps)
    add(unit[:2], [values[0], 0.0], np.diag([kalman.noise**2, FIRST_SPEED**2]))  # the first one, and how fast
    for t in range(1, steps):
        d = times[t] - times[t - 1]
        moved = np.array([[1, d], [0, 1]]) @ unit[2 * t - 2 : 2 * t]
        drift = kalman.motion**2 * np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]])
        add(unit[2 * t : 2 * t + 2] - moved, [0.0, 0.0], drift)
        add(unit[2 * t], values[t], kalman.noise**2)
    return np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0][-2]


@settings(max_examples=20)
@given(st.floats(0.2, 5), st.floats(0.005, 0.5), st.integers(0, 99))
def test_each_value_is_the_most_likely_place_given_all_points_so_far(motion, noise, seed):
    kalman, points = Kalman(motion, noise), walk(seed, 6)
    times = torch.tensor([0.0, 0.04, 0.08, 0.2, 0.24, 0.3], dtype=torch.float64)
    found = smooth(points, times, sizes(6), kalman)
    for steps in (1, 2, 4, 6):
        values = (points[:steps, 1, 0] / SIZE).tolist()
        assert float(found[steps - 1, 1, 0]) / SIZE == pytest.approx(
            least_squares(values, times.tolist(), kalman), abs=1e-6
        )


def test_it_smooths_noise_and_does_not_lag_behind_even_motion():
    times = torch.arange(200, dtype=torch.float64) / 25
    even = times[:, None, None] * torch.tensor([3.0, -2.0], dtype=torch.float64) + 50
    noise = 0.2 * torch.randn(200, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kalman = Kalman(motion=0.1, noise=0.2 / SIZE)
    assert (smooth(even, times, sizes(200), kalman) - even)[50:].abs().max() < 1e-3
    error = (smooth(even + noise, times, sizes(200), kalman) - even)[50:]
    assert error.std() < 0.5 * noise[50:].std()


@given(st.integers(1, 11), st.integers(0, 99))
def test_chunks_and_rows_equal_the_whole(cut, seed):
    points = torch.stack([walk(seed), walk(seed + 1)])  # (B, T, N, 2)
    times = (torch.arange(12, dtype=torch.float64) / 25).expand(2, -1)
    size = torch.stack([sizes(12), 2 * sizes(12)])
    whole = smooth(points, times, size, Kalman())
    first, state = smooth_on(points[:, :cut], times[:, :cut], size[:, :cut], Kalman(), None)
    second, _ = smooth_on(points[:, cut:], times[:, cut:], size[:, cut:], Kalman(), state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(smooth(points[1], times[1], size[1], Kalman()), whole[1], rtol=0, atol=1e-12)


def test_a_repeated_stamp_holds_and_one_that_jumps_back_begins_anew():
    points, times = walk(3, 4), torch.tensor([0.0, 0.04, 0.04, 0.01], dtype=torch.float64)
    found = smooth(points, times, sizes(4), Kalman())
    assert torch.equal(found[2], found[1])
    assert torch.equal(found[3], points[3])


@pytest.mark.parametrize("wrong", [{"motion": 0}, {"noise": 0}, {"noise": -1}, {"motion": float("nan")}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=f"kalman {next(iter(wrong))}"):
        Kalman(**wrong)
