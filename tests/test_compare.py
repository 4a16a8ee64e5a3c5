"""The comparison: networks on one cached trunk are the networks themselves; search and batches are as they say."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from prernn import compare
from prernn.cli import main
from prernn.compare import Budget
from prernn.data import VideoData
from prernn.features import cached, evaluate, outputs
from prernn.lineup import Row
from prernn.network import inputs_of, split
from prernn.recipe import Recipe
from prernn.tasks.action import Action
from prernn.transforms import Sampling
from prernn.video import write_video

TINY = Recipe("timm/test_resnet")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("brighter", "darker")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([label, number]).integers(0, 40, (32, 32, 3))
                steps = np.linspace(40, 200, 6)[:: 1 - 2 * label]
                write_video(folder / f"{number}.mp4", [(step + noise).astype(np.uint8) for step in steps], 6)
    return root


def data_of(root):
    task = Action(sampling=Sampling(4, "random"), size=32)
    return VideoData(str(root), task, TINY.backbone, batch_size=4, num_workers=0)


@pytest.fixture(scope="module")
def features(root):
    data = data_of(root)
    data.setup("test")
    at = inputs_of(TINY.build(2))
    trunk, _ = split(TINY.build(2), at)
    return data, at, cached(trunk.eval(), data.datasets["test"])


@pytest.mark.parametrize("method", ["framewise", "traditional", "prernn"])
def test_what_stands_on_cached_features_is_the_network(root, features, method):
    data, at, _ = features
    net = Recipe(TINY.backbone, method=method).build(2).eval()
    trunk, rest = split(net, at)
    (item, *_) = cached(trunk, data.datasets["test"])
    batch = {"video": item["video"][None], **{k: v[None] for k, v in item.items() if k.startswith("input_")}}
    expected = net(data.datasets["test"][0]["video"][None])[0]
    torch.testing.assert_close(outputs(rest, net.init_state(1), batch), expected, rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_tasks(features):
    data, at, items = features
    net = TINY.build(2).eval()
    _, rest = split(net, at)
    found = evaluate(lambda batch: outputs(rest, net.init_state(len(batch["path"])), batch), data.task, items, 3)
    assert int(found["confusion"].sum()) == 4


def test_a_cut_that_is_not_there():
    with pytest.raises(ValueError, match="expected values of the network's graph, got nowhere"):
        split(TINY.build(2), ["nowhere"])


def test_passes_are_read_as_epochs_and_each_epoch_takes_one(root):
    data = data_of(root)
    trunk, _ = split(TINY.build(2))
    items = cached(trunk.eval(), data.datasets["train"], passes=2)
    assert [item["number"] for item in items] == [*range(8), *range(8)]
    assert not torch.equal(items[0]["video"], items[8]["video"])  # other crops
    budget = Budget(batch_size=3, passes=2)
    for epoch in (0, 1, 2):
        batches = list(compare._batches(items, epoch, 0, budget))
        assert [len(batch["path"]) for batch in batches] == [3, 3, 2]
        assert len({path for batch in batches for path in batch["path"]}) == 8
        first = {item["path"]: item["video"] for item in items[8 * (epoch % 2) :][:8]}
        for batch in batches:
            for path, video in zip(batch["path"], batch["video"], strict=True):
                assert torch.equal(first[path], video)
    order = [batch["path"] for batch in compare._batches(items, 0, 0, budget)]
    assert order != [batch["path"] for batch in compare._batches(items, 0, 1, budget)]


def test_the_search_is_judged_by_videos_it_does_not_train_on(monkeypatch):
    items = [{"number": n, "epoch": e} for e in range(3) for n in range(8)]
    monkeypatch.setitem(compare._shared, "train", items)
    train, judges = compare._held_out(Budget(held_out=0.25))
    assert len(judges) == 2
    assert all(item["epoch"] == 0 for item in judges)
    assert not {item["number"] for item in judges} & {item["number"] for item in train}
    assert len(train) == 18


def test_the_best_rate():
    task = Action()
    assert compare._best_rate({0.1: 0.5, 0.01: 0.7, 0.03: math.nan}, task) == 0.01
    assert compare._best_rate({0.1: 0.7, 0.01: 0.7}, task) == 0.01
    task.score = ("error", "min")
    assert compare._best_rate({0.1: 0.5, 0.01: 0.7, 0.03: math.nan}, task) == 0.1
    rows = [Row(name, TINY, rate=0.1, search={0.1: score}) for name, score in (("a", 0.3), ("b", 0.2))]
    assert compare._best(rows, task).name == "b"
    diverged = Row("c", TINY, rate=0.1, search={0.1: math.nan})
    assert compare._best([diverged, *rows], task).name == "b"


def test_the_command(root, tmp_path, capsys):
    config = {"class_path": "prernn.tasks.action.Action", "init_args": {"size": 32, "sampling": {"frames": 4}}}
    file = tmp_path / "config.yaml"
    values = {"model": {"recipe": {"backbone": TINY.backbone}}, "data": {"task": config}}
    file.write_text(json.dumps(values))
    arguments = ["--epochs", "1", "--rates", "0.01", "--seeds", "0", "1", "--passes", "1", "--jobs", "1"]
    arguments += ["--structures", "diagonal", "--out", str(tmp_path / "out")]
    assert main(["compare", *arguments, "--", "--config", str(file), "--data.root", str(root)]) == 0
    with open(tmp_path / "out" / "comparison.csv") as lines:
        rows = list(csv.DictReader(lines))
    names = [row["network"].split(",")[0] for row in rows]
    assert names[:3] == ["frame-wise CNN", "traditional GRU", "traditional LSTM"]
    assert names[3:7] == ["PreGRU", "PreGRU-SIH", "PreLSTM", "PreLSTM-SIH"]
    assert rows[7]["network"].endswith(", diagonal")
    assert int(rows[7]["recurrent weights"]) < int(rows[4]["recurrent weights"]) or "SIH" not in rows[7]["network"]
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for row, line in zip(record["rows"], rows, strict=True):
        found = [result["metrics"]["clip_accuracy"] for result in row["finals"]]
        assert float(line["clip_accuracy"]) == pytest.approx(np.mean(found))
        assert float(line["clip_accuracy spread"]) == pytest.approx(np.std(found, ddof=1))
        assert len(row["finals"][0]["history"]["train loss"]) == 1
    assert (tmp_path / "out" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert "frame-wise CNN" in capsys.readouterr().out
    assert main(["compare", *arguments, "--", "--config", str(file), "--data.root", "absent"]) == 2
    assert "absent" in capsys.readouterr().err.splitlines()[-1]
