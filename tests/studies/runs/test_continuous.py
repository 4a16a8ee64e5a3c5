"""``prernn test RUN --continuous``: figures with resets are those of the test; a table, files and pictures are left."""

import csv
import json
import shutil

import pytest
import torch

import prernn
from prernn.commands.main import main
from prernn.studies.runs import continuous
from small_runs import config, render_parts, write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run that was tested."""
    root = tmp_path_factory.mktemp("continuous")
    render_parts(root / "videos", {"train": 4, "test": 3})
    values = config(root / "videos", root / "run")
    values["data"]["task"]["init_args"]["sampling"] = {"frames": 4, "rule": "consecutive"}  # which has a rate
    values["model"]["recipe"] |= {"keep_activation": True, "calibrate": True}
    file = write(root / "config.yaml", values)
    assert main(["fit", "--config", file]) == 0
    assert main(["test", str(root / "run")]) == 0  # a run's folder says all that its configuration does
    return root / "run"


def test_it_leaves_both_ways_side_by_side(run, tmp_path, capsys):
    tested = json.loads((run / "metrics.json").read_text())
    assert main(["test", str(run), "--continuous", "--still", "700", "--rates", "1", "2", "--orders", "2"]) == 0
    said = capsys.readouterr().out
    assert "reset, rate 1" in said
    assert "live, rate 2" in said
    assert "changes of the answer" in said
    found = json.loads((run / "continuous.json").read_text())
    assert list(found["rates"]) == ["1", "2"]
    reset = found["rates"]["1"]["reset"]
    for name in ("clip_accuracy", "late_accuracy", "frame_accuracy"):
        assert reset[name] == pytest.approx(tested[name])
    assert set(found["still"]) == {"picture", "black"}
    assert set(found["rates"]["2"]) == {"reset", "live", "live, clock"}
    assert found["rates"]["2"]["live, clock"] == found["rates"]["1"]["live"]
    assert list(found["resets"])[:2] == ["never", "cut"]
    assert found["resets"]["never"] == found["rates"]["1"]["live"]["clip_accuracy"]
    assert prernn.load(run).recipe.reset == (None if found["reset"] == "never" else found["reset"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["clip_accuracy"] == tested["clip_accuracy"]
    assert metrics["live"] == found["rates"]["1"]["live"]
    with open(run / "continuous.csv") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["rate"] for row in rows} == {"1", "2"}
    assert (run / "continuous.png").read_bytes().startswith(b"\x89PNG")
    kept = (run / "model.safetensors").read_bytes()
    words = ["--still", "5", "--rates", "1", "--orders", "1", "--out", str(tmp_path / "out")]
    assert main(["test", str(run), "--continuous", *words]) == 0
    assert (tmp_path / "out" / "continuous.json").exists()
    assert (run / "model.safetensors").read_bytes() == kept


def test_the_best_reset_policy_is_written_into_the_run(run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    scores = {"never": 0.5, "cut": 0.9}

    def evaluated(advance, metrics, items, orders, text, snippet):
        return {"clip_accuracy": torch.tensor(scores.get(text, 0.1))}

    monkeypatch.setattr(continuous, "evaluate_policy", evaluated)
    continuous.run_continuously(copy, orders=1, rates=[1], still=1)
    assert prernn.Stream(prernn.load(copy)).net.recipe.reset == "cut"
    assert prernn.load(run).recipe.reset is None
    scores["never"] = 0.9
    continuous.run_continuously(copy, orders=1, rates=[1], still=1)
    assert prernn.load(copy).recipe.reset == "never"


def test_snippets_have_one_rate():
    assert continuous._rates_for(1, None) == continuous.RATES
    assert continuous._rates_for(1, [2.0]) == [2.0]
    assert continuous._rates_for(8, None) == continuous._rates_for(8, [1.0]) == (1.0,)
    with pytest.raises(NotImplementedError, match="expected rate 1 for a network over snippets of 8 frames"):
        continuous._rates_for(8, [1.0, 2.0])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rates", "0"], "expected orders, rates and still of at least 1, got 5, [0.0], 10000"),
        (["--orders", "0"], "expected orders, rates and still of at least 1, got 0"),
        (["--order", "3", "--nonsense"], "--nonsense"),
    ],
)
def test_mistakes(run, words, complaint, capsys):
    assert main(["test", str(run), "--continuous", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert main(["test", "--continuous"]) == 2
    assert "RUN" in capsys.readouterr().err
