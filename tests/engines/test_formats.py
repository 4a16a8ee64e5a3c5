"""Law 8 for every kind of network, format and kind of file; what the files hold besides."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import prernn
from exported_networks import KINDS, size_of, some_frames
from prernn.engines import onnxruntime_engine, openvino_engine
from prernn.engines.exported import export as exporting
from prernn.engines.exported.description import FORM, KEY, Description
from prernn.engines.exported.export import FORMATS, export
from prernn.engines.exported.torch_file import EXTRA, load_torch
from prernn.models.networks.deep_speech import deep_speech
from small_cnns import FcNet, PlainNet, ResidualNet

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def runner_of(path):
    """What runs a file, and its description."""
    if path.suffix == ".onnx":
        session, about = onnxruntime_engine.described(path, 1)
        return onnxruntime_engine.runner(session), about
    if path.suffix == ".xml":
        model, about = openvino_engine.described(path)
        return openvino_engine.runner(model, "float32", 1), about
    program, about = load_torch(path)
    return exporting.program_runner(program, about), about


@torch.no_grad()
def assert_same(net, path, name, batch, steps):
    run, about = runner_of(path)
    video, state = some_frames(net, batch, steps, size_of(name)), None
    leaves = [torch.zeros(batch, *leaf.file_shape) for leaf in about.states]
    assert all(leaf.ndim <= 4 for leaf in leaves)
    if about.kind == "sequence":
        expected, state = net(video)
        out, leaves = run(video, leaves)
    else:
        outputs, wanted = [], []
        for frame in video.unbind(1):
            out, state = net.step(frame, state)
            wanted.append(out)
            out, leaves = run(frame.contiguous(), leaves)
            outputs.append(out)
        out, expected = torch.stack(outputs, 1), torch.stack(wanted, 1)
    torch.testing.assert_close(out, expected, **CLOSE)
    flat = [leaf.reshape(own.shape) for leaf, own in zip((x for part in state for x in part), leaves, strict=True)]
    torch.testing.assert_close(leaves, flat, **CLOSE)
    assert expected.std() > 1e-4


QUICK = {("onnx", "step"), ("openvino", "step"), ("torch", "sequence")}
"""What is not slow for two kinds: OpenVINO's models are made of ONNX's, and all of torch's programs. Every kind's steps
are streamed in all engines, in test_engines.py."""


SHORTER = ("kept activation", "quantized", "optical flow")
"""Kinds whose sequences are slow too: another activation, weight and number of channels change nothing in a scan."""


def _marks(name, format, kind):
    scan = (format, kind) == ("onnx", "sequence") and name not in SHORTER
    return [] if scan or ((format, kind) in QUICK and name in ("rcn", "several layers")) else pytest.mark.slow


CASES = [
    pytest.param(name, format, kind, marks=_marks(name, format, kind))
    for name in KINDS
    for format in FORMATS
    for kind in ("step", "sequence")
]


@pytest.mark.parametrize(("name", "format", "kind"), CASES)
def test_a_file_computes_what_the_network_does(name, format, kind, tmp_path):
    net = KINDS[name]()
    path = tmp_path / f"net{FORMATS[format]}"
    about = export(net, path, format, kind, image_size=size_of(name))
    assert [leaf.name for leaf in about.states] == net.state_names
    for batch, steps in ((1, 5), (4, 2)):
        assert_same(net, path, name, batch, steps)


@pytest.mark.parametrize("format", FORMATS)
def test_height_and_width_are_free_where_the_network_and_the_format_allow(format, tmp_path):
    net = prernn.convert(PlainNet(), image_size=(16, 16)).eval()
    path = tmp_path / f"net{FORMATS[format]}"
    assert export(net, path, format).free_size
    run, _ = runner_of(path)
    frame = torch.randn(2, 3, 21, 13)
    torch.testing.assert_close(run(frame, [torch.zeros(2, 12)])[0], net.step(frame)[0], **CLOSE)
    fixed = prernn.convert(nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 2)), "1").eval()
    assert not export(fixed, path, format).free_size


def test_a_pooling_that_onnx_knows_for_one_size_alone_fixes_the_size(tmp_path):
    net = prernn.convert(FcNet(), image_size=(8, 8)).eval()  # pools to 2 x 2, whatever comes
    assert not export(net, tmp_path / "net.onnx").free_size
    assert export(net, tmp_path / "net.pt2", "torch").free_size


def test_a_step_has_no_loop_and_a_sequence_one_scan_a_layer(tmp_path):
    onnx = pytest.importorskip("onnx")
    net = prernn.convert(FcNet(), ["fc6", "fc7"], image_size=(8, 8), hidden="diagonal").eval()
    for kind, scans in (("step", 0), ("sequence", 2)):
        export(net, tmp_path / "net.onnx", "onnx", kind)
        nodes = onnx.load(tmp_path / "net.onnx").graph.node
        assert [sum(node.op_type == name for node in nodes) for name in ("Scan", "Loop")] == [scans, 0]
        body = {node.op_type for scan in nodes if scan.op_type == "Scan" for node in scan.attribute[0].g.node}
        assert not body & {"MatMul", "Gemm", "Einsum"}


@pytest.mark.parametrize("hidden", ["diagonal", "band:5", "ring", "paths:2"])
def test_sparse_recurrences_are_no_matrix_products(hidden, tmp_path):
    onnx = pytest.importorskip("onnx")
    net = prernn.convert(FcNet(), "fc7", cell="lstm", input="single", image_size=(8, 8), hidden=hidden).eval()
    export(net, tmp_path / "net.onnx")
    products = [
        node for node in onnx.load(tmp_path / "net.onnx").graph.node if node.op_type in ("MatMul", "Gemm", "Einsum")
    ]
    assert len(products) == 3  # fc6, fc7 and the output layer


def test_openvino_keeps_the_state_of_one_stream_itself(tmp_path):
    import openvino

    net = KINDS["several layers"]()
    export(net, tmp_path / "net.xml", "openvino", image_size=(8, 8), stateful=True)
    compiled = openvino.Core().compile_model(tmp_path / "net.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    for _ in range(2):
        state = None
        for frame in torch.randn(3, 1, 3, 8, 8):
            with torch.no_grad():
                expected, state = net.step(frame, state)
            out = torch.from_numpy(request.infer([frame.numpy()])[0].copy())
            torch.testing.assert_close(out, expected, **CLOSE)
        request.reset_state()
    with pytest.raises(ValueError, match="passed in, got a stateful file"):
        prernn.Stream(tmp_path / "net.xml")


def test_a_program_of_torch_loads_where_there_is_no_prernn(tmp_path):
    net = prernn.convert(ResidualNet(), hidden="band:3", image_size=(8, 8)).eval()
    export(net, tmp_path / "net.pt2", "torch", "sequence")
    code = """
