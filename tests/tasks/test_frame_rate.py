"""The rate that a task trains at, found from its sampling and its videos, and kept in the recipe."""

import json

import numpy as np
import pytest
from PIL import Image

from prernn.conversion.recipe import Recipe
from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.media.video import VideoInfo
from prernn.tasks import Action, Face, Gesture, Task, restore
from prernn.tasks.clips.frame_rate import common_rate

SPEC = {"size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
PICTURES = np.zeros((4, 16, 16, 3), np.uint8)


def videos(root, *rates):
    """A data set in folders, whose training videos of each class have these rates."""
    for part in ("train", "test"):
        for name in ("down", "up"):
            (root / part / name).mkdir(parents=True)
            for number, rate in enumerate(rates):
                write_video(root / part / name / f"{number}.mp4", PICTURES, rate)
    return root


@pytest.mark.parametrize(
    ("sampling", "rate"),
    [
        (Sampling(4, "consecutive"), 12),
        (Sampling(4, "consecutive", stride=3), 4),
        (Sampling(None, "all"), 12),
        (Sampling(None, "all", stride=2), 6),
        (Sampling(4, "consecutive", fps=8), 8),
        (Sampling(4, "consecutive", fps=8, stride=2), 4),
        (Sampling(4, "uniform"), None),
        (Sampling(4, "random"), None),
        (Sampling(4, "random", fps=8), 8),
    ],
    ids=str,
)
def test_an_action_has_the_rate_of_its_clips(tmp_path, sampling, rate):
    task = Action(sampling=sampling)
    assert task.rate == (sampling.fps and rate)  # before it knows of videos
    task.open(videos(tmp_path, 12), SPEC)
    assert task.rate == (rate if rate is None else pytest.approx(rate))
    kept = Recipe.from_json(json.loads(json.dumps(task.noted(Recipe()).to_json())))
    assert kept.rate == task.rate
    assert ("rate" in kept.to_json()) == (rate is not None)
    assert restore(kept).labels == ["down", "up"]


@pytest.mark.parametrize(
    ("rates", "common"),
    [((25, 25), 25), ((30, 29.97), 30), ((25, 30), None), ((25, 25, 25, 50), None)],
    ids=str,
)
def test_videos_have_a_rate_where_they_agree(tmp_path, rates, common):
    paths = []
    for number, rate in enumerate(rates):
        paths.append(str(tmp_path / f"{number}.mp4"))
        write_video(paths[-1], PICTURES, rate)
    assert common_rate(paths) == (common if common is None else pytest.approx(common, rel=1e-3))


def test_what_says_nothing_of_time(tmp_path):
    write_video(tmp_path / "a.mp4", PICTURES, 25)
    (tmp_path / "broken.mp4").write_text("no video")
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(PICTURES[0]).save(folder / "0.png")
    whole, broken, frames, absent = (str(tmp_path / name) for name in ("a.mp4", "broken.mp4", "frames", "absent.mp4"))
    assert common_rate([]) is common_rate([broken, absent]) is common_rate([whole, frames]) is None
    assert common_rate([broken, whole, absent]) == 25


def test_few_videos_are_asked(monkeypatch):
    asked, info = [], VideoInfo(4, 25.0, 16, 16, 1.0)
    monkeypatch.setattr("prernn.tasks.clips.frame_rate.probe", lambda path: asked.append(path) or info)
    monkeypatch.setattr("prernn.tasks.clips.frame_rate.locate", lambda path: type("Place", (), {"kind": "file"}))
    assert common_rate([f"{number}.mp4" for number in range(1000)]) == 25
    assert asked == ["0.mp4", "200.mp4", "400.mp4", "600.mp4", "800.mp4"]


def test_flow_keeps_the_videos_own_rate(tmp_path):
    root = videos(tmp_path, 12)
    for sampling, rate in (
        (Sampling(4, "consecutive"), 12),
        (Sampling(4, "consecutive", stride=2), None),
        (Sampling(4, "consecutive", fps=6), None),
    ):
        task = Action(sampling=sampling, stream="flow", flow_cache=str(tmp_path))
        task.open(root, SPEC)
        assert task.rate == rate


def test_a_gesture_has_the_rate_of_its_frames(tmp_path):
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "color.mp4", PICTURES, 15)
    (tmp_path / "a" / "color.mp4").rename(tmp_path / "a" / "color.avi")
    (tmp_path / "train.lst").write_text("path:./a color:color:1:3 label:2\n")
    task = Gesture(modality="color", snippet=2, train_list="train.lst")
    assert task.rate is None
    task.open(tmp_path, SPEC)
    assert task.rate == 15


def test_a_face_has_the_rate_of_its_clips(tmp_path):
    for name in "abcde":
        (tmp_path / name / "annot").mkdir(parents=True)
        write_video(tmp_path / name / "vid.mp4", PICTURES, 30)
        (tmp_path / name / "vid.mp4").rename(tmp_path / name / "vid.avi")
    for stride, rate in ((1, 30), (2, 15)):
        task = Face(sampling=Sampling(2, "consecutive", stride=stride))
        assert task.rate is None
        task.open(tmp_path, SPEC)
        assert task.rate == rate


def test_a_task_of_ones_own_has_none():
    assert Task().rate is None
