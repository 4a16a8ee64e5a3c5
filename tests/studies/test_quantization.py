"""Quantized copies of trained networks: the command on runs and backbones, its figures, and a user's mistakes."""

import copy
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

import prernn
from footage import class_videos
from prernn.commands.main import main
from prernn.conversion.recipe import KeptTask
from prernn.media.transforms import TransformSpec
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.models.networks.small_vgg import SmallVGG
from prernn.sparsity.quantization.packing import is_quantized, load_quantized
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from prernn.sparsity.quantization.weights import weights_of
from prernn.studies import quantization
from prernn.studies.quantization import Judge, Trial, mean_and_spread, summary, sweep, weight_error
from prernn.studies.runs import videos
from prernn.tasks.clips.clip_metrics import ClipMetrics
from prernn.training.batches import collate

LABELS = ["a", "b", "c"]
FILES = ["layers.csv", "model.safetensors", "quantize.csv", "quantize.png"]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run that knows its test videos, two in each of three classes, and the same without a config."""
    root = tmp_path_factory.mktemp("quantize")
    class_videos(root / "data", LABELS)
    kind = {"cell": "gru", "input": "single"}
    torch.manual_seed(0)
    net = NetworkSpec("timm/test_resnet", **kind).build(3)
    net.recipe = replace(net.recipe, labels=LABELS, transform=TransformSpec(size=32).__dict__, task=KeptTask("action"))
    options = {"size": 32, "sampling": {"frames": 5}}
    data = {
        "root": str(root / "data"),
        "task": {"class_path": "prernn.tasks.Action", "init_args": options},
        "num_workers": 0,
        "batch_size": 4,
    }
    config = {"model": {"recipe": {"backbone": "timm/test_resnet", **kind}}, "data": data}
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    learn(net.eval(), videos.own_videos(root / "run", net))
    checkpoint.save(net, root / "run")
    (root / "bare").mkdir()
    shutil.copy(root / "run" / "model.safetensors", root / "bare")
    return root


@torch.no_grad()
def learn(net, loader):
    """Solves for an output layer that is right at every frame: features to one-hot classes."""
    seen, classes = [], []
    hook = net.output_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    for batch in loader:
        for video, label in zip(batch["input"], batch["label"], strict=True):
            net(video[None])
            classes += [int(label)] * len(video)
    hook.remove()
    features = torch.cat([x.flatten(0, -2) for x in seen])
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    wanted = 20 * torch.eye(3, dtype=torch.float64)[classes]
    solution = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
    net.output_layer.weight.copy_(solution[:-1].T)
    net.output_layer.bias.copy_(solution[-1])


def video_of(root):
    return next(iter(videos.own_videos(root / "run", prernn.load(root / "run"))))["input"]


@torch.no_grad()
def test_a_run_over_samples_and_draws(root, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    amounts = ["--samples", "2", "--sweep", "0.5", "8", "2", "--draws", "2", "--seed", "3"]
    assert main(["quantize", str(root / "run"), *amounts, "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == FILES
    net, kept = checkpoint.load(root / "run"), prernn.load(out)
    assert is_quantized(kept)
    assert not is_quantized(net)
    # the first draw is what is kept
    expected = quantize(net, 2.0, seed=3)
    for one, other in zip(weights_of(kept), weights_of(expected), strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=0)
    video = video_of(root)
    torch.testing.assert_close(kept(video)[0], expected(video)[0], rtol=0, atol=0)
    report = quantization_report(expected)
    layers = rows(out / "layers.csv")
    assert [(row["name"], int(row["samples"]), int(row["bits"])) for row in layers] == [
        (row.name, row.samples, row.bits) for row in report
    ]
    table = rows(out / "quantize.csv")
    assert [(float(row["samples"]), int(row["seed"])) for row in table] == [
        (samples, seed) for samples in (0.5, 2, 8) for seed in (3, 4)
    ]
    assert float(table[2]["bits"]) == pytest.approx(report.bits)
    assert float(table[2]["nonzero"]) == pytest.approx(report.nonzero)
    assert float(table[2]["error"]) == pytest.approx(weight_error(net, expected))
    assert float(table[2]["score"]) == pytest.approx(score(root, kept))
    errors = [float(row["error"]) for row in table]
    assert min(errors[:2]) > max(errors[2:4]) > min(errors[2:4]) > max(errors[4:])
    assert errors[0] != errors[1]  # draws differ
    printed = capsys.readouterr().out
    assert "clip_accuracy before: 1.0000" in printed
    assert all(row.name in printed for row in report)
    assert "±" in printed
    assert (out / "quantize.png").read_bytes().startswith(b"\x89PNG")
    assert main(["stream", str(root / "data" / "test" / "a" / "0.mp4"), "--checkpoint", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7


def score(root, net):
    """Accuracy over the run's test videos."""
    metrics = ClipMetrics(3)
    for batch in videos.own_videos(root / "run", net):
        metrics.update(net(batch["input"])[0], batch)
    return float(metrics.compute()["clip_accuracy"])


