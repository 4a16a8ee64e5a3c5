"""Accuracy over the number of training videos: pairs, intervals, which networks, and what is written."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from prernn.commands.main import main
from prernn.models.backbones import backbone
from prernn.models.from_config import NetworkSpec
from prernn.studies.comparison import kept, lineup
from prernn.studies.comparison.few_videos import _reference, difference
from prernn.tasks import Action
from prernn.training.data_module import VideoData


def study(root, out, *options):
    """``prernn study few-videos`` as small as can be; its exit code."""
    task = {"class_path": "prernn.tasks.Action", "init_args": {"size": 32, "sampling": {"frames": 4}}}
    file = out.with_name("config.yaml")
    file.write_text(json.dumps({"model": {"recipe": {"backbone": "timm/test_resnet"}}, "data": {"task": task}}))
    small = "--steps 2 --rates 0.01 --batch-size 4 --passes 1 --structures diagonal --jobs 1"
    words = ["study", "few-videos", "--out", str(out), *small.split(), *options]
    return main([*words, "--config", str(file), "--data.root", str(root)])


def task_of(root):
    return VideoData(str(root), Action(size=32), "timm/test_resnet", num_workers=0).task


def test_the_study(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert study(root, out, "--sizes", "2", "9", "--seeds", "0", "1", "--shares", "1", "0.1") == 0
    text = capsys.readouterr().out
    assert "left out: 9 videos of each class, as the smallest class has 4" in text
    assert "live late_accuracy" in text
    with open(out / "few-videos.csv") as lines:
        rows = list(csv.DictReader(lines))
    names = [row["network"] for row in rows if row["videos of each class"] == "2"]
    stacked = next(name for name in names if name.startswith("traditional"))
    assert names == [
        "frame-wise CNN",
        stacked,
        f"{stacked}, calibrated",
        f"{stacked}, diagonal",
        "PreGRU",
        "PreGRU, diagonal",
        "PreGRU-SIH",
        "PreGRU-SIH, diagonal",
    ]
    assert len(rows) == len(names)
    record = json.loads((out / "few-videos.json").read_text())
    by_name = {(row["few"], row["network"]): row for row in record["rows"]}
    assert all(set(row["search"]) == {"0.01", "0.01 (0.001 of what is pre-trained)"} for row in record["rows"])
    assert all(row["epochs"] >= 2 for row in record["rows"])
    for row in rows:
        few = int(row["videos of each class"])
        assert row["compared with"] in (stacked, f"{stacked}, calibrated")
        own, other = (by_name[few, name]["finals"] for name in (row["network"], row["compared with"]))
        for metric in ("clip_accuracy", "live late_accuracy"):
            values = [[result["metrics"][metric] for result in results] for results in (own, other)]
            assert float(row[metric]) == pytest.approx(np.mean(values[0]))
            assert float(row[f"{metric} difference"]) == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert (out / "few-videos.png").read_bytes().startswith(b"\x89PNG")


def test_whole_networks_go_on_from_what_was_learned_behind_the_trunk(root, tmp_path, monkeypatch):
    """At next to no rate they are what they were, and at more than that something else."""
    all_rows, asked, weights = lineup.few_videos_rows, [], tmp_path / "weights.pt"
    torch.save(backbone("timm/test_resnet").state_dict(), weights)
    monkeypatch.setattr(lineup, "few_videos_rows", lambda *given: asked.append(given[2]) or all_rows(*given)[2:5:2])
    found = []
    for joint in ((), ("--joint", "3", "--then", "1e-12"), ("--joint", "3", "--then", "0.5")):
        out = tmp_path / str(len(found)) / "out"
        out.parent.mkdir()
        given = ("--sizes", "3", "--seeds", "0", "--rates", "0.05", "--structures", *joint)
        assert study(root, out, *given, "--model.recipe.calibrate", "true", "--model.recipe.weights", str(weights)) == 0
        rows = json.loads((out / "few-videos.json").read_text())["rows"]
        assert [len(row["finals"][0]["history"]["train loss"]) for row in rows] == [2, 2]
        found.append([row["finals"][0] for row in rows])
    assert asked == [[], [], []]  # nothing sparse
    for frozen, still, moved in zip(*found, strict=True):
        assert still["metrics"] == pytest.approx(frozen["metrics"], abs=1e-6)
        falls = [result["history"]["train loss"][-1] for result in (still, moved)]
        assert falls[1] != pytest.approx(falls[0], rel=1e-3)


def test_dropout_of_the_configuration_is_every_networks(root, tmp_path, monkeypatch):
    all_rows = lineup.few_videos_rows
    monkeypatch.setattr(lineup, "few_videos_rows", lambda *given: all_rows(*given)[1:2])
    losses = []
    for share in ("0", "0.5"):
        out = tmp_path / share / "out"
        out.parent.mkdir()
        options = ("--sizes", "2", "--seeds", "0", "--model.learning.dropout.inputs", share)
        assert study(root, out, *options) == 0
        record = json.loads((out / "few-videos.json").read_text())
        assert record["budget"]["dropout"]["inputs"] == float(share)
        losses.append(record["rows"][0]["finals"][0]["history"]["train loss"])
    assert losses[0] != losses[1]


def test_what_can_not_be_comes_to_light_before_videos_are_rendered(tmp_path, capsys):
    for words in (["--seeds", "100"], ["--rates", "-1"], ["--steps", "0"], ["--structures", "foo"]):
        assert main(["study", "few-videos", "--out", str(tmp_path / "out"), *words]) == 2
        assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_traditional_networks_are_no_converted_ones(root):
    spec = NetworkSpec("timm/test_resnet", cell="vrnn")
    names = [row.name for row in lineup.few_videos_rows(spec, task_of(root), ["diagonal"])]
    stacked = names[1].removesuffix(" units")
    assert names == [
        "frame-wise CNN",
        f"{stacked} units",
        f"{stacked} units, calibrated",
        f"{stacked} units, diagonal",
        f"{stacked} units, ReLU",
        f"{stacked} units, ReLU, calibrated",
        f"{stacked} units, ReLU, diagonal",
        "PreVRNN",
        "PreVRNN, diagonal",
    ]
    rows = lineup.few_videos_rows(replace(spec, calibrate="all"), task_of(root), [])
    assert [row.name for row in rows] == ["frame-wise CNN", f"{stacked} units", f"{stacked} units, ReLU", "PreVRNN"]


def test_what_networks_are_compared_with(root):
    """The one that did best in the search; without a search that with the same care as PreRNN."""
    task = task_of(root)
    rows = [replace(row, few=2) for row in lineup.few_videos_rows(NetworkSpec("timm/test_resnet"), task, ["diagonal"])]
    assert _reference(rows[0], rows, task) is rows[2]
    for first, best in ((0.9, rows[1]), (0.5, rows[2])):
        for row, score in zip(rows, (1, first, 0.5, 1, 1, 1, 1, 1), strict=True):
            row.rate, row.search = 0.1, {(0.1, 1.0): score}
        assert _reference(rows[0], rows, task) is best


def test_a_difference_of_pairs_is_students():
    """The interval holds 0 as often as the test of pairs says."""
    chance = np.random.default_rng(0)
    for _ in range(20):
        pairs = chance.normal(0.3, 1, 5)
        mean, half = difference(pairs)
        assert mean == pytest.approx(pairs.mean())
        assert (abs(mean) > half) == (stats.ttest_1samp(pairs, 0).pvalue < 0.05)
        assert half == pytest.approx(stats.t.interval(0.95, 4, 0, pairs.std(ddof=1) / math.sqrt(5))[1])
    assert difference([0.5]) == (0.5, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "7"], "sizes: expected numbers from 1 to 4, the videos of the smallest class, got [7]"),
        (["--sizes", "0"], "sizes: expected a whole number of at least 1, got 0"),
        (["--steps", "0"], "steps: expected a whole number of at least 1, got 0"),
        (["--jobs", "0"], "jobs: expected a whole number of at least 1, got 0"),
        (["--shares"], "expected at least one argument"),
        (["--size", "3"], "unknown option --size"),
        (["--data.rot", "3"], "data.rot"),
    ],
)
def test_mistakes(root, tmp_path, options, message, capsys):
    assert study(root, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_study_that_is_begun_again_goes_on(root, tmp_path, monkeypatch, capsys):
    """What is known is not trained again; what a crash cut short, another seed and other videos are."""
    all_rows, trained, train_one = lineup.few_videos_rows, [], kept.train_one
    monkeypatch.setattr(lineup, "few_videos_rows", lambda *given: all_rows(*given)[:2])
    monkeypatch.setattr(kept, "train_one", lambda training: trained.append(training) or train_one(training))
    out, again = tmp_path / "out", []
    for seeds in (("0",), ("0",), ("0", "1")):
        assert study(root, out, "--sizes", "2", "--rates", "0.01", "0.1", "--seeds", *seeds) == 0
        again.append((len(trained), (out / "few-videos.csv").read_text()))
    assert [count for count, _ in again] == [6, 6, 8]  # two networks: two rates each, and one training a seed
    assert again[0][1] == again[1][1] != again[2][1]
    assert f"6 trainings of before taken from {out / kept.FILE}" in capsys.readouterr().out
    lines = (out / kept.FILE).read_text().splitlines()
    (out / kept.FILE).write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    assert study(root, out, "--sizes", "2", "--rates", "0.01", "0.1", "--seeds", "0", "1") == 0
    assert len(trained) == 9
    assert (out / "few-videos.csv").read_text() == again[2][1]
    other = ["--data.task.init_args.sampling.frames", "3"]
    assert study(root, out, "--sizes", "2", "--rates", "0.01", "0.1", "--seeds", "0", "1", *other) == 0
    assert len(trained) == 17
