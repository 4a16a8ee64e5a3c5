"""The page of several runs: what it shows of which, the tables beside it, and what is a user's mistake."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import torch

import prernn
from prernn.commands.main import main
from prernn.conversion.accounting import recurrent_parameters
from prernn.conversion.recipe import KeptTask
from prernn.media.encoding import write_video
from prernn.media.transforms import TransformSpec
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.models.networks.deep_speech import deep_speech
from prernn.reports.files import write_json, write_table
from prernn.reports.plots.gates import histograms, saturation
from prernn.studies.runs import page as runs_page
from prernn.studies.runs import run
from prernn.studies.runs.gates import recording
from prernn.studies.runs.page import analyze, short_names

SPEC = {**TransformSpec(size=32).__dict__}
KINDS = {
    "pregru": {"cell": "gru"},
    "tra <gru>": {"cell": "gru", "method": "traditional", "hidden_size": 6, "num_layers": 2},
    "sih_lstm": {"cell": "lstm", "input": "single", "hidden": "band:5%"},
    "framewise": {"method": "framewise"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Run folders of untrained networks, with tables as `prernn fit` and `prernn test` leave them."""
    root = tmp_path_factory.mktemp("runs")
    for name, kind in KINDS.items():
        net = NetworkSpec("timm/test_resnet", **kind).build(3)
        net.recipe = replace(net.recipe, labels=["a", "b", "c"], transform=SPEC, task=KeptTask("action"))
        checkpoint.save(net, root / name)
        rows = [{"epoch": e, "train_loss": 1 / e, "val_accuracy": e / 5, "lr_new": 0.1} for e in (1, 2, 3)]
        write_table(root / name / "history.csv", rows)
    write_json(root / "pregru" / "metrics.json", {"clip_accuracy": 0.123456, "confusion": [[1]]})
    write_table(root / "pregru" / "ced.csv", [{"error": 0.01 * k, "share": k / 8} for k in range(9)])
    frames = np.random.default_rng(0).integers(0, 255, (6, 40, 48, 3), dtype=np.uint8)
    write_video(root / "clip.mp4", frames, 5)
    return root


def loader(folder, net):
    """Two padded videos."""
    generator = torch.Generator().manual_seed(0)
    yield {"input": torch.randn(2, 4, 3, 32, 32, generator=generator), "lengths": torch.tensor([4, 2])}


@pytest.fixture(scope="module")
def out(root):
    """What `analyze` writes of all of them."""
    return analyze([root / name for name in KINDS], root / "out", batches=loader).parent


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def tree(folder):
    text = (folder / "index.html").read_text()
    return ElementTree.fromstring(text.partition("\n")[2])


def test_the_page_shows_everything_that_applies(out):
    titles = [heading.text for heading in tree(out).iter("h2")]
    assert [title.partition(" at ")[0] for title in titles] == [
        "Training curves",
        "Cumulative error curves",
        "GRU: gate saturation",
        "GRU: gate activations",
        "LSTM: gate saturation",
        "LSTM: gate activations",
        "Recurrent weights of the runs",
        "Recurrent weights: PreGRU",
        "Recurrent weights: PreLSTM",
    ]
    assert len(list(tree(out).iter("img"))) == len(titles)
    for link in tree(out).iter("a"):
        assert (out / link.get("href")).is_file()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_table_of_runs(out):
    table = {row["run"]: row for row in rows(out / "runs.csv")}
    assert list(table) == list(KINDS)
    assert table["pregru"]["network"].startswith("PreGRU at ")
    assert table["pregru"]["to PreRNN full"] == "1"
    assert table["pregru"]["clip_accuracy"] == "0.1235"
    assert table["framewise"]["recurrent weights"] == "0"
    assert table["framewise"]["to PreRNN full"] == table["framewise"]["clip_accuracy"] == ""
    full = int(table["pregru"]["recurrent weights"])
    ratio = int(table["tra <gru>"]["recurrent weights"]) / full  # against the run with the same cell and backbone
    assert float(table["tra <gru>"]["to PreRNN full"]) == pytest.approx(ratio, rel=1e-2)
    assert [cell.text for cell in tree(out).iter("td")][0::7] == list(KINDS)  # six columns and one metric
    assert [note.text for note in tree(out).iter("li")] == ["framewise: no recurrent layer, hence no gates"]


