"""The benchmark of layers of paths: every figure is there, the layers are alike, the crossing; never how fast."""

import csv
import math

import pytest
import torch

from prernn.benchmarks import paths as bench
from prernn.benchmarks.measuring.path_networks import map_times
from prernn.commands.main import main
from prernn.ops import paths
from prernn.ops.sobol import network_paths

SMALL = ["--size", "16", "--paths", "32", "64", "--sizes", "8", "16", "--each", "2", "--batches", "1", "3"]
QUICK = [*SMALL, "--threads", "1", "--repeats", "2"]


def test_every_layer_is_timed_at_every_size(tmp_path, capsys):
    assert main(["bench", "paths", *QUICK, "--out", str(tmp_path)]) == 0
    with (tmp_path / "paths.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = ("over", "threads", "mode", "B", "D", "paths", "layer")
    found = [tuple(row[key] for key in keys) for row in rows]
    cases = [("paths", "16", "32"), ("paths", "16", "64"), ("width", "8", "16"), ("width", "16", "32")]
    layers = (bench.PATHS, bench.KEPT, bench.SPARSE, bench.DENSE, bench.MATRIX)
    assert sorted(found) == sorted(
        (over, "1", mode, batch, size, number, layer)
        for over, size, number in cases
        for batch in "13"
        for mode in bench.MODES
        for layer in layers
        if layer != bench.KEPT or mode == "forward"  # they have no gradients
    )
    assert all(int(row["calls"]) == 2 and float(row["median_ms"]) > 0 for row in rows)
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "paths.md").read_text()
    assert "Share of the 16 x 16 connections" in text
    assert "training, batch 3, over the width" in text
    assert "12.500%" in text  # 32 of 256
    assert "sparse rows" in capsys.readouterr().out


def test_paths_rows_and_matrix_are_the_same_layer():
    found = bench.layers(16, 300)
    product, weight = found[bench.PATHS]
    sparse, rows = found[bench.SPARSE]
    source, destination = network_paths([16, 16], 300).unbind(1)
    matrix = paths.dense(weight, source, destination, 16, 16)
    torch.testing.assert_close(rows.to_dense(), matrix)
    x = torch.randn(5, 16)
    torch.testing.assert_close(product(x, weight), x @ matrix.T)
    torch.testing.assert_close(sparse(x, rows), x @ matrix.T)
    for name in (bench.KEPT, bench.MATRIX):
        other, own = found[name]
        assert own is weight
        torch.testing.assert_close(other(x, weight), x @ matrix.T)
    assert rows._nnz() == 256  # 44 paths go where others do


def test_convolutions_are_timed_in_every_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(map_times, "MAPS", ((8, 4), (48, 12)))
    words = ["--maps", "--shares", "0.05", "0.5", "--threads", "1", "--own-time", "--repeats", "2"]
    assert main(["bench", "paths", *words, "--out", str(tmp_path)]) == 0
    with (tmp_path / "maps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["layer"].partition(" ")[0], row["mode"]) for row in rows]
    assert found == [(channels, mode) for channels in ("8", "48") for mode in map_times.MODES]
    assert all(float(row["dense"]) > 0 and float(row["0.05"].split()[0]) > 0 for row in rows)
    assert [row["0.5"].endswith("-") for row in rows] == [True] * 6  # too many to pay
    assert [row["0.05"].endswith("-") for row in rows] == [True, True, True, False, False, False]
    assert not (tmp_path / "paths.csv").exists()


def test_convolutions_that_are_timed_compute_the_same():
    own, x = map_times.layer(12, 0.2), torch.randn(3, 12, 7, 7)
    expected = map_times.dense(x, own.matrix())
    torch.testing.assert_close(map_times.along(own)(x, own.weight), expected, rtol=1e-4, atol=1e-4)
    assert own.paths == 29


@pytest.mark.parametrize("wrong", [["--own-time", "--threads", "1", "2"], ["--maps", "--shares", "2"]], ids=str)
def test_mistakes_at_maps_are_one_line(wrong, tmp_path, capsys):
    assert main(["bench", "paths", *wrong, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")


def test_the_number_of_paths_doubles_up_to_half_of_all():
    assert bench._doubling(512, 1024**2 // 2) == [2**k for k in range(9, 20)]
    assert bench._doubling(512, 100) == [512]


def test_the_crossing_lies_where_the_times_are_equal():
    # linear in the share against a constant: equal at 0.03
    times = {share: (share, 0.03) for share in (0.001, 0.01, 0.1)}
    assert bench.crossing(times) == pytest.approx(0.03)
    assert bench.crossing({0.01: (1, 2), 0.1: (1.5, 2)}) is None
    assert bench.crossing({0.01: (3, 2), 0.1: (4, 2)}) is None
    # what is quick again later counts to the last crossing
    twice = {0.01: (1, 2), 0.02: (3, 2), 0.04: (1, 2), 0.08: (4, 2)}
    assert bench.crossing(twice) == pytest.approx(math.sqrt(0.04 * 0.08))


@pytest.mark.parametrize("wrong", [["--size", "0"], ["--paths", "0"], ["--each", "0"], ["--threads", "0"]], ids=str)
def test_mistakes_are_one_line(wrong, tmp_path, capsys):
    assert main(["bench", "paths", *QUICK, *wrong, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")
