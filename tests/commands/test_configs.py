"""Every file in configs/: it parses, its network can be built, and the papers' are what configs/paper.py writes."""

import importlib.util
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from prernn.conversion.accounting import matched_hidden_size
from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.network import open_network
from prernn.models import backbones, recipe
from prernn.models.network_spec import NetworkSpec
from prernn.training.data_module import VideoData
from prernn.training.lightning_cli import OneLineParser
from prernn.training.module import VideoModule

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name != "player.yaml")
CLIPS = ("r3d_18", "r2plus1d_18", "mc3_18", "c3d")
UNITS = {"resnet18": 17, "resnet34": 33, "efficientnet_lite0": 17}
"""Convolutions with a kernel larger than 1."""
OUTPUTS = {"Action": 101, "Gesture": 26, "Face": 136}

spec = importlib.util.spec_from_file_location("paper", CONFIGS / "paper.py")
paper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(paper)


@cache
def parser():
    parser = OneLineParser()
    for kind, name in ((VideoModule, "model"), (VideoData, "data"), (L.Trainer, "trainer")):
        parser.add_lightning_class_args(kind, name)
    parser.add_argument("--seed_everything", type=int)
    return parser


def parsed(path):
    values = yaml.safe_load(path.read_text())
    values["data"].setdefault("root", "somewhere")
    return parser().parse_object(values)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_it_parses(path):
    assert parsed(path).data.task.class_path.startswith("prernn.tasks.")


def recipes():
    """The different networks of all files: the two streams, for instance, share most of theirs."""
    found = {}
    for path in FILES:
        values = yaml.safe_load(path.read_text())
        task = values["data"]["task"]["class_path"].rpartition(".")[2]
        found[json.dumps([values["model"]["recipe"], task], sort_keys=True)] = str(path.relative_to(CONFIGS))
    return {name: json.loads(key) for key, name in found.items()}


@cache
def traced(name, options):
    """A backbone of shapes alone, traced: none is downloaded, VGG16 takes no memory, and each is traced once."""
    return open_network(backbones.backbone(name, **{**json.loads(options), "device": "meta"}))


@pytest.fixture
def on_meta(monkeypatch):
    def meta(name, *, pretrained=False, weights=None, **options):
        if name == "resnet18":  # which is inflated too, and so has to be a plain module
            return backbones.backbone(name, **{**options, "device": "meta"})
        return traced(name, json.dumps(options))

    monkeypatch.setattr(recipe, "backbone", meta)


@pytest.mark.parametrize("name", recipes())
def test_its_network_can_be_built(name, on_meta):
    values, task = recipes()[name]
    net = NetworkSpec(**values).build(OUTPUTS[task])
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
    if values["method"] == "traditional":
        return values.get("num_layers", 1)
    layer = values.get("layer")
    return (1 if layer is None or isinstance(layer, str) else len(layer)) + values.get("layers_on_top", 0)


def test_the_papers_files_are_the_ones_that_the_script_writes():
    names = {
        str(path.relative_to(CONFIGS / "paper")).removesuffix(".yaml") for path in (CONFIGS / "paper").rglob("*.yaml")
    }
    assert names == set(paper.tables())
    for name in names:
        assert (CONFIGS / "paper" / f"{name}.yaml").read_text() == paper.text(name)


def test_every_cell_of_the_tables_is_there():
    count = {}
    for name in paper.tables():
        count[name.partition("/")[0]] = count.get(name.partition("/")[0], 0) + 1
    # RCN: four initialisations, two structures, ResNet-34, I3D and three 3-D networks, with clips of 8 and 16 frames
    # Tables 2 and 4: 3 cells x (2 + 3) and 2 x 3; Table 5: 8 networks and 2 streams; the talk: 5 networks, 4 structures
    wanted = {"table2": 21, "table4": 21, "table5": 16, "supplement1": 15, "supplement2": 3, "supplement3": 10}
    assert count == {**wanted, "bandrnn": 40, "table6": 1, "table7": 2, "rcn": 22}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_traditional_networks_match_prernn(cell):
    vgg16 = backbones.backbone("vgg16", device="meta")
    assert matched_hidden_size(vgg16, "classifier.0", cell=cell, outputs=136) == paper.FACE_RNN[cell][1]
    resnet50 = backbones.backbone("resnet50", device="meta")
    assert matched_hidden_size(resnet50, "layer4.2.conv3", cell=cell, outputs=101) == paper.ACTION_RNN[cell]
    c3d = backbones.backbone("c3d", device="meta", frames=8)
    assert matched_hidden_size(c3d, "fc6", cell=cell, outputs=26) == paper.GESTURE_RNN[cell][1]


def test_a_built_network_runs():
    values, _ = recipes()["gesture.yaml"]
    net = replace(NetworkSpec(**values), weights=None).build(5).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 2, 3, 8, 48, 48))[0].shape == (1, 2, 5)
