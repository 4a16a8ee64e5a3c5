"""The box around a face, and its pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equations import close
from face_clips import LONELY, centroid, chance, dots, motion
from prernn.tasks.face.box import crop_face, face_box, from_box, moved, overlap, share_inside, square, to_box


def random_points(seed, *shape):
    return torch.randn(*shape, 2, dtype=torch.float64, generator=chance(seed)) * 100


@given(st.integers(0, 1000), st.floats(0, 1))
def test_the_box_is_the_square_round_the_points(seed, margin):
    points = random_points(seed, 3, 68)
    box = face_box(points, margin)
    for one, (x0, y0, x1, y1) in zip(points, box.tolist(), strict=True):
        (left, top), (right, bottom) = one.min(0).values.tolist(), one.max(0).values.tolist()
        longer = max(right - left, bottom - top)
        assert x1 - x0 == pytest.approx(longer * (1 + 2 * margin))
        assert y1 - y0 == pytest.approx(x1 - x0)
        assert x0 + x1 == pytest.approx(left + right, abs=1e-9)
        assert y0 + y1 == pytest.approx(top + bottom, abs=1e-9)


@given(st.integers(0, 1000))
def test_box_coordinates_come_back(seed):
    points = random_points(seed, 4, 68)
    boxes = face_box(random_points(seed + 1, 4, 68), 0.2)
    close(from_box(to_box(points, boxes), boxes), points, atol=1e-10)


def test_box_coordinates_are_zero_in_the_middle_and_half_at_the_edges():
    box = torch.tensor([10.0, 20.0, 30.0, 40.0])
    points = torch.tensor([[10.0, 20.0], [20.0, 30.0], [30.0, 40.0]])
    close(to_box(points, box), torch.tensor([[-0.5, -0.5], [0.0, 0.0], [0.5, 0.5]]))


def test_moved_square_overlap_and_share():
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    close(moved(box, torch.tensor([0.1, -0.2]), 2.0), torch.tensor([-4.0, -7.0, 16.0, 13.0]))
    close(square(torch.tensor([0.0, 0.0, 10.0, 20.0]), 0.1), torch.tensor([-7.0, -2.0, 17.0, 22.0]))
    assert overlap(box, box + 5) == pytest.approx(25 / 175)
    assert overlap(box, box + 20) == 0
    assert share_inside(box - 5.5, 100, 100) == pytest.approx(0.25)
    assert share_inside(box + torch.tensor([14.5, 0, 14.5, 0]), 100, 20) == pytest.approx(0.5)
    assert share_inside(box + 200, 100, 100) == 0


def plain_crop(frame, box, size):
    """Bilinear interpolation written out, averaged over the fine pixels of each pixel."""
    x0, y0, x1, _ = box.tolist()
    finer = max(1, math.ceil((x1 - x0) / size - 1e-6))
    step = (x1 - x0) / (size * finer)

    def axis(start, length):
        place = np.clip(start + (np.arange(size * finer) + 0.5) * step, 0, length - 1)
        low = np.minimum(place.astype(int), length - 2)
        return low, place - low

    (ix, wx), (iy, wy) = axis(x0, frame.shape[1]), axis(y0, frame.shape[0])
    wx, wy = wx[None, :, None], wy[:, None, None]
    picture = frame.astype(float)
    top = picture[iy][:, ix] * (1 - wx) + picture[iy][:, ix + 1] * wx
    bottom = picture[iy + 1][:, ix] * (1 - wx) + picture[iy + 1][:, ix + 1] * wx
    fine = top * (1 - wy) + bottom * wy
    return fine.reshape(size, finer, size, finer, 3).mean((1, 3)).transpose(2, 0, 1)


@given(st.floats(-60, 60), st.floats(-60, 60), st.floats(0.5, 120), st.integers(1, 24), st.integers(0, 10))
def test_crop_is_bilinear_interpolation(x, y, side, size, seed):
    frame = np.random.default_rng(seed).integers(0, 256, (31, 43, 3), dtype=np.uint8)
    size = max(size, math.ceil(side / 8))  # eight times finer at most
    box = torch.tensor([x, y, x + side, y + side], dtype=torch.float64)
    found = crop_face(frame, box, size)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), plain_crop(frame, box, size), atol=0.05)


def test_crop_of_a_box_of_whole_pixels_is_those_pixels():
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    found = crop_face(frame, torch.tensor([4.5, 2.5, 12.5, 10.5]), 8)
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), frame[3:11, 5:13], atol=1e-3)


def test_crop_takes_views_and_refuses_other_frames():
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    box = torch.tensor([4.0, 2.0, 12.0, 10.0])
    close(crop_face(frame[:, ::-1], box, 8), crop_face(frame[:, ::-1].copy(), box, 8))
    close(crop_face(torch.from_numpy(frame), box, 8), crop_face(frame, box, 8))
    with pytest.raises(ValueError, match="uint8"):
        crop_face(frame.astype(np.float32), box, 8)
    for bad in ([4.0, 2.0, 4.0, 2.0], [math.nan, 2.0, 12.0, 10.0], [0.0, 0.0, math.inf, math.inf]):
        with pytest.raises(ValueError, match="box"):
            crop_face(frame, torch.tensor(bad), 8)


@pytest.mark.parametrize("size", [48, 96, 224])
def test_dots_are_where_their_coordinates_say(size):
    points = motion(0)[LONELY]
    frame = dots(points)
    box = moved(face_box(motion(0), 0.2), torch.tensor([0.03, -0.04]), 1.1)
    crop = crop_face(frame, box, size)[0].numpy()
    places = (to_box(points, box) + 0.5) * size - 0.5
    for place in places.numpy():
        reach = 5 * size / float(box[2] - box[0])
        assert np.abs(centroid(crop, place, reach) - place).max() < 0.1
