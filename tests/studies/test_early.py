"""Accuracy after each part of a video: against runs on the cut videos, for every kind of network; files and command."""

import csv
import json
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from torch import nn

import prernn
from equations import close
from footage import class_videos
from prernn.commands.main import main
from prernn.conversion.clip_network import clip_outputs
from prernn.conversion.inflate import inflate
from prernn.conversion.rcn import convert_rcn
from prernn.conversion.recipe import KeptTask
from prernn.media.transforms import TransformSpec
from prernn.models import checkpoint
from prernn.models.network_spec import NetworkSpec
from prernn.models.networks.c3d import C3D
from prernn.studies.early import (
    FRACTIONS,
    EarlyAccuracy,
    curve_table,
    early_accuracy,
    early_scores,
    frames_seen,
    some_videos,
    write_curves,
)
from prernn.studies.runs import videos
from prernn.tasks.classification import ClipMetrics
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
    with pytest.raises(ValueError, match="at least one video"):
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


# ------------------------------------------------------------------------------------------------ files


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_curves_of_several_trainings(tmp_path, figures):
    one, several = [[0.25, 0.5, 1.0]], [[0.0, 0.5, 0.5], [0.5, 0.5, 0.9], [0.1, 0.5, 1.0]]
    curves = {"alone": one, "three": several}
    path = write_curves(curves, tmp_path / "new", fractions=(0.1, 0.5, 1.0), videos=8)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in path.parent.iterdir()) == ["early.csv", "early.png"]
    table = rows(tmp_path / "new" / "early.csv")
    assert [row["network"] for row in table] == ["alone"] * 3 + ["three"] * 3
    assert [float(row["fraction"]) for row in table] == [0.1, 0.5, 1.0] * 2
    mean, spread = np.mean(several, 0), np.std(several, 0, ddof=1)
    assert [float(row["accuracy"]) for row in table] == pytest.approx([*one[0], *mean], abs=1e-6)
    assert [float(row["spread"]) for row in table] == pytest.approx([0, 0, 0, *spread], abs=1e-6)
    assert [(row["trainings"], row["videos"], row["frames"]) for row in table] == [("1", "8", "")] * 3 + [
        ("3", "8", "")
    ] * 3
    (axis,) = figures[0].axes
    assert [line.get_label() for line in axis.lines] == ["alone", "three"]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[10, 0.25], [50, 0.5], [100, 1.0]])
    (band,) = [shape for shape in axis.collections if isinstance(shape, PolyCollection)]
    corners = {(round(x), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert {(10, round(v, 9)) for v in (mean[0] - spread[0], mean[0] + spread[0])} <= corners
    cells = [list(column.cells) for column in curve_table(curves, (0.1, 0.5, 1.0)).columns]
    assert cells[:2] == [["alone", "three"], ["0.250 ±0.000", "0.200 ±0.265"]]


def test_more_curves_than_colours_can_be_told_apart(tmp_path, figures):
    curves = {f"network {k}": [[k / 30] * 10] for k in range(25)}
    write_curves(curves, tmp_path)
    lines = figures[0].axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 25
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.texts] == list(curves)


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [[0.5] * 9]}, {"a": [[0.5] * 10, [0.5] * 11]}])
def test_curves_that_do_not_fit(tmp_path, curves):
    with pytest.raises(ValueError, match=r"at least one network|expected 10 accuracies"):
        write_curves(curves, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ command

KINDS = {
    "pregru": {"cell": "gru"},
    "framewise": {"method": "framewise"},
    "clip": {"method": "framewise", "inflate": {"frames": 4}},
}
LABELS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Untrained networks with a config as `prernn fit` leaves it, over 2 test videos in each of three classes."""
    root = tmp_path_factory.mktemp("early")
    class_videos(root / "data", LABELS)
    options = {"size": 32, "sampling": {"frames": 5}}
    for name, kind in KINDS.items():
        torch.manual_seed(0)
        net = NetworkSpec("timm/test_resnet", **kind).build(3)
        net.recipe = replace(
            net.recipe, labels=LABELS, transform=TransformSpec(size=32).__dict__, task=KeptTask("action")
        )
        checkpoint.save(net, root / "x" / name)
        config = {
            "model": {"recipe": {"backbone": "timm/test_resnet", **kind}},
            "data": {
                "root": str(root / "data"),
                "task": {"class_path": "prernn.tasks.Action", "init_args": options},
                "num_workers": 0,
                "batch_size": 4,
            },
        }
        (root / "x" / name / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    shutil.copytree(root / "x" / "pregru", root / "y" / "pregru")
    return root


@torch.no_grad()
def test_the_command(root, tmp_path, capsys):
    paths = [str(root / name) for name in ("x/pregru", "y/pregru/model.safetensors", "x/framewise", "x/clip")]
    assert main(["early", *paths, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("x/pregru", "y/pregru", "x/framewise", "x/clip", "10%", "100%"))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["early.csv", "early.png"]
    table = rows(tmp_path / "out" / "early.csv")
    assert len(table) == 40
    assert list(dict.fromkeys(row["network"] for row in table)) == ["x/pregru", "y/pregru", "x/framewise", "x/clip"]
    assert [float(row["fraction"]) for row in table[:10]] == pytest.approx(FRACTIONS)
    assert [float(row["frames"]) for row in table[:10]] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {row["videos"] for row in table} == {"6"}
    assert [row["accuracy"] for row in table[:10]] == [row["accuracy"] for row in table[10:20]]  # the same network
    ends = [float(row["accuracy"]) for row in table[9::10]]
    assert ends[0::2] == pytest.approx([whole(root / "x" / name) for name in ("pregru", "framewise")], abs=1e-5)
    assert ends[3] == pytest.approx(whole(root / "x" / "clip", clips=True), abs=1e-5)


def whole(run, clips=False):
    """Accuracy of a run over all of its test videos."""
    net, metrics = checkpoint.load(run), ClipMetrics(3)
    for batch in videos.own_videos(run, net):
        video = batch["input"]
        out = clip_outputs(net, video, batch["lengths"])[:, None].expand(-1, 5, -1) if clips else net(video)[0]
        metrics.update(out, batch)
    return float(metrics.compute()["clip_accuracy"])


def test_a_limit_takes_videos_of_all_classes(root, tmp_path, monkeypatch):
    from prernn.studies import early

    seen = []

    def watch(net, batches, **options):
        batches = list(batches)
        seen.extend(label for batch in batches for label in batch["label"].tolist())
        return early_accuracy(net, batches, **options)

    monkeypatch.setattr(early, "early_accuracy", watch)
    assert main(["early", str(root / "x" / "pregru"), "--limit", "3", "--out", str(tmp_path)]) == 0
    assert seen == [0, 1, 2]
    assert {row["videos"] for row in rows(tmp_path / "early.csv")} == {"3"}


@given(st.integers(1, 40), st.integers(1, 60))
def test_some_videos_are_different_and_spread(count, limit):
    chosen = [int(x) for x in some_videos(torch.utils.data.DataLoader(range(count)), limit)]
    assert len(chosen) == len(set(chosen)) == min(count, limit)
    assert chosen == sorted(chosen)
    gaps = {b - a for a, b in zip([-1 - chosen[0], *chosen], [*chosen, 2 * count - chosen[-1]], strict=True)}
    assert max(gaps) <= 2 * -(-count // len(chosen))


@pytest.mark.parametrize(
    ("change", "arguments", "complaint"),
    [
        ({"task": KeptTask("gesture")}, (), "one answer a video"),
        ({"task": None}, (), "one answer a video"),
        ({"labels": ["a", "c", "b"]}, (), "expected the classes"),
        ("config", (), "config.yaml"),
        ("data", (), "nowhere"),
        ({}, ("--limit", "0"), "limit"),
        ({}, ("again",), "twice"),
    ],
)
def test_a_users_mistake_is_one_line(root, tmp_path, capsys, change, arguments, complaint):
    run = tmp_path / "run"
    shutil.copytree(root / "x" / "framewise", run)
    if isinstance(change, dict):
        net = checkpoint.load(run)
        net.recipe = replace(net.recipe, **change)
        checkpoint.save(net, run)
    elif change == "config":
        (run / "config.yaml").unlink()
    else:
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace(str(root / "data"), str(tmp_path / "nowhere")))
    more = [str(run) if word == "again" else word for word in arguments]
    # a good run goes first: nothing may be computed or written before all are known to fit
    assert main(["early", str(root / "x" / "pregru"), str(run), *more, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: ")
    assert complaint in line
    assert "--videos" not in line
    assert not (tmp_path / "out").exists()