@torch.no_grad()
def test_very_many_samples_change_nothing_and_none_leave_nothing(root, tmp_path, capsys):
    arguments = ["--samples", "1e5", "--sweep", "0", "--out", str(tmp_path)]
    assert main(["quantize", str(root / "run"), *arguments]) == 0
    none, many = rows(tmp_path / "quantize.csv")
    assert "clip_accuracy before: 1.0000" in capsys.readouterr().out
    assert float(many["score"]) == score(root, checkpoint.load(root / "run")) == 1
    assert float(many["error"]) < 1e-4
    assert float(many["bits"]) > 15
    assert float(none["score"]) == pytest.approx(1 / 3)  # one class for all
    assert (float(none["error"]), float(none["nonzero"]), float(none["bits"])) == (1, 0, 0)
    net, kept = (checkpoint.load(folder) for folder in (root / "run", tmp_path))
    torch.testing.assert_close(kept(video_of(root))[0], net(video_of(root))[0], rtol=1e-3, atol=1e-2)


def test_without_videos_there_is_no_score(root, tmp_path, capsys):
    for name, more in (("bare", ()), ("run", ("--limit", "0"))):
        assert main(["quantize", str(root / name), *more, "--sweep", "3", "--out", str(tmp_path / name)]) == 0
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == FILES
        assert [row["score"] for row in rows(tmp_path / name / "quantize.csv")] == ["", ""]
        printed = capsys.readouterr().out
        assert "before" not in printed
        assert "score" not in printed


def test_a_config_says_which_videos_and_a_limit_how_many(root, tmp_path, monkeypatch):
    seen = []

    def watched(net):
        outputs = onward(net)

        def watch(batch):
            seen.extend(batch["label"].tolist())
            return outputs(batch)

        return watch

    onward = quantization.onward
    monkeypatch.setattr(quantization, "onward", watched)
    for arguments, labels in ((("--limit", "3"), [0, 1, 2]), ((), [0, 0, 1, 1, 2, 2])):
        seen.clear()
        config = ["--config", str(root / "run" / "config.yaml")]
        file = root / "bare" / "model.safetensors"
        assert main(["quantize", str(file), *config, *arguments, "--out", str(tmp_path)]) == 0
        assert seen == 2 * labels  # before and after
        (row,) = rows(tmp_path / "quantize.csv")
        assert 0 <= float(row["score"]) <= 1


def test_options_of_the_draws_reach_them(root, monkeypatch):
    seen = []
    monkeypatch.setattr(quantization, "run", lambda *arguments, **options: seen.append((arguments, options)))
    start = ["quantize", str(root / "bare"), "--out", "out"]
    ways = ["--sampler", "random", "--scale", "neuron", "--order", "natural", "--allocation", "0"]
    assert main(start) == main([*start, *ways, "--draws", "3", "--seed", "5", "--samples", "2"]) == 0
    (plain, default), (chosen, options) = seen
    assert default == {"sampler": "systematic", "scale": "layer", "order": "sign"}
    assert options == {"sampler": "random", "scale": "neuron", "order": "natural", "allocation": 0.0}
    assert plain[1:] == (Path("out"), 1.0, [], range(1), None)
    assert chosen[1:] == (Path("out"), 2.0, [], range(5, 8), None)


