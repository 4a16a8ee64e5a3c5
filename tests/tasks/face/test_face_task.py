"""Face alignment: clips on disk and what a network is given of them."""

import math
import pickle

import numpy as np
import pytest
import torch

from equations import close
from face_clips import LONELY, SPEC, WIDTH, centroid, chance, make_face, motion, opened, video
from footage import SHARED
from prernn.conversion.recipe import Recipe
from prernn.media.sampling import Sampling
from prernn.tasks.face import videos
from prernn.tasks.face.box import face_box, from_box
from prernn.tasks.face.landmarks import MIRROR, draw_points
from prernn.tasks.face.task import Face
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset

FACES = SHARED / "face-300vw-layout"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for name in ("a", "b", "c", "d", "e"):
        make_face(root, name)
    return root


# ------------------------------------------------------------------------------------------------------------ clips


def check_dots(item, flipped):
    """The dots of a clip's crops lie on the landmarks that have one; a mirrored face has them on the other side."""
    crops = item["input"][:, 0].numpy() * SPEC["std"][0] + SPEC["mean"][0]
    places = (item["points"].view(-1, 68, 2).numpy() + 0.5) * SPEC["size"] - 0.5
    for crop, points in zip(crops, places, strict=True):
        places = points[[MIRROR[i] for i in LONELY] if flipped else LONELY]
        whole = [place for place in places if min(place) > 6 and max(place) < SPEC["size"] - 7]  # not cut by the edge
        assert len(whole) >= 3
        for place in whole:
            assert np.abs(centroid(crop, place) - place).max() < 0.3


def test_a_clip_has_its_landmarks_in_place(root):
    item = opened(root).read(video(root), None)
    assert item["input"].shape == (5, 3, 96, 96)
    assert item["points"].shape == (5, 136)
    assert item["frame"].tolist() == [1, 2, 3, 4, 5]
    check_dots(item, False)
    close(item["truth"].double(), torch.stack([motion(t) for t in range(5)]), atol=1e-4)
    close(from_box(item["points"].view(5, 68, 2), item["boxes"]), item["truth"], atol=1e-4)
    close(item["points"].view(5, 68, 2).abs().amax((1, 2)), torch.full((5,), 0.5 / 1.4), atol=1e-6)


def test_first_box_stays(root):
    item = opened(root, box="first").read(video(root), None)
    close(item["boxes"], item["boxes"][:1].expand(5, 4))
    close(item["boxes"][:1].double(), face_box(motion(0)[None], 0.2), atol=1e-4)
    check_dots(item, False)


def test_normalization(root):
    plain = Face(mean=(0, 0, 0), std=(1, 1, 1))
    plain.open(root, SPEC)
    raw, item = plain.read(video(root), None)["input"], opened(root).read(video(root), None)["input"]
    assert 0.8 < float(raw.max()) <= 1 + 1e-6
    mean, std = torch.tensor(SPEC["mean"])[:, None, None], torch.tensor(SPEC["std"])[:, None, None]
    close(item, (raw - mean) / std, atol=1e-5)


def test_training_draws_one_box_a_clip_and_mirrors_half(root):
    task = opened(root, shift=0.1, scale=0.2)
    items = [task.read(video(root), chance(seed)) for seed in range(12)]
    plain = [motion(t) for t in range(5)]
    sides = []
    for item in items:
        flipped = bool((item["truth"][0, 0] - plain[0][0].float()).abs().max() > 1)
        sides.append(flipped)
        check_dots(item, flipped)
        close(from_box(item["points"].view(5, 68, 2), item["boxes"]), item["truth"], atol=1e-4)
        base = face_box(item["truth"], 0.2)
        side = base[:, 2] - base[:, 0]
        scale = (item["boxes"][:, 2] - item["boxes"][:, 0]) / side
        move = (item["boxes"] - base).view(5, 2, 2).mean(1) / side[:, None]
        close(scale, scale[:1].expand(5), atol=1e-4)
        close(move, move[:1].expand(5, 2), atol=1e-4)
        assert 0.8 <= float(scale[0]) <= 1.2
        assert float(move.abs().max()) <= 0.1 + 1e-6
    assert len({float(item["boxes"][0, 0]) for item in items}) == 12
    assert 2 <= sum(sides) <= 10
    assert all(torch.equal(task.read(video(root), chance(3))[key], items[3][key]) for key in items[3])


def test_a_mirrored_face_keeps_left_and_right(root):
    item = next(
        item
        for seed in range(20)
        if (item := opened(root, shift=0, scale=0).read(video(root), chance(seed)))["truth"][0, 8, 0] > 80
    )
    assert (item["truth"][:, 36, 0] < item["truth"][:, 45, 0]).all()  # the left eye of the picture is still 36
    close(item["truth"][0, 36].double(), torch.tensor([WIDTH - 1 - motion(0)[45, 0], motion(0)[45, 1]]), atol=1e-4)


