"""`prernn bench regularization`, small: ways to train, and what is said of them."""

import pytest
import torch

from bench_tables import rows
from prernn.benchmarks import regularization
from prernn.commands.main import main
from prernn.models.from_config import NetworkSpec
from small_runs import TINY, render_parts


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Videos in a demo's place, for a small network."""
    network = NetworkSpec(TINY, input="single", keep_activation=True)  # calibrated, as all are
    monkeypatch.setattr(regularization, "CONVERTED", network)
    monkeypatch.setattr(regularization, "ORDERS", 1)
    render_parts(tmp_path / "data", {"train": 4, "test": 2}, other_test=100)
    yield tmp_path
    torch.set_num_threads(2)


CHOSEN = ["as it is", "states 0.2", "constant rate", "constant rate, average 0.95", "selective decay"]


def test_ways_train_as_their_names_say(root, capsys):
    words = ["--root", str(root), "--few", "2", "--epochs", "10", "--seeds", "0", "--out", str(root / "out")]
    assert main(["bench", "regularization", *words, "--ways", *CHOSEN]) == 0
    lines = rows(root / "out" / "regularization.csv")
    assert [line["way"] for line in lines] == CHOSEN
    losses = [float(line["train loss"]) for line in lines]
    assert losses[2] == losses[3]  # the training is the same
    assert len(set(losses)) == 4
    text = (root / "out" / "regularization.md").read_text()
    assert all(f"| {way} " in text for way in CHOSEN)
    assert "2 clips a class, 10 epochs, rate 0.6, 1 seed" in text
    capsys.readouterr()
    assert main(["bench", "regularization", *words, "--ways", "sleep"]) == 2
    assert "expected some of 'as it is', 'inputs 0.2'" in capsys.readouterr().err
