"""Segments out of NVGesture's lists, and videos of other things as background."""

import numpy as np
import pytest
import torch
from PIL import Image

from prernn.media.transforms import TransformSpec, clip_transform, frame_transform
from prernn.media.video import VideoError
from prernn.tasks.segments.task import Segments
from untrimmed_videos import SPEC, render

LISTS = {"layout": "nvgesture", "train_list": "train.lst", "test_list": "test.lst"}


@pytest.fixture
def root(tmp_path):
    """A recording of 22 frames with two gestures, in the layout of NVGesture, in which frame i is grey of value i."""
    folder = tmp_path / "data" / "a" / "sk_depth"
    folder.mkdir(parents=True)
    for i in range(22):
        Image.fromarray(np.full((8, 10), i, np.uint8)).save(folder / f"{i}.png")
    lines = ["path:./a depth:sk_depth:13:19 label:2", "path:./a depth:sk_depth:2:7 label:1"]
    for name in ("train.lst", "test.lst"):
        (tmp_path / "data" / name).write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def opened(root, **options):
    task = Segments(**{**LISTS, "piece": 32, "warm_up": 0, "flip": False, **options})
    task.open(root, SPEC)
    return task


@pytest.mark.parametrize("names", [None, ("swipe", "pinch")])
def test_gestures_of_nvgestures_lists_are_segments(root, names):
    if names:
        (root / "classes.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(names, 1)))
    task = opened(root)
    named = names or ("gesture 1", "gesture 2")
    assert task.labels == ["background", *sorted(named)]
    [piece] = task.records("test")
    item = task.read(piece, None)
    wanted = [0] * 22
    wanted[2:7] = [task.labels.index(named[0])] * 5
    wanted[13:19] = [task.labels.index(named[1])] * 6
    assert item["label"].tolist() == wanted
    assert item["input"][:, 0, 0, 0].mul(255).round().tolist() == list(range(22))


def test_a_bad_line_names_its_list(root):
    (root / "train.lst").write_text("path:./a depth:sk_depth:7:2 label:1\n")
    with pytest.raises(ValueError, match=r"train.lst:1: expected BEGIN below END"):
        opened(root)


def test_other_videos_are_background_all_through_and_in_training_alone(root, tmp_path):
    render(tmp_path / "others" / "street.mp4", [(5, 20, "bright")], frames=40)
    task = opened(root, others=str(tmp_path / "others"))
    plain = opened(root)
    assert task.labels == plain.labels
    assert len(task.records("train")) == len(plain.records("train")) + 2  # of 40 frames, in pieces of 32
    other = task.records("train")[-1]
    item = task.read(other, torch.Generator().manual_seed(0))
    assert (len(item["label"]), int(item["label"].sum())) == (32, 0)
    assert [task.recording(record)[0] for record in task.records("train")] == [0, 1, 1]  # held out apart, or not at all
    assert [record.path for record in task.records("test")] == [record.path for record in plain.records("test")]
    with pytest.raises(VideoError, match="no such file or folder"):
        opened(root, others=str(tmp_path / "nothing"))


def test_grey_pictures_have_no_color_and_the_same_luma():
    spec = TransformSpec(size=8, mean=0.0, std=1.0, grey=True)
    clip = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    out = clip_transform(spec, train=False)(clip)
    assert torch.equal(out[:, :1].expand(-1, 3, -1, -1), out)
    luma = (clip * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1) / 255
    torch.testing.assert_close(out[:, 0], luma, atol=1.01 / 255, rtol=0)  # rounded
    torch.testing.assert_close(frame_transform(spec)(clip[1].permute(1, 2, 0)), out[1])
    with pytest.raises(ValueError, match="grey: expected pictures, got optical flow"):
        TransformSpec(flow=True, mean=(0.5,), std=(0.2,), grey=True)
    assert clip_transform(spec, train=True)(clip).shape == out.shape


def test_gestures_are_not_mirrored_unless_one_says_so(root):
    assert not opened(root, flip=None).spec.flip
    assert opened(root, flip=True).spec.flip
    assert Segments(**LISTS).flip is None
