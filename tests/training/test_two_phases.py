"""What is behind the frozen trunk learns first: what changes when, at which rates, where by default, and resumed."""

import csv
import json
import os

import lightning as L
import pytest
import torch

import prernn
from prernn.commands.main import main
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.media.sampling import Sampling
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.studies.papers import tables
from prernn.tasks.action.task import Action
from prernn.training.data_module import VideoData
from prernn.training.frozen_trunk import two_phases
from prernn.training.learning import Learning
from prernn.training.learning.phases import FirstPhase
from prernn.training.module import VideoModule
from small_runs import TINY, config, write


def options(videos, root, first, **trainer):
    values = config(videos, root, **trainer)
    values["model"]["learning"] |= {"first": first, "schedule": {"kind": "constant"}}
    return values


@pytest.fixture
def weights(tmp_path):
    torch.save(prernn.backbone(TINY).state_dict(), tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def rows(root):
    with open(root / "history.csv") as lines:
        return list(csv.DictReader(lines))


def test_a_training_in_two_phases(videos, tmp_path, capsys):
    first = {"epochs": 3, "views": 2, "lr": 0.3, "then": 0.2}
    file = write(tmp_path / "run.yaml", options(videos, tmp_path / "run", first))
    assert main(["fit", "--config", file]) == 0
    said = capsys.readouterr().out
    assert "phase 1 of 2: the part behind the frozen trunk, 3 epochs on features of 2 views of each video" in said
    assert "phase 2 of 2: the whole network, 2 epochs, the new part at 0.2 of its rate" in said
    results = json.loads((tmp_path / "run" / "first_phase.json").read_text())
    assert (results["videos"], results["views"], len(results["train_loss"])) == (8, 2, 3)
    assert results["bytes"] > 0
    assert [float(row["lr_new"]) for row in rows(tmp_path / "run")] == pytest.approx(2 * [0.05 * 0.2])
    assert [float(row["lr_pretrained"]) for row in rows(tmp_path / "run")] == pytest.approx(2 * [0.01])


def started(videos, tmp_path, first, *, spec=None, **learning):
    """A module and its trainer at the begin of a training, the first phase behind it."""
    values = config(videos, tmp_path)
    options = values["data"]["task"]["init_args"]
    task = Action(size=options["size"], sampling=Sampling(4, "random"))
    data = VideoData(str(videos), task, TINY, batch_size=4, num_workers=0, holdout=0)
    torch.manual_seed(1)
    module = VideoModule(spec or NetworkSpec(TINY, input="single"), Learning(first=first, **learning), data.task)
    trainer = L.Trainer(
        max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        default_root_dir=tmp_path, enable_model_summary=False,
    )  # fmt: skip
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    modes = [part.training for part in module.modules()]
    trainer.fit(module, data)
    assert [part.training for part in module.modules()] == modes
    return module, before


def test_only_what_is_behind_the_trunk_changes(videos, tmp_path):
    module, before = started(videos, tmp_path, FirstPhase(2))
    after = module.network.state_dict()
    names = dict(module.network.named_parameters())
    _, rest = split(module.network, inputs_of(module.network))
    behind = {id(parameter) for parameter in rest.parameters()}
    for name, parameter in names.items():
        same = torch.equal(before[name], after[name])
        assert same != (id(parameter) in behind), name
    statistics = [name for name in after if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not [name for name in after if "measured" in name and not after[name]]  # calibrated before it


def test_what_a_rate_of_zero_freezes_stays_frozen(videos, tmp_path):
    module, before = started(videos, tmp_path, FirstPhase(2), pretrained_lr=0.0)
    new = {id(parameter) for parameter in module.network.new_parameters()}
    for name, parameter in module.network.named_parameters():
        assert torch.equal(before[name], parameter) != (id(parameter) in new), name


@pytest.mark.parametrize("method", ["framewise", "traditional"])
def test_other_networks_have_a_first_phase_too(videos, tmp_path, method):
    module, before = started(videos, tmp_path, FirstPhase(1), spec=NetworkSpec(TINY, method=method))
    changed = [name for name, p in module.network.named_parameters() if not torch.equal(before[name], p)]
    assert changed
    assert not [name for name in changed if "conv1" in name]


def test_a_resumed_run_has_no_second_first_phase(videos, tmp_path, capsys, monkeypatch):
    files = {}
    for name, epochs in (("whole", 3), ("part", 1)):
        values = options(videos, tmp_path / name, {"epochs": 2, "views": 1}, max_epochs=epochs)
        values["data"]["task"]["init_args"]["sampling"]["rule"] = "uniform"
        files[name] = values
        assert main(["fit", "--config", write(tmp_path / f"{name}.yaml", values)]) == 0
    capsys.readouterr()
    files["part"]["trainer"]["max_epochs"] = 3
    assert main(["fit", "--config", write(tmp_path / "part.yaml", files["part"]), "--ckpt_path", "last"]) == 0
    assert "phase 1" not in capsys.readouterr().out
    nets = [checkpoint.load(tmp_path / name).state_dict() for name in ("whole", "part")]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    drop = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows(tmp_path / "part")]
    assert drop == [
        {key: value for key, value in row.items() if "seconds" not in key} for row in rows(tmp_path / "whole")
    ]


@pytest.mark.parametrize(
    ("recipe", "learning", "expected"),
    [
        ({"weights": "file"}, {}, True),
        ({}, {}, False),  # from nothing: all of it is new
        ({"weights": "file"}, {"first": {"epochs": 0}}, False),
        ({"weights": "file", "method": "rcn"}, {}, False),
    ],
)
def test_where_it_is_the_default(videos, tmp_path, weights, recipe, learning, expected):
    values = config(videos, tmp_path / "run", max_epochs=1)
    if recipe.get("method") == "rcn":
        values["model"]["recipe"] = {"backbone": TINY}
    values["model"]["recipe"] |= {key: weights if value == "file" else value for key, value in recipe.items()}
    values["model"]["learning"] |= learning
    assert main(["fit", "--config", write(tmp_path / "run.yaml", values)]) == 0
    assert (tmp_path / "run" / "first_phase.json").exists() == expected


def test_features_that_do_not_fit(videos, tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(two_phases, "MEMORY", 10)
    values = options(videos, tmp_path / "run", {}, max_epochs=1)
    values["model"]["recipe"]["weights"] = weights
    assert main(["fit", "--config", write(tmp_path / "run.yaml", values)]) == 0
    assert not (tmp_path / "run" / "first_phase.json").exists()
    (tmp_path / "run" / "first_phase.json").write_text("of a run before")
    os.utime(tmp_path / "run" / "first_phase.json", (0, 0))
    assert main(["fit", "--config", write(tmp_path / "run.yaml", values)]) == 0
    assert not (tmp_path / "run" / "first_phase.json").exists()
    values["model"]["learning"]["first"] = {"epochs": 1}
    assert main(["fit", "--config", write(tmp_path / "run.yaml", values)]) == 2
    assert "learning.first: expected features of at most" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"views": 0}, {"lr": 0.0}, {"then": 0.0}, {"then": 2.0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"learning first {next(iter(wrong))}: expected"):
        FirstPhase(**wrong)


def test_the_papers_networks_have_none():
    for cells in tables.TABLES.values():
        assert all(cell.config()["model"]["learning"]["first"] == {"epochs": 0} for cell in cells)
