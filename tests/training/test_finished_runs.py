"""A finished run stands alone: what it started from may be gone, and the working directory another one."""

import json
import shutil

import pytest
import yaml

from footage import class_videos
from prernn.commands.main import main
from prernn.training.run.saved_outputs import Outputs

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(name, recipe, options):
    """Trains into ``runs/<name>``, every path relative to the working directory."""
    options = {"size": 32, "sampling": {"frames": 2}, **options}
    values = {
        "model": {"recipe": {"backbone": "timm/test_resnet", **recipe}},
        "data": {
            "root": "videos",
            "task": {"class_path": "prernn.tasks.Action", "init_args": options},
            "num_workers": 0,
        },
        "trainer": {**QUIET, "max_epochs": 1, "default_root_dir": f"runs/{name}"},
    }
    with open(f"{name}.yaml", "w") as file:
        yaml.safe_dump(values, file)
    assert main(["fit", "--config", f"{name}.yaml"]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a flow run, made in another working directory from a color run that is gone since."""
    root = tmp_path_factory.mktemp("before")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        class_videos(root / "videos", ["a", "b"])
        assert main(["flow", "videos", "--cache", "flow", "--processes", "1", "--short-side", "16"]) == 0
        fit("start", {"method": "framewise"}, {})
        flow = {"stream": "flow", "flow_cache": "flow", "stack": 2, "flow": {"short_side": 16}}
        fit("run", {"weights": "runs/start", "channels": 4, "hidden": "diagonal"}, flow)
        (root / "runs" / "start").rename(root / "elsewhere")
    return root / "runs"


COMMANDS = {
    "test": ["test", "--config", "{run}/config.yaml"],
    "validate": ["validate", "--config", "{run}/config.yaml"],
    "predict": ["predict", "--config", "{run}/config.yaml"],
    "analyze": ["analyze", "{run}", "--out", "out"],
    "early": ["early", "{run}", "--out", "out", "--limit", "2"],
    "stream": ["stream", "{run}/../../videos/test/a/0.mp4", "--checkpoint", "{run}"],
    "quantize": ["quantize", "{run}", "--out", "out", "--limit", "2"],
    "resume": ["fit", "--config", "{run}/config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "2"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_finished_run_needs_nothing_of_its_past(command, runs, tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.chdir(tmp_path)
    words = [word.format(run=runs / "run") for word in COMMANDS[command]]
    assert main(words) == 0, capsys.readouterr().err
    assert not [w for w in recwarn if "flow" in str(w.message)]
    assert command in ("analyze", "early", "quantize") or not list(tmp_path.iterdir())


def test_its_configuration_has_whole_paths(runs):
    values = yaml.safe_load((runs / "run" / "config.yaml").read_text())
    assert values["data"]["root"] == str(runs.parent / "videos")
    assert values["data"]["task"]["init_args"]["flow_cache"] == str(runs.parent / "flow")
    assert values["model"]["recipe"]["weights"] == str(runs / "start")
    assert values["trainer"]["default_root_dir"] == str(runs / "run")
    assert values["ckpt_path"] is None  # a new training by it begins anew


def test_runs_that_were_tested_from_other_places_are_fused(runs, tmp_path, monkeypatch):
    file = str(runs / "run" / "config.yaml")
    monkeypatch.chdir(runs.parent)
    assert main(["test", "--config", file, "--data.root", "videos", "--trainer.default_root_dir", "runs/run"]) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "outputs.safetensors").write_bytes((runs / "run" / "outputs.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--config", file]) == 0
    assert main(["fuse", str(runs / "run"), "other", "--out", "both"]) == 0
    assert len(Outputs.load("both")[0].items) == 4
    assert json.loads((tmp_path / "both" / "metrics.json").read_text())["labels"] == ["a", "b"]


def test_a_run_that_was_moved_is_found_by_its_configuration(runs, tmp_path, capsys):
    shutil.copytree(runs / "run", tmp_path / "moved")
    (runs / "run").rename(runs / "away")
    try:
        assert main(["test", "--config", str(tmp_path / "moved" / "config.yaml")]) == 0
    finally:
        (runs / "away").rename(runs / "run")
    assert f"weights: {tmp_path}/moved/checkpoints/last.ckpt" in capsys.readouterr().out
    assert (tmp_path / "moved" / "metrics.json").is_file()
