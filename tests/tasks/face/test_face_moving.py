"""Clips of one picture that moves: the landmarks go where the picture goes, and chance is that of the seed."""

import numpy as np
import pytest
import torch

from face_clips import HEIGHT, LONELY, WIDTH, centroid, chance, dots, make_face, motion, opened, video
from prernn.models.from_config import NetworkSpec
from prernn.tasks import restore
from prernn.tasks.face.moving import Moving, moved_pictures, moved_points, path
from prernn.tasks.face.smoothing import Smoothing

QUIET = Moving(frames=9, noise=0.0, rest=0.0, fps=5.0, turn=10.0)


def test_points_go_where_the_picture_goes():
    points = motion(0)
    maps = path(QUIET, 80.0, torch.tensor([70.0, 60.0]), chance(3))
    frames, moved = moved_pictures(dots(points[LONELY]), maps, 0.0, chance()), moved_points(points, maps)
    assert frames.shape == (9, HEIGHT, WIDTH, 3)
    assert moved.shape == (9, 68, 2)
    assert float((moved - moved[0]).abs().max()) > 5  # pixels
    for frame, places in zip(frames, moved, strict=True):
        for place in places[LONELY].numpy():
            if 6 < place[0] < WIDTH - 7 and 6 < place[1] < HEIGHT - 7:
                np.testing.assert_allclose(centroid(frame[..., 0].astype(float), place), place, atol=0.15)


def test_a_path_begins_without_motion_stays_within_its_limits_and_rests():
    moving = Moving(frames=600, rest=0.5)
    maps = path(moving, 100.0, torch.tensor([50.0, 50.0]), chance(1))
    torch.testing.assert_close(maps[0], torch.eye(3, dtype=torch.float64)[:2])
    size = torch.linalg.det(maps[:, :, :2]).sqrt()
    assert bool(((size > 1 - moving.scale) & (size < 1 + moving.scale)).all())
    turn = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0])).abs().max()
    assert 0.3 * moving.turn < float(turn) <= moving.turn
    shift = (moved_points(torch.tensor([[50.0, 50.0]]), maps) - 50).abs().max()
    assert 3 < float(shift) <= 100 * moving.shift
    moves = maps.diff(dim=0).abs().amax((1, 2))
    assert 0.2 < float((moves < 1e-12).double().mean()) < 0.6
    everything_rests = path(Moving(frames=50, rest=1.0), 100.0, torch.tensor([50.0, 50.0]), chance())
    assert float(everything_rests.diff(dim=0).abs().max()) == 0


def test_noise_is_that_of_its_seed_and_size():
    picture = np.full((40, 50, 3), 128, np.uint8)
    maps = path(Moving(frames=6), 30.0, torch.tensor([20.0, 20.0]), chance())
    noisy = moved_pictures(picture, maps, 5.0, chance(7))
    assert noisy.std() == pytest.approx(5.0, rel=0.03)
    assert (noisy == moved_pictures(picture, maps, 5.0, chance(7))).all()
    assert (noisy != moved_pictures(picture, maps, 5.0, chance(8))).any()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for name in ("a", "b"):
        make_face(root, name, frames=3)
    for part, name in (("train", "a"), ("test", "b")):
        (root / f"{part}.txt").write_text(f"{name}\n")
    return root


def test_the_task_makes_clips_of_one_picture(faces):
    task = opened(faces, moving=Moving(frames=20, fps=30.0), box="first", size=32)
    (record,) = task.records("test")
    assert (record.frames, task.length(record), task.clip_length, task.rate) == (None, 20, 20, 30.0)
    item = task.read(record, None)
    assert item["input"].shape == (20, 3, 32, 32)
    assert torch.equal(item["time"], torch.arange(20, dtype=torch.float64) / 30)
    assert torch.equal(item["boxes"], item["boxes"][:1].expand(20, -1))
    torch.testing.assert_close(item["truth"][0], motion(1).float(), atol=1e-4, rtol=0)  # the middle one of three
    again = task.read(record, None)
    assert all(torch.equal(item[name], again[name]) for name in ("input", "points", "truth"))
    paths = {tuple(task.read(video(faces), chance(seed))["truth"][-1].flatten().tolist()) for seed in range(4)}
    assert len(paths) == 4
    frames, truth = task.moving_pictures(record)
    torch.testing.assert_close(truth.float(), item["truth"])
    assert len(frames) == 20


def test_a_task_without_motion_has_no_moving_pictures(faces):
    with pytest.raises(ValueError, match="expected a task whose pictures move"):
        opened(faces).moving_pictures(video(faces))


def test_metrics_and_predictions_are_of_smoothed_points_and_a_checkpoint_keeps_the_filter(faces):
    plain = opened(faces, moving=Moving(frames=20), box="first", size=32)
    smooth = opened(faces, moving=Moving(frames=20), box="first", size=32, smooth=Smoothing(0.5, 0.0))
    item = plain.read(plain.records("test")[0], None)
    batch = {name: value[None] for name, value in item.items() if isinstance(value, torch.Tensor)}
    batch |= {"lengths": torch.tensor([20]), "path": ["b"]}
    out = batch["points"] + 0.05 * torch.randn(batch["points"].shape, generator=chance())
    found = []
    for task in (plain, smooth):
        metrics = task.metrics()
        metrics.update(out, batch)
        found.append(metrics.compute())
        rows = task.predictions(out, batch)
        assert rows[5]["nme"] == pytest.approx(float(_errors(task, out, batch)[5]), abs=1e-5)
    assert found[1]["tremble"] < 0.3 * found[0]["tremble"]
    assert found[1]["distance"] == found[0]["distance"]
    assert found[0]["true_tremble"] == found[1]["true_tremble"] < 0.1 * found[0]["tremble"]
    assert torch.equal(plain.loss(out, batch), smooth.loss(out, batch))
    options = {"width": 2, "units": 8, "size": 32}
    net = NetworkSpec("small_vgg", backbone_options=options, method="framewise").build(136)
    assert restore(smooth.noted(net.recipe)).smooth == Smoothing(0.5, 0.0)
    assert restore(plain.noted(net.recipe)).smooth is None


def _errors(task, out, batch):
    from prernn.tasks.face.errors import landmarks_in_pixels
    from prernn.tasks.face.landmarks import normalized_errors

    return normalized_errors(landmarks_in_pixels(out, batch, task.smooth), batch["truth"])[0]
