"""What can be trained as it stands: the files in configs/ and the cells of the papers' tables. All of them parse, and
their networks can be built.
"""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from prernn.commands.arguments.fit_options import check_options
from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.network import open_network
from prernn.models import backbones, from_config
from prernn.models.from_config import NetworkSpec
from prernn.reports.files import configuration
from prernn.studies.papers.tables import CELLS
from prernn.training.data_module import VideoData
from prernn.training.lightning_cli import OneLineParser
from prernn.training.module import VideoModule

FOLDER = Path(__file__).parents[2] / "configs"
FILES = {path.name: path for path in sorted(FOLDER.glob("*.yaml"))}
COMMANDS = "player.yaml"
"""A table of commands, which is no configuration."""
CONFIGS = {
    **{name: yaml.safe_load(path.read_text()) for name, path in FILES.items() if name != COMMANDS},
    **{name: cell.config() for name, cell in CELLS.items()},
}
CLIPS = ("r3d_18", "r2plus1d_18", "mc3_18", "c3d")
UNITS = {"resnet18": 17, "resnet34": 33, "efficientnet_lite0": 17}
"""Convolutions with a kernel larger than 1."""
OUTPUTS = {"Action": 101, "Gesture": 26, "Face": 136, "Segments": 21, "Language": 100, "Phonemes": 39, "Speech": 29}
OF_DATA = {"Language": {"words": 100}, "Phonemes": {"features": 39}, "Speech": {"features": 161}}
"""Options of the backbone that the data say."""


def readme():
    return (FOLDER / "README.md").read_text()


def test_the_readme_names_every_file():
    assert set(re.findall(r"\[([\w-]+\.yaml)\]\(\1\)", readme())) == set(FILES)
    assert set(re.findall(r"configs/([\w.-]+)", readme())) <= set(FILES)
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "README.md"}  # nothing that is generated


def test_the_options_that_the_readme_shows_exist():
    options = set(re.findall(r"--[a-z]\w*(?:\.\w+)+", readme()))
    assert len(options) > 3
    check_options("fit", sorted(options))


def test_a_file_writes_into_a_run_of_its_own_name():
    roots = {name: CONFIGS[name]["trainer"]["default_root_dir"] for name in FILES if name != COMMANDS}
    assert roots == {name: f"runs/{name.removesuffix('.yaml')}" for name in roots}


@cache
def parser():
    parser = OneLineParser()
    for kind, name in ((VideoModule, "model"), (VideoData, "data"), (L.Trainer, "trainer")):
        parser.add_lightning_class_args(kind, name)
    parser.add_argument("--seed_everything", type=int)
    return parser


def kinds(values, any_text=False):
    """The options of a configuration with the types of their values; words stand where an option may list its own."""
    if isinstance(values, dict):
        free = ("recipe", "default_root_dir")
        return {key: kinds(value, any_text or key in free) for key, value in values.items()}
    if isinstance(values, list):
        return [kinds(value, any_text) for value in values]
    return values if isinstance(values, str) and not any_text else type(values).__name__


FORMS = list({json.dumps(kinds(values), sort_keys=True): name for name, values in CONFIGS.items()}.values())
"""One configuration of each form: the cells of a table differ in names and numbers."""


@pytest.mark.parametrize("name", dict.fromkeys([*(name for name in FILES if name != COMMANDS), *FORMS]))
def test_it_parses(name):
    values = {**CONFIGS[name], "data": {"root": "somewhere", **CONFIGS[name]["data"]}}
    assert parser().parse_object(values).data.task.class_path.startswith("prernn.tasks.")


def recipes():
    """The different networks of all configurations: the two streams, for instance, share most of theirs."""
    found = {}
    for name, values in CONFIGS.items():
        task = values["data"]["task"]["class_path"].rpartition(".")[2]
        found.setdefault(json.dumps([values["model"]["recipe"], task], sort_keys=True), name)
    return {name: json.loads(key) for key, name in found.items()}


RECIPES = recipes()


@cache
def traced(name, options):
    """A backbone of shapes alone, traced: none is downloaded, VGG16 takes no memory, and each is traced once."""
    return open_network(backbones.backbone(name, **{**json.loads(options), "device": "meta"}))


@pytest.fixture
def on_meta(monkeypatch):
    def meta(name, *, pretrained=False, weights=None, **options):
        if name in ("resnet18", "spectrogram"):  # inflated too, or no graph: a plain module
            return backbones.backbone(name, **{**options, "device": "meta"})
        return traced(name, json.dumps(options))

    monkeypatch.setattr(from_config, "backbone", meta)


@pytest.mark.parametrize("name", RECIPES)
def test_its_network_can_be_built(name, on_meta):
    values, task = RECIPES[name]
    options = {**values.get("backbone_options", {}), **OF_DATA.get(task, {})}
    net = NetworkSpec(**{**values, "backbone_options": options}).network(OUTPUTS[task])
    assert len(net.recurrent_layers) == expected_layers(values)
    assert all(str(layer.hidden_to_hidden.structure) == values.get("hidden", "full") for layer in net.recurrent_layers)
    clips = values.get("inflate") is not None or values["backbone"] in CLIPS
    assert is_clip_network(net) == (clips and values["method"] == "framewise")
    assert next(iter(net.cnn.parameters())).is_meta


def expected_layers(values):
    if values["method"] == "rcn":
        return UNITS[values["backbone"]]
    if values["method"] == "framewise":
        return 0
    if values["method"] == "deep_speech":
        return 2 * values["num_layers"]
    if values["method"] == "traditional":
        return values.get("num_layers", 1)
    layer = values.get("layer")
    return (1 if layer is None or isinstance(layer, str) else len(layer)) + values.get("layers_on_top", 0)


def test_a_built_network_runs():
    values, _ = RECIPES["gesture.yaml"]
    net = replace(NetworkSpec(**values), weights=None).build(5).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 2, 3, 8, 48, 48))[0].shape == (1, 2, 5)


@pytest.mark.parametrize("name", ["folders.yaml", "configs/folders.yaml"])
def test_it_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration(name).read_text() == FILES["folders.yaml"].read_text()
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("seed_everything: 3")
    assert configuration(name) == Path(name)  # the user's own wins
    for absent in ("absent.yaml", "mine/folders.yaml"):
        assert configuration(absent) == Path(absent)
