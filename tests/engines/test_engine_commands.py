"""``prernn export``, ``prernn verify``, and ``--engine``."""

import csv
import dataclasses
import io

import pytest
import torch
from torch import nn

import prernn
from prernn.commands.main import main
from prernn.engines import verification
from prernn.engines.agreement import noise
from prernn.media.encoding import write_video
from small_cnns import PlainNet, prepare, shake
from small_runs import config, render_parts, write
from video_files import noise as picture

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a small network of three classes, and a clip."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    net = prernn.convert(prernn.backbone("small_vgg", width=2, units=16, size=16), "fc6", cell="gru", outputs=3)
    nn.init.normal_(net.output_layer.weight)
    net.recipe = dataclasses.replace(net.recipe, labels=["a", "b", "c"], transform={"size": 16}, rate=25.0)
    prernn.save(net.eval(), folder)
    write_video(folder / "clip.mp4", [picture(number) for number in range(9)], 25)
    return folder


@pytest.mark.parametrize(("format", "file"), [("onnx", "step.onnx"), ("openvino", "step.xml"), ("torch", "step.pt2")])
def test_an_export_says_what_is_in_it_and_streams(run, format, file, capsys):
    assert main(["export", str(run), "--format", format]) == 0
    said = capsys.readouterr().out
    assert file in said
    assert "(B, 16)" in said
    found = {}
    for checkpoint in (run, run / file):
        assert main(["stream", str(run / "clip.mp4"), "--checkpoint", str(checkpoint)]) == 0
        found[checkpoint] = [row["probability"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    first, second = found.values()
    assert [float(value) for value in first] == pytest.approx([float(value) for value in second], abs=2e-4)
    assert len(first) == 9


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino", "auto"])
def test_a_stream_says_its_engine(run, engine, capsys):
    words = ["stream", str(run / "clip.mp4"), "--checkpoint", str(run), "--engine", engine, "--threads", "1"]
    assert main(words) == 0
    assert f" by {'' if engine == 'auto' else engine}" in capsys.readouterr().err


def test_verify_compares_every_way(run, monkeypatch, capsys):
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    ways = ["frame by frame", "chunks of 7", "beside two other", "quantized"]
    ways += [f"{engine}, float32" for engine in ("torch", "onnxruntime", "openvino")]
    assert all(way in said for way in ways)
    assert main(["verify", str(run), str(run / "clip.mp4"), "--limit", "5"]) == 0
    assert "5 frames of" in capsys.readouterr().out
    monkeypatch.setattr(verification, "QUANTIZED", 1e-9)
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(run)])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "DIFFERS" in said
    assert f"only networks of few bits, which are others: prernn test {run} --engine" in said


def test_a_network_whose_batch_leaks_is_found_out(monkeypatch):
    net = shake(prernn.convert(prepare(PlainNet()).float(), image_size=(8, 8))).eval()
    step = net.step

    def leaks(frame, state=None):
        out, state = step(frame, state)
        return out + 0.01 * (len(frame) > 1), state

    monkeypatch.setattr(net, "step", leaks)
    found = {check.name: check.holds for check in verification.checks(net, noise(net, 1, 10)[0])}
    assert not found["beside two other streams"]
    assert found["frame by frame"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["export", "RUN", "--format", "tflite"], "--format: expected one of onnx, openvino, torch"),
        (["export", "RUN", "--out", "x.xml"], "ends in .onnx for format onnx"),
        (["export", "absent"], "absent"),
        (["verify", "RUN", "absent.mp4"], "absent.mp4: no such file"),
        (["verify", "RUN", "--limit", "1"], "at least 2 frames"),
        (["stream", "CLIP", "--checkpoint", "RUN", "--engine", "tensorrt"], "engine to be one of"),
        (["stream", "CLIP", "--checkpoint", "absent.onnx"], "found none"),
        (["predict", "RUN", "--precision", "bfloat16"], "expected an --engine"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(run, words, complaint, capsys):
    names = {"RUN": str(run), "CLIP": str(run / "clip.mp4")}
    assert main([names.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.strip().count("\n") == 0


def test_tests_and_predictions_in_an_engine(tmp_path, capsys):
    videos = render_parts(tmp_path / "videos", {"train": 2, "test": 2})
    values = config(videos, tmp_path / "run", max_epochs=1)
    path = write(tmp_path / "config.yaml", values)
    assert main(["fit", "--config", path]) == 0
    capsys.readouterr()
    found = {}
    for engine in ("torch", "openvino"):
        assert main(["test", "--config", path, "--engine", engine]) == 0
        said = capsys.readouterr().out
        assert f"computed by {engine}, float32, frame by frame" in said
        assert main(["predict", "--config", path, "--engine", engine]) == 0
        found[engine] = (tmp_path / "run" / "predictions.csv").read_text()
    assert main(["predict", "--config", path]) == 0
    found["none"] = (tmp_path / "run" / "predictions.csv").read_text()
    rows = [list(csv.DictReader(io.StringIO(text))) for text in found.values()]
    assert len(rows[0]) == 4
    for other in rows[1:]:
        assert [row["label"] for row in other] == [row["label"] for row in rows[0]]
