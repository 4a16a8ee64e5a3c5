"""Face alignment: the box and its pixels, clips on disk, loss, metrics and what is reported."""

import csv
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equations import close
from footage import SHARED, face
from prernn.conversion.recipe import Recipe
from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.media.video import VideoError
from prernn.tasks.face import videos
from prernn.tasks.face.box import crop_face, face_box, from_box, moved, overlap, share_inside, square, to_box
from prernn.tasks.face.landmarks import MIRROR, auc, draw_points, jitter, normalised_errors, write_pts
from prernn.tasks.face.metrics import FaceMetrics, landmark_loss, plot_errors
from prernn.tasks.face.task import Face
from prernn.tasks.face.videos import FaceVideo, subsets
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset

FACES = SHARED / "face-300vw-layout"
SPEC = {"size": 96, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}
HEIGHT, WIDTH = 120, 160
LONELY = [0, 4, 8, 12, 16]  # jaw points, far from the others


def motion(t):
    """The landmarks of frame ``t``: a face that moves and grows, wider on the left to tell the sides apart."""
    points = face()
    points[:, 0] *= torch.where(points[:, 0] < 0, 1.0, 0.9)
    return points * (34 + t) + torch.tensor([70.3 + 2 * t, 55.7 + t])


def dots(points, height=HEIGHT, width=WIDTH, spread=1.5):
    """A black picture with a white dot at each point."""
    y, x = np.mgrid[:height, :width]
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * spread**2)) for px, py in np.asarray(points)]
    return np.repeat((255 * np.max(spots, 0)).round().astype(np.uint8)[..., None], 3, 2)


def centroid(picture, near, reach=5):
    """The middle of the light within ``reach`` pixels of a place."""
    height, width = picture.shape
    y, x = np.mgrid[:height, :width]
    light = picture * (np.hypot(x - near[0], y - near[1]) < reach)
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


def make_face(root, name, frames=5, base=1, annotated=None):
    folder = root / name
    folder.mkdir(parents=True)
    write_video(folder / "vid.mp4", [dots(motion(t)[LONELY]) for t in range(frames)], 25)
    (folder / "vid.mp4").rename(folder / "vid.avi")
    for t in range(frames if annotated is None else annotated):
        write_pts(folder / "annot" / f"{t + 1:06d}.pts", motion(t), base)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for name in ("a", "b", "c", "d", "e"):
        make_face(root, name)
    return root


@pytest.fixture
def lone(tmp_path):
    """A data set whose video ``x`` may be spoiled."""
    make_face(tmp_path, "x", frames=3)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "vid.avi").touch()
    return tmp_path


def opened(root, **options):
    task = Face(**options)
    task.open(root, SPEC)
    return task


def video(root, name="a", frames=None):
    return FaceVideo(str(root / name / "vid.avi"), frames)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------------------------------- box


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


def test_normalisation(root):
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


# ----------------------------------------------------------------------------------------------------------- errors


def spoil_points(folder):
    text = (folder / "annot" / "000002.pts").read_text().splitlines()
    (folder / "annot" / "000002.pts").write_text("\n".join([text[0], "n_points: 67", *text[2:-2], "}"]))


def put_outside(folder):
    points = motion(1)
    points[5, 0] = WIDTH - 0.4
    write_pts(folder / "annot" / "000002.pts", points)


def close_eyes(folder):
    points = motion(1)
    points[45] = points[36]
    write_pts(folder / "annot" / "000002.pts", points)


SPOILED = {
    "67 points": (spoil_points, "annot/000002.pts:2: expected 68 landmarks, got n_points: 67"),
    "outside": (put_outside, "annot/000002.pts:9: landmark 5 is outside the picture of 160 x 120 pixels"),
    "eyes": (close_eyes, "annot/000002.pts:49: expected eye corners apart"),
    "a gap": (lambda x: (x / "annot" / "000002.pts").unlink(), "annot: no annotation for frame 2 (000002.pts)"),
    "too few": (lambda x: (x / "annot" / "000003.pts").unlink(), "vid.avi: frame 3 of 3 has no annotation"),
    "too many": (lambda x: write_pts(x / "annot" / "000004.pts", motion(0)), "4 annotations for 3 frames: "),
    "none": (lambda x: [file.unlink() for file in (x / "annot").iterdir()], "annot: expected annotations such as"),
    "a name": (lambda x: write_pts(x / "annot" / "last.pts", motion(0)), "annot/last.pts: expected a name"),
    "no video": (lambda x: (x / "vid.avi").write_text("none"), "vid.avi: "),
}


