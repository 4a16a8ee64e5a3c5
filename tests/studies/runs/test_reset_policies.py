"""Reset policies over test videos: what they say is what a stream with the policy says, frame by frame."""

import numpy as np
import pytest
import torch

import prernn
from equations import close
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.streaming.stream import Stream
from prernn.studies.runs.reset_policies import THUMBNAILS, Pictured, best_policy, candidates, evaluate_policy
from prernn.tasks.action.task import Action
from prernn.tasks.face.task import Face
from prernn.training.frozen_trunk.learner import learner
from small_cnns import ResidualNet, prepare, shake

SPEC = TransformSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.3, 0.25))


class Kept:
    """Outputs in place of metrics: of each stream those of its items, one after the other."""

    def __init__(self, streams):
        self.rows = [[] for _ in range(streams)]

    def update(self, out, batch):
        for row, one, length in zip(self.rows, out, batch["lengths"].tolist(), strict=True):
            row.append(one[:length])

    def compute(self):
        return {"out": [torch.cat(row) for row in self.rows]}


class Videos:
    """Shots of other brightness, of several lengths, as a data set; the third can't be read."""

    lengths = (5, 8, 6, 7)

    def __init__(self):
        chance = np.random.default_rng(0)
        scenes = [chance.integers(low, low + 60, (8, 8, 3)) for low in (0, 190, 90, 130)]
        noise = [chance.integers(-4, 5, (length, 8, 8, 3)) for length in self.lengths]
        self.pictures = [
            np.clip(scene + rows, 0, 255).astype(np.uint8) for scene, rows in zip(scenes, noise, strict=True)
        ]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, number):
        see = frame_transform(SPEC)
        frames = torch.stack([see(torch.from_numpy(picture)) for picture in self.pictures[number]])
        return {"input": frames, "label": 0, "view": 0, "path": str(number)}


@pytest.fixture(scope="module")
def net():
    return shake(prernn.convert(prepare(ResidualNet()), cell="gru", image_size=(8, 8), outputs=3)).double().eval()


@pytest.mark.parametrize("text", ["never", "cut", "every:4", "every:10", "every:60"])
@torch.no_grad()
def test_as_a_stream_with_that_policy(net, text):
    videos = Videos()
    dataset = Pictured(videos, SPEC)
    items = [dataset[number] for number in range(len(dataset))]
    orders = [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]]
    exact = [{**item, "input": item["input"].double()} for item in items]
    found = evaluate_policy(learner(net, None).advance, Kept(3), exact, orders, text)["out"]
    for order, out in zip(orders, found, strict=True):
        stream = Stream(net, transform=lambda frame: frame, reset=text)
        pictures = np.concatenate([videos.pictures[number] for number in order])
        inputs = torch.cat([exact[number]["input"] for number in order])
        expected = []
        for picture, frame in zip(pictures, inputs, strict=True):
            if text == "cut":
                stream.look(picture)
            expected.append(stream(frame))
        close(out, torch.stack(expected).float(), rtol=1e-5, atol=1e-6)
    if text == "cut":  # and there were some
        never = evaluate_policy(learner(net, None).advance, Kept(3), exact, orders, "never")["out"]
        assert any(not torch.allclose(one, other) for one, other in zip(found, never, strict=True))


def test_thumbnails_are_those_of_the_pictures():
    from prernn.streaming.resets import thumbnail

    videos = Videos()
    item = Pictured(videos, SPEC)[1]
    close(item[THUMBNAILS][0], thumbnail(videos.pictures[1][0]), atol=1.0, rtol=0)
    assert candidates([item]) == ["never", "cut", "every:16", "every:32"]
    assert candidates([Videos()[1]], snippet=4) == ["never", "every:64", "every:128"]


def test_never_unless_another_is_better_by_a_margin():
    assert best_policy({"never": 0.90, "cut": 0.905, "every:4": 0.7}, Action()) == "never"
    assert best_policy({"never": 0.90, "cut": 0.95, "every:4": 0.96}, Action()) == "every:4"
    assert best_policy({"never": 0.100, "cut": 0.0995}, Face()) == "never"
    assert best_policy({"never": 0.100, "cut": 0.090}, Face()) == "cut"
