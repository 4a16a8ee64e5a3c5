"""What CONTRIBUTING.md says of one's own cell, input form, backbone and task: taken where names are, and kept."""

import importlib.metadata
import json
import re
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import prernn
from footage import class_videos
from prernn.commands.main import main
from prernn.layers import names
from prernn.layers.cells import CELLS
from prernn.layers.input_to_hidden import INPUTS
from prernn.media.video import VideoError
from prernn.models.describe import describe
from prernn.models.from_config import NetworkSpec
from prernn.tasks import Action
from prernn.tasks.task import Task

OWN = {
    "own_cell": """
        from dataclasses import dataclass

        import torch


        @dataclass(frozen=True)
        class Leaky:
            gates: tuple = ("h",)
            ranges: tuple = (None,)
            states: tuple = ("h",)
            groups: tuple = ((0, 1),)
            own_gate: int = 0
            kernel: None = None

            def activations(self, u, h, products):
                return (0.5 * h + 0.5 * torch.relu((u + products[0](h)).squeeze(1)),)

            def step(self, u, state, products):
                return self.activations(u, state[0], products)
        """,
    "own_net": """
        from torch import nn


        class Net(nn.Sequential):
            input_spec = {"size": 16}

            def __init__(self, width=4):
                super().__init__(
                    nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                    nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10),
                )


        def not_a_class():
            return Net()
        """,
    "own_task": """
        from dataclasses import dataclass
        from typing import ClassVar

        from prernn.tasks import Action


        @dataclass(eq=False)
        class Loud(Action):
            kept_options: ClassVar[tuple] = (*Action.kept_options, "volume")
            volume: int = 1

            def report(self, results, root):
                return {**super().report(results, root), "volume": self.volume}
        """,
    "own_input": """
        from prernn.layers.input_to_hidden import SingleInput


        class Doubled(SingleInput):
            def __init__(self, layer, tail, cell, pool_first):
                super().__init__(layer, tail, pool_first=pool_first)

            def forward(self, *inputs):
                return 2 * super().forward(*inputs)
        """,
}
QUIET = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of classes, and videos beside them."""
    root = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        (root / f"{name}.py").write_text(textwrap.dedent(text))
    class_videos(root / "videos", ["a", "b"])
    yield root
    names._files.clear()
    for name in OWN:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def run(folder):
    """A run of nothing but classes of one's own, in a folder that is not the working directory later."""
    words = "--backbone own_net.py:Net --model.recipe.cell own_cell.py:Leaky --model.recipe.input own_input.Doubled"
    task = "--data.task own_task.py:Loud --data.task.volume 11 --data.task.sampling.frames 2 --data.root videos"
    rest = "--data.num_workers 0 --trainer.max_epochs 1 --trainer.default_root_dir run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *words.split(), *task.split(), *rest.split(), *QUIET]) == 0
    return folder / "run"


def test_a_checkpoint_remembers_them(run, folder):
    net = prernn.load(run)
    assert net.recipe.backbone == f"{folder}/own_net.py:Net"
    assert net.recipe.task.name == f"{folder}/own_task.py:Loud"
    assert net.recipe.steps[0].arguments["cell"] == f"{folder}/own_cell.py:Leaky"
    assert net.recipe.transform["size"] == 16
    assert type(net.recurrent_layers[0].cell).__name__ == "Leaky"
    assert describe(net.recipe) == "PreLEAKY at 4"


