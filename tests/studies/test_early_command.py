"""`prernn early`: its files, its videos, a mistake of its user."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

from footage import class_videos
from prernn.commands.main import main
from prernn.conversion.clip_network import clip_outputs
from prernn.conversion.recipe import KeptTask
from prernn.media.transforms import TransformSpec
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.studies.early import (
    FRACTIONS,
    curve_table,
    early_accuracy,
    some_videos,
    write_curves,
)
from prernn.studies.runs import videos
from prernn.tasks.clips.clip_metrics import ClipMetrics


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
    assert [row["spread"] for row in table[:3]] == ["", "", ""]  # of one training there is none
    assert [float(row["spread"]) for row in table[3:]] == pytest.approx(spread, abs=1e-6)
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
    assert cells[:2] == [["alone", "three"], ["0.250", "0.200 ±0.265"]]


def test_more_curves_than_colors_can_be_told_apart(tmp_path, figures):
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
