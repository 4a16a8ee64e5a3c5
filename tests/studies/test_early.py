"""Accuracy after each part of a video: against runs on the cut videos, for every kind of network."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prernn
from equations import close
from prernn.conversion.clip_network import clip_outputs
from prernn.conversion.inflate import inflate
from prernn.conversion.rcn import convert_rcn
from prernn.models.networks.c3d import C3D
from prernn.studies.early import (
    FRACTIONS,
    EarlyAccuracy,
    early_accuracy,
    early_scores,
    frames_seen,
)
from prernn.tasks.clips.clip_metrics import ClipMetrics
from prernn.training.batches import collate
from small_cnns import FcNet, film, prepare, shake

LENGTHS = torch.tensor([10, 7, 1])
GARBAGE = float("nan")


def padded(steps=10, shape=(3, 8, 8)):
    """Three videos of `LENGTHS`; what must not be looked at is NaN."""
    video = torch.randn(3, steps, *shape, dtype=torch.float64)
    return video.masked_fill((torch.arange(steps) >= LENGTHS[:, None])[(..., *[None] * len(shape))], GARBAGE)


@pytest.mark.parametrize("percent", range(1, 101))
def test_frames_seen_are_the_exact_ceiling(percent):
    lengths = torch.arange(1, 1001)
    for fraction in (percent / 100, percent * 0.01):
        assert frames_seen(lengths, fraction).tolist() == [-(-percent * length // 100) for length in range(1, 1001)]


def test_frames_seen_of_tenths():
    assert FRACTIONS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    lengths = torch.tensor([10, 1, 3, 101])
    assert frames_seen(lengths, 0.7).tolist() == [7, 1, 3, 71]
    assert frames_seen(lengths, 3 * 0.1).tolist() == [3, 1, 1, 31]  # 3 * 0.1 > 0.3
    assert frames_seen(lengths, 1e-9).tolist() == [1, 1, 1, 1]
    for fraction in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            frames_seen(lengths, fraction)


def recurrent(kind):
    """A small network that answers at every step, and videos of its steps."""
    if kind == "snippets":
        net = prernn.convert(C3D(5, frames=8, width=2, units=6, size=16).double().eval(), "fc6", cell="lstm")
        return shake(net), padded(shape=(3, 8, 16, 16))
    if kind == "framewise snippets":
        return prernn.framewise(C3D(5, frames=8, width=2, units=6, size=16).double().eval()), padded(
            shape=(3, 8, 16, 16)
        )
    cnn = prepare(FcNet())
    if kind == "rcn":
        return convert_rcn(cnn, image_size=(8, 8)), padded()
    if kind == "framewise":
        return prernn.framewise(cnn, image_size=(8, 8)), padded()
    return shake(prernn.convert(cnn, cell=kind, image_size=(8, 8))), padded()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vrnn", "gru", "rcn", "framewise", "snippets", "framewise snippets"])
def test_one_pass_gives_what_each_cut_video_gives(kind):
    net, video = recurrent(kind)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    scores = early_scores(net, video, LENGTHS)
    assert len(calls) == 1
    assert scores.shape == (3, 10, 5)
    for row, length in enumerate(LENGTHS.tolist()):
        for place in range(10):
            seen = max(1, -(-(place + 1) * length // 10))
            out, _ = net(video[row : row + 1, :seen])
            close(scores[row, place], out[0].softmax(-1).mean(0))


class Clips(nn.Module):
    """A 3-D CNN with a stride in time, on clips of 4 frames of 8x8."""

    frame_size = (4, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv3d(3, 4, 3, stride=(2, 1, 1), padding=1), nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, clip):
        return self.fc(torch.flatten(self.pool(torch.relu(self.conv(clip))), 1))


@torch.no_grad()
@pytest.mark.parametrize("size", [4, 6])
@pytest.mark.parametrize("kind", ["3-D", "inflated"])
def test_a_clip_network_runs_on_what_was_seen(kind, size):
    cnn = Clips().double() if kind == "3-D" else inflate(prepare(FcNet()), image_size=(8, 8))
    net, video = prernn.framewise(cnn.eval(), image_size=(size, 8, 8)), padded()
    scores = early_scores(net, video, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        for place in range(10):
            seen = max(1, -(-(place + 1) * length // 10))
            index = [(2 * k + 1) * seen // (2 * size) for k in range(size)]
            clip = video[row, index].transpose(0, 1)[None]  # (1, 3, D, 8, 8)
            close(scores[row, place], cnn(clip)[0].softmax(-1))
    close(scores[:, -1], clip_outputs(net, video, LENGTHS).softmax(-1), atol=0)


@torch.no_grad()
def test_a_clip_network_runs_once_for_the_same_frames():
    net, calls = prernn.framewise(Clips().double().eval()), []
    net.register_forward_hook(lambda *_: calls.append(1))
    early_scores(net, film(batch=2, steps=4), torch.tensor([4, 2]))
    assert len(calls) == 4  # 1, 2, 3 and 4 frames of the longer; the shorter adds none


def test_padding_beyond_the_video_is_an_error():
    net, video = recurrent("framewise")
    for lengths in ([11, 7, 1], [10, 7, 0]):
        with pytest.raises(ValueError, match="lengths"):
            early_scores(net, video, torch.tensor(lengths))
        with pytest.raises(ValueError, match="lengths"):
            early_scores(prernn.framewise(Clips().double()), video, torch.tensor(lengths))


def batches_of(videos, labels, size):
    items = [{"input": v, "label": k, "path": f"{n}.mp4"} for n, (v, k) in enumerate(zip(videos, labels, strict=True))]
    parts = [collate(items[first : first + size]) for first in range(0, len(items), size)]
    return [parts[0], collate([{"path": "broken.mp4", "reason": "broken"}]), *parts[1:]]


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 4, 11])
def test_the_last_point_is_the_accuracy_of_whole_clips(size):
    net, _ = recurrent("gru")
    videos = [film(1, steps)[0] * 3 for steps in (3, 9, 1, 12, 5, 6, 6, 2, 11, 4, 7)]
    labels = [int(net(video[None])[0].softmax(-1).mean(1).argmax()) if n % 3 else 0 for n, video in enumerate(videos)]
    batches, metrics = batches_of(videos, labels, size), ClipMetrics(5)
    for batch in batches:
        if batch["path"]:
            metrics.update(net(batch["input"])[0], batch)
    seen = []
    result = early_accuracy(net, batches, advance=seen.append)
    assert result["accuracy"][-1] == pytest.approx(float(metrics.compute()["clip_accuracy"]))
    assert 0 < result["accuracy"][-1] <= 1
    assert result["videos"] == 11
    assert sum(seen) == 12  # with the one that was skipped
    assert result["frames"][-1] == pytest.approx(statistics.fmean(map(len, videos)))
    assert result["frames"][0] == pytest.approx(statistics.fmean(-(-len(video) // 10) for video in videos))


def reader(classes=3):
    """A frame-wise CNN that is as sure of class k as channel k is bright; a black frame tells it nothing."""
    parts = nn.Conv2d(classes, classes, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    cnn = nn.Sequential(*parts).double()
    with torch.no_grad():
        cnn[0].weight.copy_(50 * torch.eye(classes)[:, :, None, None])
    return prernn.framewise(cnn, image_size=(8, 8))


@pytest.mark.parametrize(("known", "chance"), [(9, 9), (4, 4), (0, 0)])
def test_who_knows_at_a_frame_is_at_chance_before_it(known, chance):
    videos = torch.zeros(6, 10, 3, 8, 8, dtype=torch.float64)
    labels = [0, 1, 2, 2, 1, 0]
    for video, label in zip(videos, labels, strict=True):
        video[known, label] = 1.0
    result = early_accuracy(reader(), batches_of(videos, labels, 4))
    assert result["accuracy"] == pytest.approx([1 / 3] * chance + [1.0] * (10 - chance))
    assert result["frames"] == pytest.approx(range(1, 11))
    assert early_accuracy(reader(), batches_of(videos, labels, 4), [1.0])["accuracy"] == [1.0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_accuracy_adds_up_over_batches(sizes, fractions, seed):
    generator = torch.Generator().manual_seed(seed)
    metric, hits = EarlyAccuracy(fractions), np.zeros(fractions)
    for size in [*sizes, 1]:
        scores = torch.rand(size, fractions, 3, generator=generator)
        label = torch.randint(3, (size,), generator=generator)
        metric.update(scores, label)
        for row in range(size):
            hits += np.array([int(scores[row, f].argmax() == label[row]) for f in range(fractions)])
    close(metric.compute().reshape(-1), torch.from_numpy(hits / (sum(sizes) + 1)))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_wrong_shapes_and_no_videos():
    with pytest.raises(ValueError, match="scores"):
        EarlyAccuracy(4).update(torch.zeros(2, 3, 5), torch.zeros(2))
    with pytest.raises(ValueError, match="scores"):
        EarlyAccuracy(3).update(torch.zeros(2, 3, 5), torch.zeros(1))
    with pytest.raises(ValueError, match="none of 1 videos could be read: broken"):
        early_accuracy(reader(), [collate([{"path": "broken.mp4", "reason": "broken"}])])


@pytest.mark.parametrize("fails", [False, True])
def test_each_module_keeps_its_mode(fails):
    net, _ = recurrent("gru")
    net.train()
    net.cnn.bn.eval()  # frozen statistics
    before = {name: module.training for name, module in net.named_modules()}
    seen = []
    net.register_forward_hook(lambda *_: seen.append(any(module.training for module in net.modules())))
    batches = batches_of(film(2), [0, 9], 2)
    if fails:
        with pytest.raises(ValueError, match="fraction"):
            early_accuracy(net, batches, [2.0])
    else:
        early_accuracy(net, batches)
        assert seen == [False]
    assert {name: module.training for name, module in net.named_modules()} == before