def test_evaluation_sees_every_frame_once(root):
    task = opened(root, sampling=Sampling(2, "consecutive"))
    records = task.records("test")
    assert [list(r.frames) for r in records if r.path == records[0].path] == [[0, 1], [2, 3], [4]]
    assert [task.length(r) for r in records[:3]] == [2, 2, 1]
    numbers = [task.read(r, None)["frame"].tolist() for r in records[:3]]
    assert numbers == [[1, 2], [3, 4], [5]]
    strided = opened(root, sampling=Sampling(2, "consecutive", stride=2)).records("test")
    assert [list(r.frames) for r in strided if r.path == strided[0].path] == [[0, 2], [4]]
    middle = opened(root, sampling=Sampling(3, "consecutive"), every_frame=False)
    assert [r.frames for r in middle.records("test")] == [None] * len({r.path for r in records})
    assert middle.read(middle.records("test")[0], None)["frame"].tolist() == [2, 3, 4]
    assert middle.length(middle.records("test")[0]) == 3
    everything = opened(root, sampling=Sampling(None, "all"))
    assert everything.read(everything.records("test")[0], None)["frame"].tolist() == [1, 2, 3, 4, 5]


def test_training_takes_several_clips_a_video(root):
    task = opened(root, clips=3, sampling=Sampling(2, "consecutive"))
    records = task.records("train")
    assert len(records) == 3 * 4
    assert {tuple(task.read(records[0], chance(seed))["frame"].tolist()) for seed in range(40)} == {
        (1, 2), (2, 3), (3, 4), (4, 5)
    }  # fmt: skip


def test_clips_that_follow_each_other_are_decoded_once(root, monkeypatch):
    opens = []
    real = videos.read_frames
    monkeypatch.setattr(videos, "read_frames", lambda *a, **k: opens.append(a) or real(*a, **k))
    task = opened(root, sampling=Sampling(1, "consecutive"))
    clips = [video(root, frames=range(t, t + 1)) for t in range(5)]
    whole = opened(root).read(video(root), None)
    opens.clear()
    items = [task.read(clip, None) for clip in clips]
    assert len(opens) == 1
    close(torch.cat([item["input"] for item in items]), whole["input"])
    close(task.read(clips[1], None)["input"], items[1]["input"])  # back
    close(task.read(video(root, "b", range(3, 4)), None)["input"], items[3]["input"])  # another video
    assert len(opens) == 3
    close(pickle.loads(pickle.dumps(task)).read(clips[4], None)["input"], items[4]["input"])


def test_items_make_batches(root):
    task = opened(root, sampling=Sampling(3, "consecutive"))
    records = task.records("test")
    batch = collate([VideoDataset(task, records)[i] for i in (0, 1)])
    assert batch["input"].shape == (2, 3, 3, 96, 96)
    assert batch["lengths"].tolist() == [3, 2]
    assert batch["truth"].shape == (2, 3, 68, 2)
    assert batch["frame"].tolist() == [[1, 2, 3], [4, 5, 0]]


# ---------------------------------------------------------------------------------------------------------- reports


def test_points_are_drawn_on_a_copy():
    frame = np.zeros((40, 60, 3), np.uint8)
    points = np.array([[20.0, 10.0], [30.0, 30.0], [math.nan, 1.0], [-50.0, 1e9]])
    drawn = draw_points(frame, points, box=(5, 6, 50, 35), color=(255, 0, 7))
    assert not frame.any()
    assert (
        drawn[10, 20].tolist()
        == drawn[30, 30].tolist()
        == drawn[6, 5].tolist()
        == drawn[35, 50].tolist()
        == [255, 0, 7]
    )
    assert drawn[20, 20].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="uint8"):
        draw_points(frame.astype(float), points)


def test_the_recipe_makes_the_task_again(root):
    task = opened(root, base=0, box="first", margin=0.3, threshold=0.1)
    recipe = task.noted(Recipe())
    kept = {"base": 0, "box": "first", "margin": 0.3, "threshold": 0.1, "deinterlace": False, "smooth": None}
    kept |= {"kalman": None, "normaliser": "eyes"}
    assert recipe.task.to_json() == {"name": "face", **kept}
    assert recipe.labels is None
    assert recipe.transform["size"] == 96
    assert Face(**recipe.task.options).noted(Recipe()).task == recipe.task
    assert task.outputs == 136


@pytest.mark.skipif(not FACES.is_dir(), reason="no shared data")
def test_real_faces_read():
    task = Face(base=0)
    task.open(FACES, SPEC)
    assert [len(task.records(subset)) for subset in ("train", "test")] == [700, 150]
    assert not task.has_validation
    item = task.read(task.records("test")[0], None)
    assert item["input"].shape == (3, 3, 96, 96)
    assert float(item["points"].abs().max()) == pytest.approx(0.5 / 1.4, abs=1e-6)