@pytest.mark.parametrize("case", SPOILED)
def test_trouble_with_a_video_names_the_file(lone, case):
    spoil, message = SPOILED[case]
    task = opened(lone)
    task.read(video(lone, "x"), None)  # sound so far
    spoil(lone / "x")
    task = opened(lone)
    with pytest.raises(VideoError) as error:
        task.read(video(lone, "x"), None)
    assert message in str(error.value)
    assert str(error.value).startswith(str(lone / "x"))
    assert "\n" not in str(error.value)
    with pytest.warns(RuntimeWarning, match="skipped"):
        item = VideoDataset(task, [video(lone, "x")], on_error="skip")[0]
    assert item["reason"] == str(error.value)


def test_the_edge_of_the_picture_is_half_a_pixel_out(lone):
    points = motion(1)
    points[5] = torch.tensor([WIDTH - 0.51, -0.49])
    write_pts(lone / "x" / "annot" / "000002.pts", points)
    assert opened(lone).read(video(lone, "x"), None)["truth"][1, 5, 0] > WIDTH - 1
    put_outside(lone / "x")
    assert opened(lone, allow_outside=True).read(video(lone, "x"), None)["truth"][1, 5, 0] > WIDTH - 0.5


def test_wrong_base_shifts_by_a_pixel(lone):
    a, b = (opened(lone, base=base).read(video(lone, "x"), None)["truth"] for base in (0, 1))
    close(a, b + 1, atol=1e-4)


def test_a_video_that_ends_early(lone, monkeypatch):
    real = videos.read_frames
    monkeypatch.setattr(videos, "read_frames", lambda *a, **k: list(real(*a, **k))[:2].__iter__())
    with pytest.raises(VideoError, match="ends before its frame 3"):
        opened(lone).read(video(lone, "x"), None)
    item = opened(lone).read(video(lone, "x"), None, tolerate_truncation=True)
    assert item["frame"].tolist() == [1, 2]
    assert len(item["input"]) == len(item["truth"]) == 2
    with pytest.raises(VideoError, match="ends before its frame 3"):
        opened(lone).read(video(lone, "x", range(2, 3)), None, tolerate_truncation=True)


@pytest.mark.parametrize(
    "options",
    [{"base": 2}, {"clips": 0}, {"box": "last"}, {"margin": -0.1}, {"scale": 1.0}, {"shift": -1}, {"threshold": 0}],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match="expected"):
        Face(**options)


def test_sampling_by_time_is_not_supported():
    with pytest.raises(NotImplementedError, match="fps"):
        Face(sampling=Sampling(4, "consecutive", fps=10))


# ---------------------------------------------------------------------------------------------------------- subsets


def empty_videos(root, names):
    for name in names:
        (root / name).mkdir()
        (root / name / "vid.avi").touch()
    return root


@given(st.integers(2, 30), st.integers(0, 5))
@settings(max_examples=15)
def test_videos_are_split_80_to_20(tmp_path_factory, count, seed):
    names = [f"{i:03d}" for i in range(count)]
    root = empty_videos(tmp_path_factory.mktemp("many"), names)
    parts = subsets(root, seed)
    assert sorted(parts["train"] + parts["test"]) == names
    assert abs(len(parts["train"]) - 0.8 * count) <= 0.5 or len(parts["test"]) == 1
    assert parts["test"]
    assert parts["val"] == parts["test"]
    assert parts == subsets(root, seed)


def test_the_split_depends_on_the_seed(tmp_path):
    root = empty_videos(tmp_path, [f"{i:03d}" for i in range(30)])
    assert len({tuple(subsets(root, seed)["test"]) for seed in range(5)}) == 5


def test_lists_say_which_videos_are_which(tmp_path):
    empty_videos(tmp_path, "abcd")
    (tmp_path / "train.txt").write_text("c\n\nb\n")
    (tmp_path / "test.txt").write_text("a\n")
    assert subsets(tmp_path, 0) == {"train": ["c", "b"], "val": ["a"], "test": ["a"]}
    (tmp_path / "val.txt").write_text("d")
    assert subsets(tmp_path, 0)["val"] == ["d"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("a\nz", "b", r"train\.txt:2: expected the id of a face video, got 'z'"),
        ("a\na", "b", r"train\.txt:2: a is listed twice, first in .*train\.txt:1"),
        ("a\nb", "\nb", r"test\.txt:2: b is listed twice, first in .*train\.txt:2"),
        ("a", "\n", r"test\.txt: expected at least one id"),
        ("a", None, "expected both train.txt and test.txt"),
    ],
)
def test_bad_lists(tmp_path, train, test, message):
    empty_videos(tmp_path, "ab")
    (tmp_path / "train.txt").write_text(train)
    if test is not None:
        (tmp_path / "test.txt").write_text(test)
    with pytest.raises(ValueError, match=message):
        subsets(tmp_path, 0)