def test_the_gates_tables_are_those_of_the_networks(root, out):
    """Against fractions taken in plain numpy from a recording of the same videos."""
    saturation, histogram = rows(out / "saturation.csv"), rows(out / "histogram.csv")
    assert {row["run"] for row in saturation} == {"pregru", "tra <gru>", "sih_lstm"}
    (batch,) = loader(None, None)
    for name in ("pregru", "tra <gru>", "sih_lstm"):
        net = checkpoint.load(root / name)
        with torch.no_grad(), recording(net) as seen:
            net(batch["input"])
        assert {row["layer"] for row in saturation if row["run"] == name} == {str(k + 1) for k in range(len(seen))}
        for number, gates in enumerate(seen.values(), 1):
            for gate, values in gates.items():
                valid = np.concatenate([values[0].numpy(), values[1, :2].numpy()])  # (6, D)
                place = {"run": name, "layer": str(number), "gate": gate}
                own = [row for row in saturation if place.items() <= row.items()]
                tanh = gate in ("g", "n")
                if tanh:
                    assert own == []
                else:
                    assert [float(row["left"]) for row in own] == pytest.approx((valid < 0.1).mean(0), abs=1e-5)
                    assert [float(row["right"]) for row in own] == pytest.approx((valid > 0.9).mean(0), abs=1e-5)
                bins, _ = np.histogram(valid, np.linspace(-1 if tanh else 0, 1, 11))
                shares = [float(row["share"]) for row in histogram if place.items() <= row.items()]
                # a few float32 values next to an edge may round to its other side
                assert shares == pytest.approx(bins / valid.size, abs=1.5 / valid.size)
                assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_a_picture_shows_one_cell_layers_by_their_order(root, tmp_path, monkeypatch):
    grids = {}

    def keep(name, draw):
        def drawn(grid, *arguments, **options):
            path = draw(grid, *arguments, **options)
            grids[path.name] = {layer: {gate: list(runs) for gate, runs in row.items()} for layer, row in grid.items()}
            return path

        monkeypatch.setattr(runs_page, name, drawn)

    keep("saturation", saturation)
    keep("histograms", histograms)
    analyze([root / name for name in ("tra <gru>", "sih_lstm", "pregru")], tmp_path, batches=loader)
    both, deep = ["tra <gru>", "pregru"], ["tra <gru>"]
    gru = {"layer 1": {"r": both, "z": both}, "layer 2": {"r": deep, "z": deep}}
    assert list(grids["saturation_gru.png"]) == list(grids["histogram_gru.png"]) == ["layer 1", "layer 2"]
    assert grids.pop("saturation_gru.png") == gru
    assert grids.pop("histogram_gru.png") == {
        "layer 1": {**gru["layer 1"], "n": both},
        "layer 2": {**gru["layer 2"], "n": deep},
    }
    assert grids.pop("saturation_lstm.png") == {"layer 1": {gate: ["sih_lstm"] for gate in "ifo"}}
    assert grids.pop("histogram_lstm.png") == {"layer 1": {gate: ["sih_lstm"] for gate in "ifgo"}}
    assert grids == {}


def test_curves_and_errors_are_the_runs_own(root, out):
    training = rows(out / "training.csv")
    assert {row["metric"] for row in training} == {"train_loss", "val_accuracy"}
    assert [row["value"] for row in training if row["run"] == "pregru" and row["metric"] == "val_accuracy"] == [
        "0.2",
        "0.4",
        "0.6",
    ]
    assert {row["run"] for row in rows(out / "errors.csv")} == {"pregru"}
    assert [float(row["share"]) for row in rows(out / "errors.csv")] == [k / 8 for k in range(9)]


def test_bands_are_ratios_to_the_full_network(out):
    bands = rows(out / "bands.csv")
    for network in ("PreGRU", "PreLSTM"):
        own = {(row["network"], row["hidden"]): row for row in bands if row["network"].startswith(network)}
        full = int(own[network, "full"]["weights"])
        assert all(float(row["ratio"]) == pytest.approx(int(row["weights"]) / full, rel=1e-5) for row in own.values())
        for form in (network, f"{network}-SIH"):
            steps = [int(own[form, hidden]["weights"]) for hidden in ("diagonal", "band:5%", "band:10%", "full")]
            assert steps == sorted(set(steps))


def test_a_lone_frame_wise_run_has_a_page_too(root, tmp_path):
    page = analyze([root / "framewise"], tmp_path / "new" / "out", batches=loader)
    assert [heading.text for heading in tree(page.parent).iter("h2")] == ["Training curves"]
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "index.html",
        "runs.csv",
        "training.csv",
        "training.png",
    ]


def test_names_tell_runs_apart(tmp_path):
    for name in ("a/x", "b/x", "c"):
        (tmp_path / name).mkdir(parents=True)
    for path in ("a/x/model.safetensors", "b/x/best.ckpt"):
        (tmp_path / path).touch()
    assert short_names([tmp_path / "a/x", tmp_path / "c"]) == ["x", "c"]
    assert short_names([tmp_path / "a/x", tmp_path / "b/x"]) == ["a/x", "b/x"]
    assert short_names([tmp_path / "a/x/model.safetensors", tmp_path / "b/x/best.ckpt"]) == ["x", "best"]
    names = short_names([tmp_path / "a/x", tmp_path / "a/x/model.safetensors"])
    assert len(set(names)) == 2


