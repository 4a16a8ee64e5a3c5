"""``prernn paper``: the papers' tables listed, shown and trained, and what a mistyped name is told."""

import csv
import json
import math

import pytest
import yaml

import prernn
from footage import class_videos
from prernn.commands.main import main
from prernn.studies.papers.tables import CELLS, TABLES

RCN = "rcn/rcn18-imagenet-identity-8"
SMALL = {
    "model.recipe.backbone": "timm/test_resnet",
    "model.recipe.pretrained": "false",
    "data.task.sampling.frames": "4",
    "data.task.size": "32",
    "data.task.resize": "32",
    "data.task.views": "2",
    "data.batch_size": "2",
    "data.num_workers": "0",
    "trainer.max_epochs": "1",
    "trainer.accelerator": "cpu",
    "trainer.logger": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}


def test_list_names_every_cell_and_its_figure(capsys):
    assert main(["paper", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(CELLS) < set(lines)
    for name, cell in CELLS.items():
        assert all(figure in lines[name] for figure in cell.published.values())


def test_list_of_one_table(capsys):
    assert main(["paper", "list", "supplement2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [cell.name for cell in TABLES["supplement2"]]


def test_show_prints_a_configuration(capsys):
    for name, cell in CELLS.items():
        assert main(["paper", "show", name]) == 0
        text = capsys.readouterr().out
        assert yaml.safe_load(text) == cell.config()
        assert f"prernn paper fit {name} --data.root DATA" in text
        assert cell.config()["trainer"]["default_root_dir"] == f"runs/paper/{name}"
    assert "# Published: no figure." in text
    assert main(["paper", "show", "table2/pregru-fc6"]) == 0
    assert "# Published: AUC 0.772." in capsys.readouterr().out


def whole_config(capsys, *words):
    with pytest.raises(SystemExit):
        main([*words, "--print_config", "--data.root", "anywhere"])
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["table2/prelstm-sih-fc67", "table5/pregru-flow"])
def test_fit_trains_what_is_shown(name, tmp_path, capsys):
    main(["paper", "show", name])
    (tmp_path / "cell.yaml").write_text(capsys.readouterr().out)
    shown = whole_config(capsys, "fit", "--config", str(tmp_path / "cell.yaml"))
    assert whole_config(capsys, "paper", "fit", name) == shown
    assert shown["model"]["recipe"]["layer"] == CELLS[name].recipe["layer"]


def test_fit_trains_a_cell_and_keeps_the_whole_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    class_videos(tmp_path / "data", ["left", "right"])
    changes = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    assert main(["paper", "fit", RCN, "--data.root", "data", *changes]) == 0
    run = tmp_path / "runs" / "paper" / RCN
    kept = yaml.safe_load((run / "config.yaml").read_text())
    recipe, learning = kept["model"]["recipe"], kept["model"]["learning"]
    assert (recipe["method"], recipe["rcn"]) == ("rcn", {"init": "identity"})
    assert (recipe["backbone"], recipe["pretrained"]) == ("timm/test_resnet", False)  # options win
    assert learning["schedule"] == {
        "kind": "step",
        "every": 10,
        "start": 0,
        "factor": 0.1,
        "stop_at": 0.0,
        "warm_up": None,
    }
    assert (kept["data"]["root"], kept["data"]["batch_size"]) == (str(tmp_path / "data"), 2)
    assert kept["data"]["task"]["init_args"]["shear"] == 5.0
    assert kept["trainer"]["default_root_dir"] == str(run)
    assert "config" not in kept
    net = prernn.load(run)
    assert net.recipe.steps[0].name == "rcn"
    capsys.readouterr()
    assert main(["test", "--config", str(run / "config.yaml")]) == 0  # as docs/guides/training/configurations.md says
    assert "accuracy" in capsys.readouterr().out
    assert math.isfinite(yaml.safe_load((run / "metrics.json").read_text())["clip_accuracy"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["show", "table4/pregru-fc8"], "table4/pregru-fc6"),
        (["fit", "table5/pregu-flow", "--data.root", "x"], "table5/pregru-flow"),
        (["show", "table4"], "prernn paper list table4"),
        (["list", "table3"], "table2"),
        (["show"], "name"),
        (["fit", RCN, "--data.rot", "x"], "--data.root"),
        (["fit", RCN, "--data.root", "nowhere"], "nowhere"),
        (["fit", RCN, "--data.root", ".", "--model.recipe.cell", "elman"], "elman"),
        (["train", RCN], "train"),
        ([], "list | show | fit | average"),
        (["average", "a"], "at least two runs"),
        (["average", "a", "a"], "each of them once"),
        (["average", "a", "b"], "a: expected metrics.json, found none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(words, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "." in words:
        class_videos(tmp_path, ["left", "right"])
    assert main(["paper", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prernn: error: ")
    assert complaint in line


def test_splits_are_averaged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, accuracy in enumerate((0.9, 0.8, 0.7), 1):
        (tmp_path / f"split{number}").mkdir()
        values = {"clip_accuracy": accuracy, "confusion": [[1]], "threshold": 0.08, f"only_{number}": 1.0}
        (tmp_path / f"split{number}" / "metrics.json").write_text(json.dumps(values))
    runs = ["split1", "split2", "split3"]
    assert main(["paper", "average", *runs, "--out", "mean.csv"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["metric", "mean", "spread", *runs], ["clip_accuracy", "0.8", "0.1", "0.9", "0.8", "0.7"]]
    with open("mean.csv") as rows:
        (row,) = csv.DictReader(rows)
    assert float(row["mean"]) == pytest.approx(0.8)


def test_help_after_a_name_is_that_of_fit(capsys):
    assert main(["paper", "fit", RCN, "--help"]) == 0
    assert "--data.task.sampling.frames" in capsys.readouterr().out