@pytest.mark.parametrize("command", ["test", "predict", "stream", "analyze", "early", "quantize"])
def test_a_run_of_them_serves_every_command_from_anywhere(command, run, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clip, config = str(folder / "videos" / "test" / "a" / "0.mp4"), str(run / "config.yaml")
    words = {
        "test": ["--config", config],
        "predict": ["--config", config],
        "stream": [clip, "--checkpoint", str(run)],
        "quantize": [str(run), "--out", "out", "--limit", "1"],
    }
    assert main([command, *words.get(command, [str(run), "--out", "out"])]) == 0, capsys.readouterr().err
    if command == "test":
        assert json.loads((run / "metrics.json").read_text())["volume"] == 11
    if command == "stream":
        assert len(capsys.readouterr().out.splitlines()) == 7


def test_names_of_classes_are_taken_where_names_are(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(folder)
    for name in ("own_net.Net", "own_net.py:Net", f"{folder}/own_net.py:Net"):
        assert prernn.backbone(name, width=3)[0].out_channels == 3
        assert main(["inspect", name, "--cell", "own_cell.Leaky"]) == 0
    clip, run = str(folder / "videos" / "test" / "a" / "0.mp4"), str(folder / "run")
    assert main(["stream", clip, "--checkpoint", run, "--task", "own_task.Loud"]) == 0
    (tmp_path / "c.yaml").write_text("data: {task: {class_path: own_task.py:Loud, init_args: {volume: 3}}}")
    words = ["--data.root", "videos", "--backbone", "own_net.Net", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "c.yaml"), *words])
    assert "volume: 3" in capsys.readouterr().out


def test_a_line_in_a_registry_and_an_entry_point_are_enough(folder, monkeypatch):
    monkeypatch.chdir(folder)
    cell, form = names.own_class("own_cell.py:Leaky"), names.own_class("own_input.py:Doubled")
    monkeypatch.setitem(CELLS, "leaky", cell)
    monkeypatch.setitem(INPUTS, "doubled", form)
    net = NetworkSpec("own_net.py:Net", cell="leaky", input="doubled").build(2)
    assert isinstance(net.recurrent_layers[0].cell, cell)
    monkeypatch.delitem(CELLS, "leaky")
    points = {("prernn.cell", "leaky"): "own_cell:Leaky", ("prernn.backbone", "tiny"): "own_net:Net"}

    def installed(group, name):
        value = points.get((group, name))
        return [importlib.metadata.EntryPoint(name, value, group)] if value else []

    monkeypatch.setattr(importlib.metadata, "entry_points", installed)
    net = NetworkSpec("tiny", cell="leaky").build(2)
    assert net.recipe.backbone == "tiny"
    again = prernn.load(prernn.save(net, folder / "installed"))
    assert torch.equal(
        again.recurrent_layers[0].hidden_to_hidden.weight, net.recurrent_layers[0].hidden_to_hidden.weight
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("absent.py:Net", "absent.py: expected a Python file, found none"),
        ("own_net.py:Ned", "own_net.py, found none; did you mean Net?"),
        ("own_net.py:not_a_class", "expected a class"),
        ("own_cell.py:Leaky", "expected a backbone, got a class without the method forward"),
        ("subprocess.Popen", "expected a backbone"),
        ("os.system", "expected a class"),
        ("resnet50.nope", "did you mean resnet50"),
        ("json.py:Net", "Python has another module json"),
    ],
)
def test_what_is_no_such_class(name, complaint, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "json.py").write_text("")
    with pytest.raises(ValueError, match=re.escape(complaint)):
        prernn.backbone(name)


def test_a_cell_that_is_none_names_those_that_look_like_it():
    with pytest.raises(ValueError, match=r"vrnn, lstm, gru, .*, got 'gruu'; did you mean gru"):
        NetworkSpec("timm/test_resnet", cell="gruu").build(2)


class Sensor(Task):
    """What somebody writes first: hardly more than a name."""

    name = "sensor"


def test_a_task_whose_records_are_no_videos_is_told_what_it_lacks(tmp_path):
    path = tmp_path / "sensor.npz"
    path.write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"sensor.npz: not a video.*the task must override `probe`"):
        Sensor().probe(SimpleNamespace(path=str(path)))
    with pytest.raises(VideoError, match=r"sensor.npz") as caught:
        Action().probe(SimpleNamespace(path=str(path)))
    assert "probe" not in str(caught.value)


def test_contributing_says_how():
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    assert "file.py:Name" in text
    assert all(f"prernn.{kind}" in text for kind in ("backbone", "cell", "input", "task"))