def test_no_videos(tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        opened(tmp_path / "none")
    with pytest.raises(ValueError, match="expected face videos"):
        opened(tmp_path)
    empty_videos(tmp_path, "a")
    with pytest.raises(ValueError, match="at least 2"):
        opened(tmp_path)


# ------------------------------------------------------------------------------------------------- loss and metrics


def batch_of(lengths, seed=0, steps=None):
    """Outputs and a batch as `collate` makes it, with rubbish in the padding."""
    steps = steps or max(lengths)
    truth = torch.randn(len(lengths), steps, 68, 2, generator=chance(seed)) * 30 + 100
    boxes = face_box(truth, 0.2)
    points = to_box(truth, boxes).flatten(2)
    out = points + 0.02 * torch.randn(points.shape, generator=chance(seed + 1))
    for b, n in enumerate(lengths):
        out[b, n:] = math.nan
        for value in (truth, boxes, points):
            value[b, n:] = 0
    frame = torch.arange(1, steps + 1).expand(len(lengths), -1)
    names = {"truth": truth, "boxes": boxes, "points": points, "frame": frame}
    return out, {**names, "lengths": torch.tensor(lengths), "path": [f"{b}/vid.avi" for b in range(len(lengths))]}


def test_loss_is_half_the_squared_distance():
    out, batch = batch_of([3, 1, 4])
    clips = []
    for b, n in enumerate([3, 1, 4]):
        frames = [sum(float(d) ** 2 for d in out[b, t] - batch["points"][b, t]) / 2 for t in range(n)]
        clips.append(sum(frames) / n)
    assert float(Face().loss(out, batch)) == pytest.approx(sum(clips) / 3, rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient():
    out, batch = batch_of([3, 1], steps=6)
    out.requires_grad_()
    landmark_loss(out, batch["points"], batch["lengths"]).backward()
    assert bool(out.grad.isfinite().all())
    close(out.grad[1, 1:], torch.zeros(5, 136))
    close(out.grad[1, 0], (out[1, 0] - batch["points"][1, 0]).detach() / 2, atol=1e-7)


def test_loss_of_nothing_and_of_other_shapes():
    out, batch = batch_of([3])
    empty = torch.zeros(0, 0, 136, requires_grad=True)
    loss = Face().loss(empty, {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    loss.backward()
    assert float(loss.detach()) == 0
    with pytest.raises(ValueError, match=r"\(B, T, K\)"):
        landmark_loss(out[..., :134], batch["points"], batch["lengths"])
    with pytest.raises(ValueError, match="lengths"):
        landmark_loss(out, batch["points"], torch.tensor([4]))


def test_metrics_are_those_of_all_frames():
    parts = [batch_of([3, 1, 4], seed=0), batch_of([2], seed=5), batch_of([5, 2], seed=9, steps=7)]
    metric = Face(threshold=0.13).metrics()
    errors, motions, distances = [], [], []
    for out, batch in parts:
        metric.update(out, batch)
        for b, n in enumerate(batch["lengths"].tolist()):
            pixels = from_box(out[b, :n].view(n, 68, 2), batch["boxes"][b, :n])
            errors += normalised_errors(pixels, batch["truth"][b, :n]).tolist()
            motions += [float(jitter(pixels[t : t + 2], batch["truth"][b, t : t + 2])) for t in range(n - 1)]
            distances += [math.dist(out[b, t].tolist(), batch["points"][b, t].tolist()) for t in range(n)]
    values = metric.compute()
    assert len(errors) == 17
    assert len(motions) == 11
    assert 0 < sum(e > 0.13 for e in errors) < 17  # the threshold matters
    assert float(values["nme"]) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(values["jitter"]) == pytest.approx(np.mean(motions), rel=1e-5)
    assert float(values["distance"]) == pytest.approx(np.mean(distances), rel=1e-5)
    assert float(values["failure_rate"]) == pytest.approx(np.mean([e > 0.13 for e in errors]))
    assert float(values["auc"]) == pytest.approx(float(auc(torch.tensor(errors), 0.13)), rel=1e-5)
    assert values["errors"].tolist() == pytest.approx(sorted(errors), rel=1e-5)
    assert {key for key, value in values.items() if value.ndim == 0} == set(values) - {"errors"}


def test_metrics_add_up_over_processes():
    (a, one), (b, two) = batch_of([3, 1]), batch_of([2, 4], seed=3)
    whole, first, second = (FaceMetrics() for _ in range(3))
    whole.update(a, one)
    whole.update(b, two)
    first.update(a, one)
    second.update(b, two)
    first.merge_state(second)
    for key, value in whole.compute().items():
        close(first.compute()[key], value, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metrics_without_frames_and_with_nan():
    metric = FaceMetrics()
    metric.update(torch.zeros(0, 0, 136), {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    values = metric.compute()
    assert all(math.isnan(values[key]) for key in ("nme", "auc", "failure_rate", "jitter", "distance"))
    assert values["errors"].tolist() == []
    metric.reset()
    out, batch = batch_of([2])
    out[0, 1] = math.nan
    metric.update(out, batch)
    values = metric.compute()
    assert float(values["failure_rate"]) >= 0.5
    assert 0 <= float(values["auc"]) <= 0.5
    assert math.isnan(values["nme"])


def test_perfect_outputs_score_one():
    _, batch = batch_of([4, 3])
    metric = FaceMetrics()
    metric.update(batch["points"], batch)
    values = metric.compute()
    assert float(values["auc"]) == pytest.approx(1, abs=1e-4)
    assert float(values["jitter"]) < 1e-4
    assert float(values["failure_rate"]) == float(values["distance"]) == 0


# ---------------------------------------------------------------------------------------------------------- reports


def test_predictions_are_rows_of_frames():
    out, batch = batch_of([2, 1], steps=3)
    rows = Face().predictions(out, batch)
    assert [(row["path"], row["frame"]) for row in rows] == [("0/vid.avi", 1), ("0/vid.avi", 2), ("1/vid.avi", 1)]
    pixels = from_box(out[0, 1].view(68, 2), batch["boxes"][0, 1])
    assert rows[1]["nme"] == pytest.approx(float(normalised_errors(pixels, batch["truth"][0, 1])), abs=1e-5)
    assert rows[1]["x67"] == pytest.approx(float(pixels[67, 0]), abs=1e-3)
    assert rows[1]["y5"] == pytest.approx(float(pixels[5, 1]), abs=1e-3)
    assert list(rows[0])[:5] == ["path", "frame", "nme", "x0", "y0"]
    assert len(rows[0]) == 3 + 136


def test_report_writes_the_curve(tmp_path):
    results = {"auc": 0.5, "errors": [0.02, 0.04, 0.5, math.nan]}
    assert Face().report(results, tmp_path) == {"auc": 0.5, "threshold": 0.08}
    assert (tmp_path / "ced.png").read_bytes()[1:4] == b"PNG"
    with open(tmp_path / "ced.csv") as file:
        rows = {float(row["error"]): float(row["share"]) for row in csv.DictReader(file)}
    assert len(rows) == 101
    assert (rows[0.0], rows[0.0208], rows[0.08]) == (0, 0.25, 0.5)


def test_curves_of_several_networks(tmp_path):
    plot_errors({"PreGRU": [0.01, 0.02], "TraGRU": [0.05, 0.1]}, tmp_path / "ced.png", 0.1)
    assert (tmp_path / "ced.png").stat().st_size > 5000


def test_points_are_drawn_on_a_copy():
    frame = np.zeros((40, 60, 3), np.uint8)
    points = np.array([[20.0, 10.0], [30.0, 30.0], [math.nan, 1.0], [-50.0, 1e9]])
    drawn = draw_points(frame, points, box=(5, 6, 50, 35), colour=(255, 0, 7))
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
    assert recipe.task.to_json() == {"name": "face", "base": 0, "box": "first", "margin": 0.3, "threshold": 0.1}
    assert recipe.labels is None
    assert recipe.transform["size"] == 96
    assert Face(**recipe.task.options).noted(Recipe()).task == recipe.task
    assert task.outputs == 136


@pytest.mark.skipif(not FACES.is_dir(), reason="no shared data")
def test_real_faces_read():
    task = Face(base=0)
    task.open(FACES, SPEC)
    assert [len(task.records(subset)) for subset in ("train", "val", "test")] == [700, 150, 150]
    item = task.read(task.records("test")[0], None)
    assert item["input"].shape == (3, 3, 96, 96)
    assert float(item["points"].abs().max()) == pytest.approx(0.5 / 1.4, abs=1e-6)


def test_a_bad_annotation_leaves_out_all_clips_of_its_video(lone):
    put_outside(lone / "x")  # in frame 2
    for frame in range(3):
        with pytest.raises(VideoError, match="outside the picture"):
            opened(lone).read(video(lone, "x", range(frame, frame + 1)), None)
