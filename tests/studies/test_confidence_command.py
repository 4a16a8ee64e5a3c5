"""``prernn confidence``: fitted on what was held out, written into the run, and kept by its streams."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

import prernn
from prernn.commands.main import main
from prernn.media.encoding import write_video
from prernn.models.checkpoint import rewrite_recipe
from prernn.streaming.events import ended
from prernn.streaming.prediction import predictions
from prernn.studies.confidence import _best_threshold
from prernn.tasks import restore
from small_runs import config, render_parts, write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small run that held videos out, and two videos of other things."""
    root = tmp_path_factory.mktemp("confidence")
    render_parts(root / "videos", {"train": 6, "test": 2})
    values = config(root / "videos", root / "run")
    values["data"]["holdout"] = 0.3
    values["model"]["learning"]["continuity"] = {"clips": 1, "carry": False, "onset": 0.0}
    values["data"]["task"]["init_args"] |= {"events": {"high": 0.6, "low": 0.3, "least": 0.0}}
    assert main(["fit", "--config", write(root / "config.yaml", values)]) == 0
    chance = np.random.default_rng(0)
    for name in ("snow", "more"):
        (root / name).mkdir()
        snow = chance.integers(0, 256, (90, 1, 1, 1)) + chance.integers(0, 20, (90, 32, 32, 3))
        write_video(root / name / "snow.mp4", snow.clip(0, 255).astype(np.uint8), 6)
    return root


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(made / "run", tmp_path / "run")


def options_in(run):
    """What the run's checkpoints and configuration say, in turn."""
    names = ("temperature", "unknown_below", "events")
    kept = [prernn.load(path).recipe.task.options for path in (run, run / "checkpoints" / "last.ckpt")]
    said = yaml.safe_load((run / "config.yaml").read_text())["data"]["task"]["init_args"]
    return [{name: values[name] for name in names} for values in (*kept, said)]


def test_it_is_written_into_checkpoints_and_configuration_and_keeps_to_its_rate(made, run, capsys):
    before = prernn.load(run).state_dict()
    words = ["--others", str(made / "snow"), "--check", str(made / "more"), "--false-alarms", "250"]
    assert main(["confidence", str(run), *words, "--unknown", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "fitted on 16 answers of 4 of 12 training videos, held out" in " ".join(said.split())  # 4 frames each
    first, second, third = options_in(run)
    assert first == second == third
    found = json.loads((run / "confidence.json").read_text())
    assert found["options"] == first
    assert found["hours_others"] == pytest.approx(15 / 3600)
    assert found["after"]["false_events_an_hour_others"] <= 250
    assert found["after"]["cross_entropy"] <= found["before"]["cross_entropy"] + 1e-4
    assert found["after"]["unknown"] > 0
    for name in ("reliability.png", "false_events.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    after = prernn.load(run).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    capsys.readouterr()
    assert main(["stream", str(made / "snow" / "snow.mp4"), "--checkpoint", str(run)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    below = [float(row["probability"]) < first["unknown_below"] for row in rows]
    assert [row["label"] == "unknown" for row in rows] == below
    assert main(["test", str(run)]) == 0  # the run goes on to be one


def test_events_found_afterwards_are_those_of_a_stream(made, run):
    net = prernn.load(run)
    for options in ({}, {"temperature": 2.0, "events": {"high": 0.55, "low": 0.3, "least": 0.3}}):
        net.recipe.task.options.update(options)
        task, watcher = restore(net.recipe), restore(net.recipe).watcher(net, events=True)
        seen = list(predictions(prernn.Stream(net), made / "snow" / "snow.mp4"))
        frames = torch.stack([torch.from_numpy(f) for f in read(made / "snow" / "snow.mp4")])
        given = [row for i, frame in enumerate(frames) for row in watcher.see(i, seen[i].time, frame.numpy())]
        streamed = ended([row for row in [*given, *watcher.finish()] if hasattr(row, "end")])
        found = task.events_in([one.time for one in seen], torch.stack([one.probabilities for one in seen]))
        assert found == streamed


def read(path):
    from prernn.media.video import read_frames

    return [frame for _, frame in read_frames(path)]


def test_without_other_videos_the_threshold_stays_and_a_dry_run_changes_nothing(run):
    files = [run / "model.safetensors", run / "checkpoints" / "last.ckpt", run / "config.yaml"]
    bytes_before = [file.read_bytes() for file in files]
    assert main(["confidence", str(run), "--dry-run"]) == 0
    assert [file.read_bytes() for file in files] == bytes_before
    assert main(["confidence", str(run), "--unknown", "0"]) == 0
    first, second, third = options_in(run)
    assert first == second == third
    assert (first["events"]["high"], first["unknown_below"]) == (0.6, 0.0)
    assert not (run / "false_events.png").exists()


def test_mistakes_are_one_line(made, run, tmp_path, capsys):
    def complaint(*words):
        capsys.readouterr()
        assert main(["confidence", *map(str, words)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "no such file or folder" in complaint(run, "--others", tmp_path / "nothing.mp4")
    assert "false alarms: expected" in complaint(run, "--false-alarms", -1)
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["data"]["holdout"] = 0
    write(run / "config.yaml", values)
    assert "validated on its test videos" in complaint(run)
    recipe = prernn.load(run).recipe
    recipe.task = type(recipe.task)("face", {})
    rewrite_recipe(run / "model.safetensors", recipe)
    assert "task 'face': expected one that gives probabilities of classes" in complaint(run)


def test_a_rewritten_recipe_leaves_all_else_as_it_is(run):
    from safetensors import safe_open

    path = run / "model.safetensors"
    recipe = prernn.load(run).recipe
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    recipe.reset = "cut"
    rewrite_recipe(path, recipe)
    with safe_open(path, "pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensors[name]) for name in tensors)
    assert prernn.load(run).recipe == recipe
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    rewrite_recipe(last, recipe)
    again = torch.load(last, weights_only=True)
    assert content.keys() == again.keys()
    assert again["prernn_recipe"] == recipe.to_json()
    with pytest.raises(ValueError, match="Lightning checkpoint"):
        rewrite_recipe((run / "config.yaml").rename(run / "odd.ckpt"), recipe)


class Scored:
    """A task whose event F1 is that of a table."""

    def __init__(self, value):
        self.value = value

    def metrics(self):
        return self

    def update(self, out, batch):
        pass

    def compute(self):
        return {} if self.value is None else {"event_f1_50": torch.tensor(self.value)}


def test_the_threshold_is_the_best_for_held_out_videos_among_those_that_keep_to_the_rate():
    def at(high):
        return Scored(0.9 if high < 0.3 else 0.8 if 0.45 < high < 0.72 else 0.1)

    assert _best_threshold(at, 0.5, 0.0, []) == 0.25
    assert _best_threshold(at, 0.5, 0.3131, []) == 0.7
    assert _best_threshold(at, 0.5, 0.98, []) == 0.98
    for present, least in ((0.5, 0.3), (0.3, 0.5)):
        assert _best_threshold(lambda high: Scored(None), present, least, []) == 0.5
