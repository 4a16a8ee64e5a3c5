"""Landmark files, the mirror image of a face, and errors against loops written out."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equations import close
from footage import SHARED, face
from prernn.media.video import VideoError
from prernn.tasks.face.landmarks import (
    MIRROR,
    auc,
    cumulative_error,
    inter_ocular,
    jitter,
    mirror,
    motion_errors,
    normalized_errors,
    read_pts,
    write_pts,
)

FACES = SHARED / "face-300vw-layout"


def test_a_symmetric_face_is_its_mirror_image():
    points = 10 * face() + 20  # the middle of a picture of 41 pixels
    close(mirror(points, 41), points)


def test_mirror_swaps_sides():
    assert sorted(MIRROR) == list(range(68))
    assert [MIRROR[i] for i in MIRROR] == list(range(68))
    pairs = {
        0: 16,
        17: 26,
        21: 22,
        31: 35,
        36: 45,
        37: 44,
        39: 42,
        40: 47,
        41: 46,
        48: 54,
        50: 52,
        59: 55,
        60: 64,
        67: 65,
    }
    assert {i: MIRROR[i] for i in pairs} == pairs
    assert [i for i in range(68) if MIRROR[i] == i] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    points = torch.rand(3, 68, 2, dtype=torch.float64)
    close(mirror(mirror(points, 7), 7), points)
    close(mirror(points, 7)[..., 0, :], torch.stack([6 - points[..., 16, 0], points[..., 16, 1]], -1))


@pytest.mark.skipif(not FACES.is_dir(), reason="no shared data")
def test_mirror_fits_real_faces():
    files = [FACES / f"{i:04d}" / "annot" / "000001.pts" for i in range(1, 201)]
    points = torch.stack([read_pts(file, base=0) for file in files])
    points = points - points.mean(1, keepdim=True)
    mean = (points / inter_ocular(points)[:, None, None]).mean(0)
    wrong = mean.clone()
    wrong[:, 0] *= -1  # mirrored without swapping sides
    assert normalized_errors(mirror(mean, 1), mean) < 0.05 < 0.5 < normalized_errors(wrong, mean)


# ------------------------------------------------------------------------------------------------------------ files


@given(st.integers(0, 1), st.integers(0, 1000))
def test_files_come_back(tmp_path_factory, base, seed):
    points = torch.randn(68, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 300
    path = write_pts(tmp_path_factory.mktemp("pts") / "000001.pts", points, base)
    close(read_pts(path, base), points, atol=1e-6)
    close(read_pts(path, 1 - base), points + 2 * base - 1, atol=1e-6)


def lines(count=68):
    return ["version: 1", f"n_points:  {count}", "{", *(f"{i + 1}.5 {2 * i}" for i in range(count)), "}"]


def test_a_file_of_300vw(tmp_path):
    path = tmp_path / "1.pts"
    path.write_text("\r\n".join([*lines(), "", ""]))
    points = read_pts(path)
    assert points.dtype == torch.float64
    close(points[67], torch.tensor([67.5, 133.0], dtype=torch.float64))  # the file's 68.5 and 134 count from 1


def changed(number, text):
    rows = lines()
    rows[number - 1] = text
    return rows


@pytest.mark.parametrize(
    ("rows", "where", "what"),
    [
        ([], 1, "version"),
        (changed(1, "points"), 1, "version"),
        (lines()[:1], 2, "n_points"),
        (changed(2, "n_points: many"), 2, "n_points"),
        (lines(67), 2, "67"),
        (changed(3, "1 2"), 3, "{"),
        (lines()[:-1], 71, "no '}'"),
        (lines()[:-2], 70, "got 67 and no '}'"),
        ([*lines()[:-2], "}"], 71, "got 67"),
        ([*lines()[:-1], "1 2", "}"], 73, "got 69"),
        ([*lines(), "1 2"], 72, "1 more lines"),
        (changed(10, "1 2 3"), 10, "two numbers"),
        (changed(10, "1"), 10, "two numbers"),
        (changed(10, ""), 10, "two numbers"),
        (changed(10, "1 two"), 10, "two numbers"),
        (changed(71, "nan 2"), 71, "coordinates"),
        (changed(4, "1 -inf"), 4, "coordinates"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, rows, where, what):
    path = tmp_path / "000007.pts"
    path.write_text("\n".join(rows))
    with pytest.raises(VideoError) as error:
        read_pts(path)
    message = str(error.value)
    assert message.startswith(f"{path}:{where}: expected")
    assert what in message
    assert "\n" not in message


def test_an_absent_file(tmp_path):
    with pytest.raises(VideoError, match=r"none\.pts: no landmarks"):
        read_pts(tmp_path / "none.pts")


@pytest.mark.parametrize("points", [torch.zeros(67, 2), torch.full((68, 2), math.nan)])
def test_points_that_are_not_written(tmp_path, points):
    with pytest.raises(ValueError, match="expected finite landmarks"):
        write_pts(tmp_path / "a.pts", points)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- errors


def distance(a, b):
    return math.hypot(float(a[0] - b[0]), float(a[1] - b[1]))


def pair(frames, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames, 68, 2, dtype=torch.float64, generator=chance).mul(40).unbind(0)


@given(st.integers(1, 4), st.integers(0, 1000))
def test_errors_are_mean_distances_in_units_of_the_eyes(frames, seed):
    predicted, true = pair(frames, seed)
    wanted = [
        sum(distance(p, y) for p, y in zip(*both, strict=True)) / 68 / distance(both[1][36], both[1][45])
        for both in zip(predicted, true, strict=True)
    ]
    close(normalized_errors(predicted, true), torch.tensor(wanted, dtype=torch.float64))


@given(st.integers(2, 5), st.integers(0, 1000))
def test_jitter_is_the_distance_between_motions(frames, seed):
    predicted, true = pair(frames, seed)
    steps = []
    for t in range(1, frames):
        moves = [
            distance(predicted[t, i] - predicted[t - 1, i], true[t, i] - true[t - 1, i])
            / distance(true[t, 36], true[t, 45])
            for i in range(68)
        ]
        steps.append(sum(moves) / 68)
    close(motion_errors(predicted, true), torch.tensor(steps, dtype=torch.float64))
    close(jitter(predicted, true), torch.tensor(steps, dtype=torch.float64).mean())


def test_jitter_leaves_out_a_constant_offset():
    _, true = pair(6)
    close(jitter(true + 17.0, true), torch.zeros((), dtype=torch.float64), atol=1e-12)
    assert math.isnan(jitter(true[:1], true[:1]))


def test_shapes_and_eyes_that_do_not_fit():
    predicted, true = pair(2)
    with pytest.raises(ValueError, match="one shape"):
        normalized_errors(predicted[:1], true)
    with pytest.raises(ValueError, match=r"\(\.\.\., 68, 2\)"):
        normalized_errors(predicted[:, :67], true[:, :67])
    true[1, 45] = true[1, 36]
    with pytest.raises(ValueError, match="at one place"):
        normalized_errors(predicted, true)


some_errors = st.lists(st.one_of(st.floats(0, 0.2), st.just(math.inf), st.just(math.nan)), min_size=1, max_size=30)


@given(some_errors, st.floats(0.01, 0.15), st.integers(1, 20))
def test_the_curve_counts_frames(errors, threshold, bins):
    levels, shares = cumulative_error(torch.tensor(errors, dtype=torch.float64), threshold, bins)
    assert len(levels) == bins + 1
    assert float(levels[0]) == 0
    assert float(levels[-1]) == pytest.approx(threshold)
    for level, share in zip(levels.tolist(), shares.tolist(), strict=True):
        assert share == pytest.approx(sum(e <= level for e in errors) / len(errors))


@given(some_errors, st.floats(0.01, 0.15))
def test_auc_is_the_integral_of_the_curve(errors, threshold):
    """The exact integral of the staircase, from jump to jump."""
    jumps = sorted({e for e in errors if e < threshold} | {0.0, threshold})
    area = sum((b - a) * sum(e <= a for e in errors) / len(errors) for a, b in pairwise(jumps))
    found = auc(torch.tensor(errors, dtype=torch.float64), threshold)
    assert float(found) == pytest.approx(area / threshold, abs=1e-12)


def test_auc_agrees_with_the_sampled_curve():
    errors = torch.rand(500, dtype=torch.float64) * 0.12
    levels, shares = cumulative_error(errors, 0.08, bins=20000)
    assert float(torch.trapezoid(shares, levels)) / 0.08 == pytest.approx(float(auc(errors)), abs=1e-4)


def test_auc_of_extremes():
    assert float(auc(torch.zeros(3))) == 1
    assert float(auc(torch.tensor([0.08, 1.0], dtype=torch.float64))) == 0
    assert float(auc(torch.tensor([0.04, math.nan]))) == pytest.approx(0.25)
    assert math.isnan(auc(torch.zeros(0)))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="threshold"):
            auc(torch.zeros(3), bad)
        with pytest.raises(ValueError, match="threshold"):
            cumulative_error(torch.zeros(3), bad)