import sys, torch
sys.modules["prernn"] = None  # an import would fail
program = torch.export.load(sys.argv[1]).module()
out, state = program(torch.ones(2, 5, 3, 8, 8), ((torch.zeros(2, 12),),))
print(out.sum().item())
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "net.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with torch.no_grad():
        expected = net(torch.ones(2, 5, 3, 8, 8))[0].sum().item()
    assert float(done.stdout) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_metadata_say_what_a_reader_needs(tmp_path):
    import onnx

    net = KINDS["snippets"]()
    net.recipe = dataclasses.replace(net.recipe, labels=list("abcde"), transform={"size": 8}, rate=12.5)
    for format, ending in FORMATS.items():
        about = export(net, tmp_path / f"net{ending}", format)
        assert runner_of(tmp_path / f"net{ending}")[1] == about
    (entry,) = [item for item in onnx.load(tmp_path / "net.onnx").metadata_props if item.key == KEY]
    found = json.loads(entry.value)
    assert (found["labels"], found["rate"], found["snippet"], found["transform"]) == (
        list("abcde"),
        12.5,
        4,
        {"size": 8},
    )
    assert found["states"] == [{"name": "state_0_h", "layer": 0, "shape": [6], "file_shape": [6]}]
    assert (found["kind"], found["frame_shape"], found["outputs"], found["delay"]) == ("step", [3, 4, 8, 8], 5, 0)


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    net, path = KINDS["conv"](), tmp_path / "net.onnx"
    run = onnxruntime_engine.runner

    def slightly_wrong(session):
        return lambda frame, leaves: (run(session)(frame, leaves)[0] * 1.001, run(session)(frame, leaves)[1])

    monkeypatch.setattr(onnxruntime_engine, "runner", slightly_wrong)
    with pytest.raises(NotImplementedError, match=r"not kept: over 4 frames of 3 streams .* by 0.001"):
        export(net, path, image_size=(8, 8))
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_and_arguments(tmp_path):
    net = KINDS["conv"]()
    for arguments, words in (
        (("net.onnx", "tflite"), "format to be one of onnx, openvino, torch"),
        (("net.onnx", "openvino"), "ends in .xml for format openvino"),
        (("net.onnx", "onnx", "frames"), "kind to be one of step, sequence"),
    ):
        with pytest.raises(ValueError, match=words):
            export(net, tmp_path / arguments[0], *arguments[1:])
    with pytest.raises(ValueError, match="expected format openvino for a state that stays inside"):
        export(net, tmp_path / "net.onnx", stateful=True)
    with pytest.raises(OSError, match="not written"):
        export(net, tmp_path / "absent" / "net.onnx", image_size=(8, 8))
    both = prernn.backbone("spectrogram", features=41, filters=4)
    with pytest.raises(NotImplementedError, match="kind sequence of a network that hears both directions"):
        export(deep_speech(both, hidden_size=8, num_layers=1).eval(), tmp_path / "net.onnx")


def test_files_that_are_none_of_ours(tmp_path):
    import onnx

    net = KINDS["features"]()
    export(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    (entry,) = [item for item in model.metadata_props if item.key == KEY]
    entry.value = json.dumps({**json.loads(entry.value), "form": FORM + 1, "version": "9.9"})
    onnx.save(model, tmp_path / "later.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "broken.pt2").write_bytes(b"no program")
    (tmp_path / "broken.xml").write_text("<net/>")
    export(net, tmp_path / "sequence.onnx", kind="sequence")
    for file, words in (
        ("later.onnx", r"form 1, got 2 of prernn 9.9: update prernn"),
        ("other.onnx", "expected a file that prernn export wrote"),
        ("broken.onnx", "onnxruntime can't run it"),
        ("broken.pt2", "expected a program of torch.export"),
        ("broken.xml", "OpenVINO can't read it"),
        ("absent.onnx", "found none"),
        ("sequence.onnx", "expected a file of a step, got one of a sequence"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            prernn.Stream(tmp_path / file)
        assert file in str(caught.value)


def test_description_goes_to_text_and_back():
    about = Description("step", (3, 8, 8), True, "float32", (), 5, {"version": 2})
    assert Description.from_json(about.to_json(), "here") == about
    assert EXTRA == "prernn.json"