def test_mistakes(root, tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        analyze([], tmp_path)
    with pytest.raises(ValueError, match="absent"):
        analyze([root / "pregru", root / "absent"], tmp_path)
    with pytest.raises(ValueError, match="twice"):
        analyze([root / "pregru", root / "out" / ".." / "pregru"], tmp_path)
    with pytest.raises(ValueError, match="limit"):
        analyze([root / "pregru"], tmp_path, limit=0)
    assert list(tmp_path.iterdir()) == []


def test_the_command(root, tmp_path, capsys):
    arguments = ["analyze", str(root / "sih_lstm"), "--videos", str(root / "clip.mp4"), "--limit", "1"]
    assert main([*arguments, "--out", str(tmp_path / "with")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "with" / "index.html")
    assert (tmp_path / "with" / "saturation_lstm.png").is_file()
    assert main([*arguments, "--no-gates", "--out", str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without" / "saturation_lstm.png").exists()


@pytest.fixture
def trained(root, tmp_path):
    """A run folder with a config that names four test videos, as `prernn fit` leaves it."""
    for part in ("train", "test"):
        for label in ("a", "b", "c"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            (tmp_path / "data" / part / label / "clip.mp4").symlink_to(root / "clip.mp4")
    (tmp_path / "data" / "test" / "a" / "again.mp4").symlink_to(root / "clip.mp4")
    options = {"size": 32, "sampling": {"frames": 3, "rule": "random"}}
    task = {"class_path": "prernn.tasks.Action", "init_args": options}
    config = {
        "model": {"recipe": {"backbone": "timm/test_resnet", **KINDS["pregru"]}},
        "data": {"root": str(tmp_path / "data"), "task": task, "num_workers": 0},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").symlink_to(root / "pregru" / "model.safetensors")
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return tmp_path / "run"


@pytest.mark.parametrize(("limit", "videos"), [((), 4), (("--limit", "3"), 3)])
def test_a_runs_own_videos_come_from_its_config(trained, tmp_path, monkeypatch, limit, videos):
    seen, count = [], run.gate_counts

    def watch(net, batches):
        batches = list(batches)
        seen.extend(batch["input"].shape for batch in batches)
        return count(net, batches)

    monkeypatch.setattr(run, "gate_counts", watch)
    assert main(["analyze", str(trained), *limit, "--out", str(tmp_path / "out")]) == 0
    assert seen == [(videos, 3, 3, 32, 32)]
    assert (tmp_path / "out" / "saturation_gru.png").is_file()


def test_a_run_without_its_data_says_so(trained, root, tmp_path, capsys):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert main(["analyze", str(trained), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "config.yaml" in line
    assert str(tmp_path / "data") in line
    assert "--videos" in line
    assert main(["analyze", str(trained), "--out", str(tmp_path / "out"), "--no-gates"]) == 0
    assert main(["analyze", str(root / "pregru"), "--out", str(tmp_path / "noted")]) == 0
    (note,) = tree(tmp_path / "noted").iter("li")
    assert "config.yaml" in note.text


def test_a_network_that_is_no_cnn_has_curves_and_weights_and_a_note_in_place_of_gates(root, tmp_path):
    """Deep Speech: what is not a CNN's graph has no gate inputs to record, but all the rest."""
    cnn = prernn.backbone("spectrogram", features=81, filters=2)
    net = deep_speech(cnn, hidden_size=6, num_layers=2, hidden="diagonal", outputs=5)
    net.recipe = replace(net.recipe, labels=list("-abcd"), task=KeptTask("speech"))
    checkpoint.save(net, tmp_path / "speech")
    write_table(tmp_path / "speech" / "history.csv", [{"epoch": e, "train_loss": 1 / e} for e in (1, 2)])
    page = analyze([tmp_path / "speech", root / "pregru"], tmp_path / "out", batches=loader)
    (note,) = [item.text for item in ElementTree.fromstring(page.read_text()).iter("li")]
    assert "Deep Speech" in note or "DeepSpeech" in note
    speech, _ = csv.DictReader((tmp_path / "out" / "runs.csv").open())
    assert speech["recurrent weights"] == str(recurrent_parameters(net).introduced)
    assert {row["run"] for row in csv.DictReader((tmp_path / "out" / "training.csv").open())} == {"speech", "pregru"}
    assert main(["analyze", "hidden", str(tmp_path / "speech"), "--out", str(tmp_path / "hidden")]) == 0
    rows = list(csv.DictReader((tmp_path / "hidden" / "hidden.csv").open()))
    assert len({row["layer"] for row in rows}) == 4  # two directions of two layers


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "OUT"], "RUN"),
        (["absent", "--out", "OUT"], "absent"),
        (["RUN"], "--out"),
        (["RUN", "--out", "OUT", "--videos", "absent.mp4"], "absent.mp4"),
        (["RUN", "--out", "OUT", "--videos", "RUN"], "expected videos or frames"),
        (["RUN", "--out", "OUT", "--limit", "0"], "limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_mistake_is_one_line(root, tmp_path, capsys, arguments, complaint):
    places = {"RUN": str(root / "pregru"), "OUT": str(tmp_path / "out")}
    assert main(["analyze", *(places.get(word, word) for word in arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: ")
    assert complaint in line
    assert not (tmp_path / "out").exists()
