"""A stream and an evaluation clip see the same pixels, to the last bit, whatever the sizes are."""

import numpy as np
import pytest
import torch

from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.media.transforms import TransformSpec
from prernn.media.video import read_frames
from prernn.streaming.stream import Stream
from prernn.tasks import Action, Gesture
from streamed_networks import network

SIZES = [(48, 64), (64, 48), (121, 161), (20, 24), (150, 90)]
"""Height and width of frames: larger and smaller than the network's, odd, upright."""


@pytest.fixture(scope="module", params=SIZES, ids=str)
def root(request, tmp_path_factory):
    """A data set for both tasks: a class folder and a gesture's list with a video of 9 frames."""
    root = tmp_path_factory.mktemp("root")
    images = np.random.default_rng(0).integers(0, 256, (9, *request.param, 3), dtype=np.uint8)
    for part in ("train", "test"):
        for name in ("down", "up"):
            (root / part / name).mkdir(parents=True)
            write_video(root / part / name / "a.mp4", images, 25)
    (root / "test.lst").write_text("path:./test/up color:a:2:7 label:1\n")
    (root / "classes.txt").write_text("1 wave\n2 point\n")
    (root / "test" / "up" / "a.avi").hardlink_to(root / "test" / "up" / "a.mp4")
    return root


def opened(task, root, size):
    task.open(root, {"size": size, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    return task


def streamed(task, path):
    """What a network sees of each frame of a stream, ``(T, C, H, W)``."""
    seen = []
    net = network()
    net.step = lambda batch, state: (seen.append(batch) or torch.zeros(1, 5), state)
    stream = Stream(net, transform=TransformSpec.from_dict(task.transform))
    for _, frame in read_frames(path):
        stream(frame)
    return torch.cat(seen)


@pytest.mark.parametrize(("size", "resize"), [(16, None), (32, 40), (33, None), (64, 70)])
def test_clips_of_an_action(root, size, resize):
    task = opened(Action(sampling=Sampling(9), resize=resize), root, size)
    record = task.records("test")[1]
    assert torch.equal(task.read(record, None)["input"], streamed(task, record.path))


@pytest.mark.parametrize(("size", "resize"), [(16, None), (33, 40)])
def test_snippets_of_a_gesture(root, size, resize):
    task = opened(Gesture(modality="color", snippet=1, resize=resize, test_list="test.lst"), root, size)
    [record] = task.records("test")
    assert torch.equal(task.read(record, None)["input"], streamed(task, record.file))
