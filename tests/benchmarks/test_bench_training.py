"""The benchmark of training: every way is there, with its memory; never how fast."""

import csv

import pytest

from prernn.benchmarks import training
from prernn.commands.main import main

SMALL = ["--backbone", "timm/test_resnet", "--clips", "2", "--frames", "3", "--size", "32", "--rounds", "1"]


@pytest.mark.parametrize("contestant", training.CONTESTANTS, ids=lambda each: each.name)
def test_a_step_trains_what_it_should(contestant, monkeypatch):
    monkeypatch.setattr(training, "keep_memory", lambda: None)  # of this process, which other tests share
    made = []
    build = training._module
    monkeypatch.setattr(training, "_module", lambda *given: made.append(build(*given)) or made[-1])
    from prernn.benchmarks.options import OPTIONS
    from prernn.commands.arguments.command import Parser

    OPTIONS["training"](parser := Parser())
    result = training._train(contestant, 1, parser.parse_args([*SMALL, "--steps", "2"]))
    assert len(result.seconds) == 2
    (module,) = made
    changed = {name for name, p in module.network.named_parameters() if p.grad is not None}
    assert ("cnn.conv1.0.weight" in changed) == (contestant.pretrained_lr > 0)
    assert any("hidden_to_hidden" in name for name in changed)
    assert bool(module.network._foldable) == contestant.fold


@pytest.mark.slow
def test_the_table(tmp_path, capsys):
    options = [*SMALL, "--steps", "1", "--threads", "1", "--also", "mc3_18", "--out", str(tmp_path)]
    assert main(["bench", "training", *options]) == 0
    with (tmp_path / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == [
        *(each.name for each in training.usable(training.CONTESTANTS)),
        "mc3_18",
    ]
    assert rows[0]["of plain"] == rows[0]["memory of plain"] == "1.00"
    assert all(float(row["seconds"]) > 0 and float(row["memory, GB"]) >= 0 for row in rows)
    assert "mc3_18" in (tmp_path / "training.md").read_text()


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--clips", "0"]], ids=str)
def test_mistakes_are_one_line(wrong, tmp_path, capsys):
    assert main(["bench", "training", *SMALL, *wrong, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")