def test_a_backbone_and_a_file_of_its_weights(tmp_path, capsys):
    cnn = SmallVGG().eval()
    torch.save(cnn.state_dict(), tmp_path / "weights.pt")
    out = tmp_path / "out"
    assert main(["quantize", "small_vgg", "--weights", str(tmp_path / "weights.pt"), "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == FILES
    assert "fc6.weight" in capsys.readouterr().out
    expected = quantize(cnn, 1.0)
    again = load_quantized(SmallVGG().eval(), out / "model.safetensors")
    for one, other in zip(weights_of(again), weights_of(expected), strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=0)
    (row,) = rows(out / "quantize.csv")
    assert float(row["error"]) == pytest.approx(weight_error(cnn, expected))
    assert row["score"] == ""


# ------------------------------------------------------------------------------------------------ parts


def linear(*values):
    layer = nn.Linear(len(values), 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    return layer


def test_the_error_of_the_weights_is_a_ratio_of_norms():
    assert weight_error(linear(3.0, -4.0), linear(0.0, -4.0)) == 0.6
    assert weight_error(linear(3.0, -4.0), linear(3.0, -4.0)) == 0
    assert weight_error(linear(0.0, 0.0), linear(0.0, 0.0)) == 0
    # over all layers together: 9 + 16 of 25 + 144
    two, off = (nn.Sequential(linear(3.0, 4.0), linear(0.0, last)) for last in (12.0, 8.0))
    off[0] = linear(0.0, 4.0)
    assert weight_error(two, off) == pytest.approx((25 / 169) ** 0.5, rel=1e-12)


def test_a_sweep_tries_every_amount_with_every_seed():
    net, judged, steps = nn.Linear(6, 5).double(), [], []
    before = copy.deepcopy(net.state_dict())

    def judge(quantized):
        judged.append(quantized)
        return float(len(judged))

    trials = sweep(net, [1, 4], seeds=(7, 8), judge=judge, advance=lambda: steps.append(0), scale="neuron")
    assert [(trial.samples, trial.seed, trial.score) for trial in trials] == [
        (1, 7, 1),
        (1, 8, 2),
        (4, 7, 3),
        (4, 8, 4),
    ]
    assert len(steps) == 4
    for trial, quantized in zip(trials, judged, strict=True):
        expected = quantize(net, trial.samples, seed=trial.seed, scale="neuron")
        torch.testing.assert_close(quantized.weight, expected.weight, rtol=0, atol=0)
        assert trial.error == weight_error(net, expected)
    torch.testing.assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)
    assert {trial.score for trial in sweep(net, [1])} == {None}


def trial(samples, seed, score=None, error=0.5):
    return Trial(samples, seed, bits=3.0 + seed, coded=2.0 + seed, nonzero=0.25, error=error, score=score)


def test_means_and_spreads_over_the_draws():
    assert mean_and_spread([0.5]) == (0.5, 0.0)
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    first, second = summary([trial(0.5, 0, 0.2), trial(0.5, 1, 0.4), trial(2, 0, 1.0)])
    assert first["samples a weight"] == "0.5"
    values = [first[name] for name in ("draws", "bits", "coded", "nonzero", "error")]
    assert values == ["2", "3.50", "2.50", "25.0%", "0.500"]
    assert first["score"] == "0.3000 ± 0.1414"
    assert (second["draws"], second["score"]) == ("1", "1.0000")
    assert "score" not in summary([trial(1, 0)])[0]
    assert trial(1, 0).line()["score"] == ""
    assert trial(1, 0, 0.0).line()["score"] == 0.0  # no videos, and none right, are two things


@pytest.mark.parametrize("scored", [True, False])
def test_the_picture_shows_means_over_the_samples(tmp_path, figures, scored):
    scores = (0.2, 0.4, 0.9) if scored else (None,) * 3
    trials = [trial(s, seed, score) for (s, seed), score in zip([(4, 0), (4, 1), (1, 0)], scores, strict=True)]
    full = 0.95 if scored else None
    path = quantization.draw(trials, tmp_path / "a.png", score_name="clip_accuracy", full=full, title="a")
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = {axis.get_ylabel(): axis for axis in figures[0].axes}
    first = "clip accuracy" if scored else "error of the weights"
    assert list(axes) == [first, "bits a weight in a file", "share of non-zero weights"]
    expected = [[1, 0.9], [4, 0.3]] if scored else [[1, 0.5], [4, 0.5]]
    np.testing.assert_allclose(axes[first].lines[0].get_xydata(), expected)
    np.testing.assert_allclose(axes["bits a weight in a file"].lines[0].get_xydata(), [[1, 2], [4, 2.5]])
    levels = [line.get_ydata()[0] for line in axes[first].lines[1:]]
    assert levels == ([0.95] if scored else [])


class Batches(list):
    """A loader of these batches."""

    def __init__(self, batches, dataset):
        super().__init__(batches)
        self.dataset = dataset


def test_the_judge_leaves_out_videos_that_were_skipped(root):
    net, task = checkpoint.load(root / "run"), SimpleNamespace()
    task.score, task.metrics = ("clip_accuracy", "max"), lambda: ClipMetrics(3)
    broken = collate([{"path": "broken.mp4", "reason": "broken"}])
    own = list(videos.own_videos(root / "run", net))
    dataset = SimpleNamespace(task=task)
    net.train()
    for source in (dataset, Subset(dataset, [0])):
        judge = Judge(Batches([broken, *own], source))
        assert judge.name == "clip_accuracy"
        assert judge(net) == 1
        assert net.training
    with pytest.raises(ValueError, match="none of 1 videos could be read: broken"):
        Judge(Batches([broken], dataset))(net)


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["RUN", "--sampler", "halton"], "systematic, jittered"),
        (["RUN", "--scale", "gate"], "layer, neuron"),
        (["RUN", "--order", "size"], "sign, natural"),
        (["RUN", "--samples", "-1"], "from 0 on, got -1"),
        (["RUN", "--samples", "nan"], "from 0 on, got nan"),
        (["RUN", "--sweep", "2", "-0.5"], "from 0 on, got -0.5"),
        (["RUN", "--allocation", "inf"], "allocation"),
        (["RUN", "--draws", "0"], "--draws"),
        (["RUN", "--limit", "-1"], "--limit"),
        (["RUN", "--weights", "FILE"], "its own weights"),
        (["RUN", "--config", "absent.yaml"], "absent.yaml: expected a file"),
        (["MOVED"], "nowhere"),
        (["ORDER"], "expected the classes"),
        (["TASK"], "gesture"),
        (["AGAIN"], "quantized already"),
        (["EMPTY"], "model.safetensors"),
        (["runs/absent"], "runs/absent: expected a run folder or checkpoint, found none"),
        (["small_vgg", "--config", "FILE"], "--config is of a run"),
        (["small_vgg", "--limit", "3"], "--limit is of a run"),
        (["small_vgg"], "no weights of its own"),
        (["small_vgg", "--weights", "absent.pt"], "absent.pt"),
        (["small_vgg", "--weights", "FILE"], "config.yaml"),
        (["resnet18"], "could not get the weights of resnet18"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line(root, tmp_path, capsys, monkeypatch, arguments, complaint):
    def unreachable(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(root / "run"), "FILE": str(root / "run" / "config.yaml")}
    for name in {"MOVED", "ORDER", "TASK", "AGAIN", "EMPTY"} & set(arguments):
        places[name] = str(spoilt(root, tmp_path / name.lower()))
    assert main(["quantize", *(places.get(word, word) for word in arguments), "--out", "out"]) == 2
    (line,) = (x for x in capsys.readouterr().err.strip().splitlines() if not x.startswith("Downloading"))
    assert line.startswith("prernn: error: ")
    assert complaint in line
    assert "--videos" not in line
    assert "--no-gates" not in line
    assert not (tmp_path / "out").exists()


def spoilt(root, folder):
    """The run with one thing wrong."""
    shutil.copytree(root / "run", folder)
    if folder.name == "moved":
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace(str(root / "data"), str(folder / "nowhere")))
        return folder
    if folder.name == "empty":
        (folder / "model.safetensors").unlink()
        return folder
    net = checkpoint.load(folder)
    if folder.name == "again":
        net = quantize(net, 2.0)
    else:
        change = {"labels": LABELS[::-1]} if folder.name == "order" else {"task": KeptTask("gesture")}
        net.recipe = replace(net.recipe, **change)
    checkpoint.save(net, folder)
    return folder


def test_the_trained_network_is_not_overwritten(root, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(root / "run", run)
    before = (run / "model.safetensors").read_bytes()
    for network in (run, run / "model.safetensors"):
        assert main(["quantize", str(network), "--limit", "0", "--out", str(run)]) == 2
        assert "holds the trained network" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before
