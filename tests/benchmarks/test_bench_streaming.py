"""The benchmark of engines: every way is there; never how fast."""

import csv

import pytest
import torch
from torch import nn

from prernn.benchmarks.measuring.continual_network import ContinualClip
from prernn.benchmarks.measuring.stream_costs import peaks
from prernn.commands.main import main

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SMALL = ["--size", "32", "--window", "4", "--repeats", "2", "--threads", "1"]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow  # each engine's memory is measured in a process of its own
def test_every_engine_and_what_it_is_compared_with(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path / "kept"))
    options = ["--backbones", "mobilenet_v3_small", "--clips", "mc3_18", "--flat", "20", "--out", str(tmp_path)]
    assert main(["bench", "streaming", *SMALL, *options]) == 0
    rows = rows_of(tmp_path / "streaming.csv")
    ways = {row["how"] for row in rows if row["network"] == "mobilenet_v3_small"}
    assert {"eager", "its recurrence alone", "nn.LSTM on the CNN, eager", "the CNN alone, eager"} < ways
    assert {"the CNN alone, torch", "the CNN alone, onnxruntime", "the CNN alone, openvino"} < ways
    assert {"torch, float32", "onnxruntime, float32", "openvino, float32"} < ways
    assert [row["how"] for row in rows if row["network"] == "window"] == ["mc3_18, eager"]
    assert all(float(row["median_ms"]) > 0 for row in rows)
    assert [row["engine"] for row in rows_of(tmp_path / "flat.csv")] == ["torch", "onnxruntime", "openvino"]
    assert (tmp_path / "streaming.png").read_bytes().startswith(b"\x89PNG")
    assert "not run: onnxruntime, bfloat16" in capsys.readouterr().out


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert main(["bench", "streaming", *SMALL, "--backbones", "absent", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")


def test_a_continual_clip_network_gives_what_its_layers_do_at_once():
    pytest.importorskip("continual")
    net = ContinualClip(window=4).eval()
    assert net.frames == 1 + 2 * 17 + 3  # 17 convolutions over three frames, and the mean of four
    video = torch.randn(1, 3, net.frames + 3, 16, 16)
    with torch.inference_mode():
        answers = [net(frame) for frame in video.unbind(2)]
        maps = video
        for module in net.layers:
            if isinstance(module, nn.AdaptiveAvgPool3d):
                break
            maps = module(maps)
        means = maps.mean((3, 4))[0]  # (C, T)
        expected = [net.layers[-1](means[None, :, end - 4 : end].mean(2)) for end in range(21, 25)]
    assert answers[0] is None
    torch.testing.assert_close(torch.stack(answers[net.frames - 1 :]), torch.stack(expected))


@pytest.mark.slow
def test_the_peak_of_each_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path))
    found = peaks("mobilenet_v3_small", 32)
    assert [line["engine"] for line in found] == ["torch", "onnxruntime", "openvino"]
    assert all(float(line["peak, MB"]) > 100 for line in found)
