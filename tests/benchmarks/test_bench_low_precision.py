"""The benchmark of weights of few bits: every way is there and near to float32; never how fast."""

import csv

import pytest

from prernn.commands.main import main

pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")


def test_every_precision_of_every_structure(tmp_path):
    options = [
        "--size",
        "160",
        "--batches",
        "1",
        "3",
        "--repeats",
        "2",
        "--structures",
        "full",
        "diagonal",
        "sparse:0.1",
    ]
    assert main(["bench", "low_precision", *options, "--out", str(tmp_path)]) == 0
    with (tmp_path / "low_precision.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {
        f"prernn.LSTM {structure}, {precision}"
        for structure in ("full", "diagonal", "sparse:0.1")
        for precision in ("float32", "bfloat16", "int8", "int8x8")
    }
    for batch in ("1", "3"):
        found = {row["layer"]: float(row["error"]) for row in rows if row["batch"] == batch}
        assert names | {"torch.nn.LSTMCell, float32", "torch.nn.LSTMCell, bfloat16"} <= set(found)
        assert all(error < 0.05 for error in found.values())
        assert 0 < found["prernn.LSTM full, int8"] < found["prernn.LSTM full, int8x8"]
    assert (tmp_path / "low_precision.png").read_bytes().startswith(b"\x89PNG")
