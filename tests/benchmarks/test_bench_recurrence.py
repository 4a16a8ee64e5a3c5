"""Benchmarks: every table end to end on tiny sizes, what is counted, how turns are taken; never how fast."""

import csv
import math

import pytest
import torch

from prernn import ops
from prernn.benchmarks import recurrence
from prernn.benchmarks.measuring import candidates, goals, report, timing
from prernn.benchmarks.measuring.goals import Goal
from prernn.benchmarks.measuring.report import Row
from prernn.benchmarks.measuring.timing import Ceilings, Stopwatch, Times, Work, layer_work, recurrence_work
from prernn.commands.main import main
from prernn.layers.cells import GRUCell, LSTMCell, VRNNCell

SHAPE = (3, 2, 16)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Ceilings of small computations, and no peers, of which some compile for a minute."""
    monkeypatch.setattr(timing, "MEMORY", 4000)
    monkeypatch.setattr(timing, "CACHE", 400)
    monkeypatch.setattr(timing, "PRODUCT", 32)
    monkeypatch.setattr(candidates, "_package", lambda module, distribution: ("not installed", ""))


def bench(tmp_path, *options):
    assert main(["bench", "recurrence", "--repeats", "2", "--threads", "1", "--out", str(tmp_path), *options]) == 0


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def row(candidate, median, part="layer", threads=1):
    return Row(threads, part, "forward", "lstm", SHAPE, candidate, Times(median, median, median, 1))


def test_recurrences_and_growth(tmp_path, capsys, monkeypatch):
    goal = Goal("recurrence", "training", SHAPE, "diagonal", "full", 1)
    monkeypatch.setitem(goals.GOALS, "cpu", (goal, Goal("layer", "forward", (9, 9, 9), "x", "y", 1)))
    bench(tmp_path, "--shapes", "1x1x16", "3x2x16", "--cells", "lstm", "gru", "--sizes", "64", "128")
    found = lines(tmp_path / "recurrence.csv")
    # torch's and our layers, and with LSTM two peers; structures, the diagonal's two loops, torch's estimate
    counts = {"lstm": (8 + 2, 7 + 2 + 1), "gru": (8, 3 + 2 + 1)}
    for cell, expected in counts.items():
        parts = [line["part"] for line in found if line["cell"] == cell]
        modes_and_shapes = 4
        assert parts.count("layer") == modes_and_shapes * expected[0]
        assert parts.count("recurrence") == modes_and_shapes * expected[1]
    assert {line["note"] for line in found if line["candidate"].startswith("SRU")} == {"not installed"}
    timed = [line for line in found if not line["note"]]
    assert all(0 < float(line["low_ms"]) <= float(line["median_ms"]) <= float(line["high_ms"]) for line in timed)
    assert [line["theirs"] for line in lines(tmp_path / "goals.csv")] == ["full"]
    assert [line["threads"] for line in lines(tmp_path / "ceilings.csv")] == ["1"]
    assert len(lines(tmp_path / "growth.csv")) == 2 * len(recurrence.GROWTH)
    assert is_png(tmp_path / "ratios.png")
    assert is_png(tmp_path / "growth.png")
    printed = capsys.readouterr().out
    assert "LSTM, whole layer, training, threads: 1" in printed
    assert "| band:101 |" in (tmp_path / "tables.md").read_text()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
def test_only_the_tables_that_are_asked_for(tmp_path, capsys):
    bench(tmp_path, "--linear", "--sizes", "32")
    assert len(lines(tmp_path / "linear.csv")) == 2 * len(recurrence.PRODUCT_ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linear.csv", "tables.md"]
    assert "oneDNN, packed" in capsys.readouterr().out


@pytest.mark.skipif(ops.missing("native") is not None, reason="no C kernels")
def test_compressed_rows(tmp_path):
    bench(tmp_path, "--rows", "--sizes", "32")
    assert len(lines(tmp_path / "rows.csv")) == len(recurrence.DENSITIES) * len(recurrence.BATCHES)


def test_structures_of_input_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(goals, "MAIN", (3, 2, 32))
    bench(tmp_path, "--inputs", "--shapes", "3x2x32", "1x1x32", "--cells", "lstm", "vrnn")
    found = lines(tmp_path / "inputs.csv")
    assert len(found) == 2 * 2 * 2 * (1 + len(recurrence.INPUTS))
    goal = [line for line in found if line["goal"]]
    assert [(line["mode"], line["inputs"], line["goal"]) for line in goal] == [
        ("forward", "grouped:4", "12"),
        ("training", "grouped:4", "10"),
    ]
    assert all(float(line["median_ms"]) > 0 for line in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.csv", "tables.md"]


def test_layers_over_structures_of_inputs_are_those_of_the_same_matrix():
    found = candidates.structured_inputs("lstm", SHAPE, "cpu", ("full", "grouped:4", "paths:8"))
    assert list(found) == [candidates.TORCH, "full", "grouped:4", "paths:8"]
    assert all(candidate.call().shape == SHAPE for candidate in found.values())


def test_no_kernels_for_a_table_about_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ops, "missing", lambda name: "no C compiler")
    assert main(["bench", "recurrence", "--rows", "--out", str(tmp_path)]) == 2
    assert "no C compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--shapes", "3x4"], "'3x4'"),
        (["--shapes", "3x0x4"], "'3x0x4'"),
        (["--threads", "0"], "'0'"),
        (["--repeats", "many"], "'many'"),
        (["--cells", "elman"], "elman"),
        (["--device", "cuda"], "GPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, options, complaint):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "recurrence", "--out", str(tmp_path / "new"), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: ")
    assert complaint in line
    assert not (tmp_path / "new").exists()


def test_bench_lists_benchmarks_alone(capsys):
    assert main(["bench", "nothing"]) == 2
    names = "'cifar_online', 'cifar_quantize', 'faces', 'low_precision', 'mnist_paths', 'paths', 'rcn', 'recurrence'"
    assert f"choose from {names}" in capsys.readouterr().err


def test_work_of_a_recurrence():
    # 6 rows of 4 neurons: gate inputs 6*16, weights 16, biases 16, two states before and after 2*2*12, outputs 24
    assert recurrence_work(LSTMCell(), "lstm", "diagonal", (2, 3, 4)) == Work(4 * 200, 6 * (32 + 16 + 16), 6 * 4 * 5)
    # one input for all gates: 6*4
    assert recurrence_work(LSTMCell(), "lstm", "diagonal", (2, 3, 4), shared=True).bytes == 4 * 128
    # a band of 3 has 3*4-2 weights a gate
    assert recurrence_work(VRNNCell(), "vrnn", "band:3", (1, 1, 4)) == Work(4 * (4 + 10 + 4 + 8 + 4), 20 + 4, 4)
    assert recurrence_work(GRUCell(), "gru", "full", (1, 1, 2)).products == 2 * 12 + 6 + 8


def test_work_of_a_layer():
    # frames 24, projection 64+16, in place of the 96 gate inputs
    assert layer_work(LSTMCell(), "lstm", "diagonal", (2, 3, 4)) == Work(4 * 208, 384 + 2 * 6 * 4 * 16, 120)
    # frames 24, projection 16+4, in place of the 24 shared inputs
    assert layer_work(LSTMCell(), "lstm", "diagonal", (2, 3, 4), shared=True).bytes == 4 * (128 + 20)
    assert layer_work(LSTMCell(), "lstm", "diagonal", (2, 3, 4), shared=True).products == 384 + 2 * 6 * 4 * 4


def test_training_passes_three_times_and_computes_functions_twice():
    work = Work(10, 100, 7)
    assert work.operations == 100 + 7 * timing.FUNCTION
    assert work.training() == Work(30, 300, 14)


def test_the_floor_is_the_slower_of_memory_and_arithmetic(monkeypatch):
    ceilings = Ceilings(Stopwatch())
    monkeypatch.setattr(ceilings, "bandwidth", lambda size: 100.0)
    ceilings.__dict__["operations"] = 1000.0
    assert ceilings.floor(Work(200, 1000)) == (2.0, "memory")
    assert ceilings.floor(Work(200, 3000, 100)) == (5.0, "arithmetic")


def test_candidates_take_turns(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "QUICK", 0)
    times = Stopwatch(repeats=20).interleaved({name: lambda name=name: calls.append(name) for name in "ab"})
    turns = ["".join(calls[k : k + 2]) for k in range(0, 2 * 22, 2)]
    assert turns[:2] == ["aa", "bb"]  # two warm-ups each, then turns
    assert set(turns[2:]) == {"ab", "ba"}  # neither always comes after the other
    assert all(value.count == 20 and value.low <= value.median <= value.high for value in times.values())


def test_slow_ones_are_called_less_often_and_spread(monkeypatch):
    calls = []
    usual = {"quick": 0.001, "slow": 2.0}
    monkeypatch.setattr(Stopwatch, "_warm", lambda self, call: usual[call(warm=True)])
    monkeypatch.setattr(timing, "QUICK", 0)
    candidates = {name: lambda warm=False, name=name: name if warm else calls.append(name) for name in usual}
    times = Stopwatch(repeats=12).interleaved(candidates)
    assert {name: value.count for name, value in times.items()} == {"quick": 12, "slow": 3}
    assert [k // 5 for k, name in enumerate(calls) if name == "slow"] == [0, 1, 2]  # once in four turns, five calls


def test_threads_are_restored():
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_goals_are_checked_where_they_were_measured(monkeypatch):
    monkeypatch.setattr(Ceilings, "floor", lambda self, work: (0.5, "memory"))
    wanted = (
        Goal("layer", "forward", SHAPE, "prernn diagonal", "torch.nn", 3),
        Goal("layer", "forward", SHAPE, "prernn diagonal", "torch.nn", 5),
        Goal("layer", "forward", SHAPE, "prernn band:3", "prernn diagonal", 1.5, at_most=True),
        Goal("layer", "forward", SHAPE, "prernn band:5", "torch.nn", 1),
    )
    rows = [row("torch.nn", 4), row("prernn diagonal", 1), row("prernn band:3", 2), row("prernn band:5", 1, threads=2)]
    checked = goals.check(rows, wanted, Ceilings(Stopwatch()))
    assert [(line["measured"], line["met"]) for line in checked] == [("4", "yes"), ("4", "no"), ("2", "no")]
    assert [line["% of floor"] for line in checked] == ["50%", "50%", "25%"]


def test_every_goal_names_candidates_that_are_timed():
    for goal in (*goals.GOALS["cpu"], *goals.GOALS["cuda"]):
        small = (*goal.shape[:2], 32)
        layers = candidates.layers("lstm", small, "cpu")
        alone = candidates.recurrences("lstm", small, "cpu", recurrence.STRUCTURES["lstm"], recurrence.LOOPS)
        known = layers if goal.part == "layer" else {*alone, candidates.ESTIMATE}
        assert {goal.ours, goal.theirs} <= set(known)
        assert goal.work().operations > 0


def test_all_ways_to_a_recurrence_agree():
    found = candidates.recurrences("lstm", SHAPE, "cpu", ("diagonal",), ("diagonal",))
    outputs = [candidate.call() for candidate in found.values()]
    assert len(outputs) == 3
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(outputs[2], outputs[0])


def test_estimate_is_the_difference():
    rows = [row(candidates.TORCH, 5.0), row(candidates.PROJECTION, 3.0)]
    (estimate,) = recurrence.estimates(rows)
    assert (estimate.part, estimate.candidate) == ("recurrence", candidates.ESTIMATE)
    assert estimate.times.median == 2
    assert recurrence.estimates([row(candidates.TORCH, 1.0), row(candidates.PROJECTION, 3.0)])[0].times is None


def test_slope_of_the_upper_half():
    values = {size: Times(size**2 if size > 4 else 1, 0, 0, 1) for size in (1, 2, 4, 8, 16, 32)}
    assert report.slope(values) == pytest.approx(2)
    assert math.isnan(report.slope({8: Times(1, 1, 1, 1)}))


def test_a_broken_peer_is_a_note(monkeypatch):
    monkeypatch.setattr(candidates, "_package", lambda module, distribution: (object(), "1.0"))
    found = candidates.peers("layer", SHAPE, "cpu")
    assert list(found) == ["SRU, another cell (sru 1.0)", "minGRU, another cell (minGRU-pytorch 1.0)"]
    assert all(reason.startswith("fails: AttributeError") for reason in found.values())
