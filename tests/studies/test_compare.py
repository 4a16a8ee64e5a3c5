"""The comparison: networks on one cached trunk are the networks themselves; search and batches are as they say."""

import csv
import json
import math
from concurrent.futures import Future
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from rich.progress import Progress

from prernn.commands.main import main
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.media.sampling import Sampling
from prernn.models.from_config import NetworkSpec
from prernn.studies.comparison import lineup, trainings, tuning
from prernn.studies.comparison.compare import _table
from prernn.studies.comparison.draws import drawn, held_out
from prernn.studies.comparison.lineup import RCN_STARTS, WAYS, Budget, Row
from prernn.tasks.action.task import Action
from prernn.training.batches import collate
from prernn.training.continuity import SINGLE_CLIPS
from prernn.training.data_module import VideoData
from prernn.training.evaluation import evaluate, in_batches, whole_outputs
from prernn.training.frozen_trunk.epochs import shuffled
from prernn.training.frozen_trunk.features import cached, outputs
from prernn.training.frozen_trunk.learner import learner, sgd

TINY = NetworkSpec("timm/test_resnet")


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
    net = NetworkSpec(TINY.backbone, method=method).build(2).eval()
    trunk, rest = split(net, at)
    (item, *_) = cached(trunk, data.datasets["test"])
    batch = collate([item])
    expected = net(data.datasets["test"][0]["input"][None])[0]
    torch.testing.assert_close(outputs(rest, net.init_state(1), batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_tasks(features):
    data, at, items = features
    net = TINY.build(2).eval()
    _, rest = split(net, at)
    metrics = data.task.metrics()
    found = evaluate(
        lambda batch: outputs(rest, net.init_state(len(batch["path"])), batch)[0], metrics, in_batches(items, 3)
    )
    assert int(found["confusion"].sum()) == 4


def test_a_cut_that_is_not_there():
    with pytest.raises(ValueError, match="expected values of the network's graph, got nowhere"):
        split(TINY.build(2), ["nowhere"])


def test_passes_are_read_as_epochs_and_each_epoch_takes_one(root):
    data = data_of(root)
    trunk, _ = split(TINY.build(2))
    items = cached(trunk.eval(), data.datasets["train"], passes=2)
    assert [item["number"] for item in items] == [*range(8), *range(8)]
    assert not torch.equal(items[0]["input"], items[8]["input"])  # other crops
    budget = Budget(batch_size=3, passes=2)
    for epoch in (0, 1, 2):
        batches = list(shuffled(items, epoch, 0, budget.batch_size))
        assert [len(batch["path"]) for batch in batches] == [3, 3, 2]
        assert len({path for batch in batches for path in batch["path"]}) == 8
        first = {item["path"]: item["input"] for item in items[8 * (epoch % 2) :][:8]}
        for batch in batches:
            for path, video in zip(batch["path"], batch["input"], strict=True):
                assert torch.equal(first[path], video)
    order = [batch["path"] for batch in shuffled(items, 0, 0, budget.batch_size)]
    assert order != [batch["path"] for batch in shuffled(items, 0, 1, budget.batch_size)]


def test_the_search_is_judged_by_videos_it_does_not_train_on():
    items = [{"number": n, "epoch": e} for e in range(3) for n in range(8)]
    train, judges = held_out(items, 0.25)
    assert len(judges) == 2
    assert all(item["epoch"] == 0 for item in judges)
    assert not {item["number"] for item in judges} & {item["number"] for item in train}
    assert len(train) == 18


def test_the_best_rates():
    task = Action()
    search = {(0.1, 1.0): 0.5, (0.01, 1.0): 0.7, (0.03, 1.0): math.nan, (0.01, 0.1): 0.6}
    assert tuning.best_rates(search, task) == (0.01, 1.0)
    assert tuning.best_rates({(0.1, 1.0): 0.7, (0.01, 1.0): 0.7, (0.01, 0.1): 0.7}, task) == (0.01, 0.1)
    task.score = ("error", "min")
    assert tuning.best_rates(search, task) == (0.1, 1.0)
    rows = [Row(name, TINY, rate=0.1, search={(0.1, 1.0): score}) for name, score in (("a", 0.3), ("b", 0.2))]
    assert tuning.best(rows, task).name == "b"
    diverged = Row("c", TINY, rate=0.1, search={(0.1, 1.0): math.nan})
    assert tuning.best([diverged, *rows], task).name == "b"


@pytest.mark.parametrize(("searches", "best", "score"), [(1, 0.1, 0.9), (2, 0.01, 0.5)])
def test_rates_are_judged_by_the_mean_of_their_searches(searches, best, score):
    """One training of the larger rate is lucky."""
    scores = {(0.1, 100): 0.9, (0.1, 101): 0.1, (0.01, 100): 0.6, (0.01, 101): 0.6}

    def start(training):
        done = Future()
        done.set_result({"metrics": {"clip_accuracy": scores[training.rate, training.seed]}})
        return done

    row = Row("a", TINY)
    tuning.search(start, [row], Budget(rates=(0.01, 0.1), searches=searches), Action(), Progress(disable=True))
    assert row.rate == best
    assert row.search == {(0.01, 1.0): 0.6, (0.1, 1.0): score}
    with pytest.raises(ValueError, match="others than those of searches, 100 to 101, got 101"):
        Budget(searches=2, seeds=(0, 101))


def test_what_is_pretrained_learns_at_a_share_of_the_rate():
    net = replace(TINY, method="prernn", hidden="diagonal").build(3)
    whole = learner(net, None, frozen=True)
    new = {id(parameter) for parameter in net.new_parameters()}
    rates = {}
    for group in sgd(whole, 0.5, pretrained=0.1).param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    assert set(rates) == {id(parameter) for parameter in net.parameters()}
    sparse = net.recurrent_layers[0].hidden_to_hidden.weight
    assert rates.pop(id(sparse)) > 0.5
    assert {rate for key, rate in rates.items() if key in new} == {0.5}
    assert {rate for key, rate in rates.items() if key not in new} == {0.05}
    assert len(sgd(whole, 0.5).param_groups) == 2


def run(root, out, *options):
    """``prernn compare`` with a budget as small as can be; its exit code."""
    config = {"class_path": "prernn.tasks.Action", "init_args": {"size": 32, "sampling": {"frames": 4}}}
    file = out.with_name("config.yaml")
    file.write_text(json.dumps({"model": {"recipe": {"backbone": TINY.backbone}}, "data": {"task": config}}))
    budget = ["--epochs", "1", "--rates", "0.01", "--seeds", "0", "1", "--passes", "1", "--structures", "diagonal"]
    rest = ["--out", str(out), "--config", str(file), "--data.root", str(root)]
    return main(["compare", *budget, *options, *rest])


def test_the_command(root, tmp_path, capsys):
    rows = "--model.learning.continuity.clips 2 --model.learning.continuity.carry true --model.recipe.calibrate true"
    assert run(root, tmp_path / "out", "--jobs", "1", *rows.split()) == 0
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["budget"]["continuity"]["clips"] == 2
    assert record["rows"][3]["recipe"]["calibrate"]
    with open(tmp_path / "out" / "comparison.csv") as lines:
        rows = list(csv.DictReader(lines))
    names = [row["network"].split(",")[0] for row in rows]
    assert names[:3] == ["frame-wise CNN", "traditional GRU", "traditional LSTM"]
    assert names[3:7] == ["PreGRU", "PreGRU-SIH", "PreLSTM", "PreLSTM-SIH"]
    assert rows[7]["network"].endswith(", diagonal")
    assert float(rows[0]["live clip_accuracy"]) == float(rows[0]["clip_accuracy"])  # which remembers nothing
    assert all(0 <= float(row["live late_accuracy"]) <= 1 for row in rows)
    assert int(rows[7]["recurrent weights"]) < int(rows[4]["recurrent weights"]) or "SIH" not in rows[7]["network"]
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for row, line in zip(record["rows"], rows, strict=True):
        found = [result["metrics"]["clip_accuracy"] for result in row["finals"]]
        assert float(line["clip_accuracy"]) == pytest.approx(np.mean(found))
        assert float(line["clip_accuracy spread"]) == pytest.approx(np.std(found, ddof=1))
        assert len(row["finals"][0]["history"]["train loss"]) == 1
        assert len(row["finals"][0]["history"]["train clip_accuracy"]) == 1
        assert all("verdicts" not in result for result in row["finals"])
    assert (tmp_path / "out" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert "frame-wise CNN" in capsys.readouterr().out
    assert run("absent", tmp_path / "out", "--jobs", "1") == 2
    assert "absent" in capsys.readouterr().err.splitlines()[-1]


def test_the_table_of_ways_to_train_states(root, tmp_path, monkeypatch):
    """From few videos, drawn for each seed, with rates chosen by a stream that is never reset."""
    names = ("single clips", "three joined", "rows of two", "rows of two, cut 0.4", "rows of two, dropout 0.1")
    ways = {name: WAYS[name] for name in names}
    monkeypatch.setattr(lineup, "WAYS", ways)
    words = ["--networks", "continuity", "--few", "2", "--judge", "live", "--rates", "0.01", "0.1", "--jobs", "1"]
    assert run(root, tmp_path / "out", *words) == 0
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["budget"]["few"] == 2
    assert [row["network"] for row in record["rows"]] == list(ways)
    single, *_, dropout = record["rows"]
    assert single["continuity"] == asdict(SINGLE_CLIPS)
    assert dropout["continuity"] == asdict(WAYS["rows of two, dropout 0.1"].of(Action()))
    assert all(set(row["search"]) == {"0.01", "0.1"} for row in record["rows"])
    assert len({json.dumps(row["finals"][0]["history"]) for row in record["rows"]}) >= 3  # they train differently
    names = {"clip_accuracy", "live clip_accuracy", "live late_accuracy", "live frames_until_right"}
    assert names <= set(single["finals"][0]["metrics"])


def test_few_videos_of_each_class():
    labels = [0, 0, 0, 1, 1, 2, 0, 1]
    chosen = drawn(labels, 2, seed=0)
    assert [labels[number] for number in chosen].count(0) == [labels[number] for number in chosen].count(1) == 2
    assert [labels[number] for number in chosen].count(2) == 1  # there are no more
    assert chosen == sorted(chosen)
    assert chosen == drawn(labels, 2, seed=0)
    assert len({tuple(drawn(labels, 2, seed)) for seed in range(10)}) > 1


def test_what_few_videos_are_judged_by(monkeypatch):
    items = [{"number": number, "pass": k} for k in range(2) for number in range(12)]
    labels = [number % 2 for number in range(12)]
    known = trainings.Known(Action(), None, Budget(held_out=0.5), labels)
    monkeypatch.setattr(trainings, "_shared", {"train": items, "test": ["test"], "known": known})
    asked = trainings.Training(TINY, 0.1, 1, few=2, search=True)
    train, judges = trainings._items(asked)
    chosen = {item["number"] for item in train}
    assert len(chosen) == 4
    assert len(train) == 8  # both passes
    assert len(judges) == 4
    assert not chosen & {item["number"] for item in judges}
    final, test = trainings._items(replace(asked, search=False))
    assert (final, test) == (train, ["test"])
    assert {item["number"] for item in trainings._items(replace(asked, search=False, seed=2))[0]} != chosen
    train, judges = trainings._items(replace(asked, few=6))  # no others are left
    assert {item["number"] for item in judges} | {item["number"] for item in train} == set(range(12))
    assert len(judges) == 6
    known = replace(known, labels=[int(number < 2) for number in range(12)])  # none are left of a class
    monkeypatch.setitem(trainings._shared, "known", known)
    train, judges = trainings._items(asked)
    sides = [sorted(known.labels[number] for number in {item["number"] for item in side}) for side in (train, judges)]
    assert sides == [[0, 0, 1], [0, 0, 0, 0, 1]]
    assert not {item["number"] for item in train} & {item["number"] for item in judges}
    monkeypatch.setitem(trainings._shared, "known", replace(known, labels=list(range(12))))
    with pytest.raises(ValueError, match="expected videos besides the drawn ones, to judge learning rates by"):
        trainings._items(asked)


def test_the_table_has_what_there_is_any_of(root):
    rows = [
        {"network": "a", "recurrent weights": 1, "weights": 2, "learning rate": 0.1, "train loss": 1.0}
        | {"nme": 0.1, "nme spread": "", "tremble": math.nan, "tremble spread": "", "delay": delay, "delay spread": ""}
        for delay in (math.nan, 3.0)
    ]
    columns = [column.header for column in _table(rows, data_of(root).task).columns]
    assert columns == ["network", "recurrent weights", "weights", "learning rate", "nme", "delay", "train loss"]


@pytest.mark.slow
def test_processes_train_the_same_networks(root, tmp_path):
    records = []
    for jobs in ("1", "2"):
        assert run(root, tmp_path / jobs, "--networks", "rcn", "--jobs", jobs) == 0
        records.append(json.loads((tmp_path / jobs / "comparison.json").read_text()))
    assert records[0] == records[1]


def test_the_table_of_rcn(root, tmp_path, capsys):
    assert run(root, tmp_path / "out", "--networks", "rcn", "--jobs", "1", "--also", "mc3_18", "--seeds", "0") == 0
    with open(tmp_path / "out" / "comparison.csv") as lines:
        rows = {row["network"]: row for row in csv.DictReader(lines)}
    starts = [f"RCN, {name}" for name in RCN_STARTS]
    last = ["RCN, pre-trained, identity, diagonal", "inflated to 3-D", "inflated to 3-D, random", "mc3_18, random"]
    assert list(rows) == ["frame-wise CNN", *starts, *last]
    assert int(rows["RCN, pre-trained, identity, diagonal"]["recurrent weights"]) < int(
        rows[starts[3]]["recurrent weights"]
    )
    assert [int(rows[name]["recurrent weights"]) for name in (*last[1:], "frame-wise CNN")] == [0, 0, 0, 0]
    inflated, plain = (int(rows[name]["weights"]) for name in ("inflated to 3-D", "frame-wise CNN"))
    assert inflated > 1.5 * plain  # kernels of three frames
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert all(row["search"] == {} and row["rate"] == 0.01 for row in record["rows"])  # nothing to choose from
    for row in record["rows"]:
        for result in row["finals"]:
            assert len(result["early"]) == 10
            assert result["early"][-1] == pytest.approx(result["metrics"]["clip_accuracy"])
    with open(tmp_path / "out" / "early.csv") as lines:
        assert len(list(csv.DictReader(lines))) == 10 * len(rows)
    assert (tmp_path / "out" / "early.png").read_bytes().startswith(b"\x89PNG")
    assert "mc3_18" in capsys.readouterr().out


def test_whole_networks_learn_the_statistics_of_their_batches_and_keep_padding_out(root):
    data = data_of(root)
    data.setup("test")
    net = replace(TINY, method="rcn").build(2).eval()
    short = data.datasets["test"][0]["input"][:2]
    batch = {"input": torch.cat([short, torch.full_like(short, math.nan)])[None], "lengths": torch.tensor([2])}
    out = whole_outputs(net, batch)
    torch.testing.assert_close(out[:, :2], net(short[None])[0], rtol=1e-4, atol=1e-5)
    assert out.shape == (1, 4, 2)
    whole = learner(net, None)
    assert whole.part is net
    assert not whole.frozen
    assert torch.equal(whole.forward(batch), out)


def test_a_clip_network_answers_once(root):
    net = replace(TINY, method="framewise", inflate={"frames": 4}).build(2).eval()
    video = torch.randn(2, 5, 3, 32, 32)
    batch = {"input": video, "lengths": torch.tensor([5, 3])}
    out = whole_outputs(net, batch)
    assert out.shape == (2, 5, 2)
    assert torch.equal(out, out[:, :1].expand(-1, 5, -1))
    batch["input"] = video.clone()
    batch["input"][1, 3:] = math.nan  # padding
    assert torch.equal(whole_outputs(net, batch), out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--networks", "cnn"],
            "expected networks to be one of prernn, supplement, rcn, continuity, starts, got 'cnn'",
        ),
        (["--few", "0"], "few: expected a whole number of at least 1, got 0"),
        (["--epochs", "0"], "epochs: expected a whole number of at least 1, got 0"),
        (["--batch-size", "0"], "batch_size: expected a whole number of at least 1, got 0"),
        (["--passes", "0"], "passes: expected a whole number of at least 1, got 0"),
        (["--rates", "0.1", "0"], "rates: expected a number above 0, got 0.0"),
        (["--rates", "0.1", "nan"], "rates: expected a number above 0, got nan"),
        (["--rates", "0.1", "0.1"], "rates: expected one at least, and none twice, got [0.1, 0.1]"),
        (["--seeds", "1", "1"], "seeds: expected one at least, and none twice, got [1, 1]"),
        (["--seeds", "100"], "seeds: expected others than those of searches, 100, got 100"),
        (["--jobs", "0"], "jobs: expected at least 1, got 0"),
        (["--cells", "gru", "lost"], "lost"),
        (["--rates", "0.1", "0.2", "--structures", "diagonal", "bandd:3"], "hidden='bandd:3': unknown structure"),
        (
            ["--rates", "0.1", "0.2", "--structures", "grouped:1000"],
            "hidden='grouped:1000': the hidden size must be a multiple of the groups",
        ),
        (["--also", "r3d_18"], "only with networks='rcn', got r3d_18"),
        (["--joint", "-1"], "joint: expected a whole number of at least 0, got -1"),
        (["--then", "0"], "then: expected a number above 0, up to 1, got 0.0"),
        (["--networks", "rcn", "--joint", "2"], "joint: expected 0 for networks='rcn'"),
    ],
)
def test_mistakes(root, tmp_path, options, message, capsys):
    assert run(root, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "trainings.jsonl").exists()  # nothing was trained before


def test_the_networks_of_the_supplement(root):
    """Its Tables 1 to 3 in small: hidden sizes, layers, and where the input's weights come from."""
    spec = NetworkSpec("small_vgg", backbone_options={"width": 2, "units": 32, "size": 16}, layer=["fc6", "fc7"])
    task = data_of(root).task
    rows = lineup.supplement_rows(spec, task, ["vrnn", "lstm"])
    names = [row.name for row in rows]
    sizes = {row.name: row.spec.hidden_size for row in rows if row.spec.method == "traditional"}
    assert [f"traditional LSTM, 2 of {size} units" in sizes for size in (2, 4, 8, 16, 32)] == [True] * 5
    assert len(names) == len(set(names)) == 2 * (7 + 5) + 2
    assert names[7:12] == [
        "PreVRNN, fc6",
        "PreVRNN, fc7",
        "PreVRNN, fc6+fc7",
        "PreVRNN, fc6+fc7, a random layer on top",
        "PreVRNN, fc6, random W_xy",
    ]
    assert names[-2:] == ["PreLSTM-SIH, fc6", "PreLSTM-SIH, fc6, random W_xy"]
    nets = {row.name: row.spec.build(2) for row in rows}
    assert [len(nets[name].recurrent_layers) for name in names[7:12]] == [1, 1, 2, 3, 1]
    at = inputs_of(nets["PreVRNN, fc6"])
    assert next(row for row in rows if row.spec.method == "prernn").name == "PreVRNN, fc6"
    for net in nets.values():  # all stand on the trunk that fc6 ends
        split(net, at)
    matched = [row for row in rows if "traditional VRNN, 1 of" in row.name or row.name == "PreVRNN, fc6"]
    assert matched[0].total == pytest.approx(matched[1].total, rel=0.02)
    with pytest.raises(ValueError, match="expected two layers"):
        lineup.supplement_rows(replace(spec, layer="fc6"), task, ["gru"])


def test_starts_of_w_hh(root):
    rows = lineup.start_rows(TINY, data_of(root).task, ["diagonal"])
    assert [row.name for row in rows[:4]] == [
        "full, gain 1.0",
        "full, gain 2.0",
        "full, gain lasting",
        "full, gain 5.0",
    ]
    gains = [row.spec.build(2).recurrent_layers[0].hidden_to_hidden.gain for row in rows]
    assert gains == pytest.approx([1, 2, 3, 5, 1, 2, 1, 5], abs=1e-3)  # a diagonal lasts by its biases
    assert {row.spec.hidden for row in rows[4:]} == {"diagonal"}
