"""The benchmark of long sequences and of training steps: candidates compute the same; never how fast."""

import csv

import pytest
import torch

from prernn import ops
from prernn.benchmarks import sequences as bench
from prernn.commands.main import main
from prernn.layers.cells import make_cell
from prernn.layers.recurrent_layer import RecurrentLayer


def test_every_candidate_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "KINDS", {"words": (3, 2, 8), "phonemes": (4, 2, 8), "speech": (3, 2, 8)})
    words = ["bench", "sequences", "--shapes", "40x1x4", "9x3x2", "--words", "20", "--repeats", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    with (tmp_path / "long.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {"lstm", "gru", "qrnn", "sru", "mingru", "qrnn, scan", "sru, scan", "mingru, scan"}
    for mode, candidates in (("forward", {*names, bench.NEWTON}), ("training", names)):
        found = {(row["candidate"], row["TxBxD"]) for row in rows if row["mode"] == mode}
        assert found == {(name, shape) for name in candidates for shape in ("40x1x4", "9x3x2")}
    assert all(float(row["median_ms"]) > 0 for row in rows)
    with (tmp_path / "training.csv").open(newline="") as file:
        found = {(row["network"], row["task"]) for row in csv.DictReader(file)}
    assert found == {
        (name, task)
        for name in ("torch.nn", *(f"prernn {hidden}" for hidden in bench.STRUCTURES))
        for task in ("words", "phonemes", "speech")
    }
    assert "Newton steps" in (tmp_path / "sequences.md").read_text()


@pytest.mark.parametrize("cell", ["gru", "vrnn"])
@pytest.mark.parametrize("steps", [1, 7, 200])
def test_newton_gives_the_states_of_the_steps(cell, steps):
    torch.manual_seed(1)
    layer = RecurrentLayer(torch.nn.Identity(), make_cell(cell), 5, "diagonal", dtype=torch.double)
    torch.nn.init.normal_(layer.hidden_to_hidden.weight)
    u = torch.randn(steps, 2, len(layer.cell.gates), 5, dtype=torch.double)
    state = (torch.randn(2, 5, dtype=torch.double),)
    with torch.no_grad():
        found, count = bench.newton(layer, u, state, 1e-12)
        expected, _ = ops.sequence(layer.cell, layer.hidden_to_hidden.weights(layer.bias), u, state)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert count <= steps + 1


def test_the_networks_are_alike():
    """Ours with a full matrix and torch.nn's have the same weights, and so the same outputs."""
    for kind in ("words", "phonemes"):
        found = bench.networks(kind, 30)
        theirs, ours = found["torch.nn"], found["prernn full"]
        (layer,) = ours.recurrent_layers
        with torch.no_grad():
            layer.input_to_hidden.linear.weight.copy_(theirs.layer.weight_ih_l0)
            layer.input_to_hidden.linear.bias.copy_(theirs.layer.bias_ih_l0)
            layer.hidden_to_hidden.weight.copy_(theirs.layer.weight_hh_l0.unflatten(0, (4, -1)))
            layer.bias.copy_(theirs.layer.bias_hh_l0.unflatten(0, (4, -1)))
            theirs.output.load_state_dict(ours.output_layer.state_dict())
        x = torch.randn(2, 5, bench.FEATURES)
        if kind == "words":
            theirs.first[0].load_state_dict(ours.cnn.embedding.state_dict())
            x = torch.randint(30, (2, 5, 1))
        torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-4, atol=1e-5)


def test_the_networks_of_speech_have_as_many_weights():
    """But for the resetting of a GRU's state, ours before the product, torch.nn's after it, they are the same."""
    found = bench.networks("speech", 0)
    assert found["torch.nn"](torch.randn(2, 5, 2, bench.FREQUENCIES))[0].shape == (2, 5, bench.LETTERS)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in found.items()}
    assert counts["torch.nn"] == counts["prernn full"] > counts["prernn band:9"] > counts["prernn diagonal"]
