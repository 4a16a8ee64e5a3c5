"""The benchmark of engines: every way is there; never how fast."""

import csv

import pytest

from prernn.commands.main import main

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SMALL = ["--size", "32", "--window", "4", "--repeats", "2", "--threads", "1"]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_engine_and_what_it_is_compared_with(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path / "kept"))
    options = ["--backbones", "mobilenet_v3_small", "--clips", "mc3_18", "--flat", "20", "--out", str(tmp_path)]
    assert main(["bench", "streaming", *SMALL, *options]) == 0
    rows = rows_of(tmp_path / "streaming.csv")
    ways = {row["how"] for row in rows if row["network"] == "mobilenet_v3_small"}
    assert {"eager", "its recurrence alone", "nn.LSTM on the CNN, eager", "the CNN alone, eager"} < ways
    assert {"torch, float32", "onnxruntime, float32", "openvino, float32"} < ways
    assert [row["how"] for row in rows if row["network"] == "window"] == ["mc3_18, eager"]
    assert all(float(row["median_ms"]) > 0 for row in rows)
    assert [row["engine"] for row in rows_of(tmp_path / "flat.csv")] == ["torch", "onnxruntime", "openvino"]
    assert (tmp_path / "streaming.png").read_bytes().startswith(b"\x89PNG")
    assert "not run: onnxruntime, bfloat16" in capsys.readouterr().out


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert main(["bench", "streaming", *SMALL, "--backbones", "absent", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")
