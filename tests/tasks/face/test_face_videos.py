"""Videos of faces that do not fit what is asked, and which subset each belongs to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equations import close
from face_clips import WIDTH, make_face, motion, opened, video
from prernn.media.sampling import Sampling
from prernn.media.video import VideoError
from prernn.tasks.face import videos
from prernn.tasks.face.landmarks import write_pts
from prernn.tasks.face.task import Face
from prernn.tasks.face.videos import subsets
from prernn.training.dataset import VideoDataset


@pytest.fixture
def lone(tmp_path):
    """A data set whose video ``x`` may be spoiled."""
    make_face(tmp_path, "x", frames=3)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "vid.avi").touch()
    return tmp_path


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
    assert "val" not in parts
    assert parts == subsets(root, seed)


def test_the_split_depends_on_the_seed(tmp_path):
    root = empty_videos(tmp_path, [f"{i:03d}" for i in range(30)])
    assert len({tuple(subsets(root, seed)["test"]) for seed in range(5)}) == 5


def test_lists_say_which_videos_are_which(tmp_path):
    empty_videos(tmp_path, "abcd")
    (tmp_path / "train.txt").write_text("c\n\nb\n")
    (tmp_path / "test.txt").write_text("a\n")
    assert subsets(tmp_path, 0) == {"train": ["c", "b"], "test": ["a"]}
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


# ---------------------------------------------------------------------------------------------------------- reports


def test_a_bad_annotation_leaves_out_all_clips_of_its_video(lone):
    put_outside(lone / "x")  # in frame 2
    for frame in range(3):
        with pytest.raises(VideoError, match="outside the picture"):
            opened(lone).read(video(lone, "x", range(frame, frame + 1)), None)
