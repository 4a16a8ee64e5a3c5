"""Steps in 8-bit integers: the integers of a quantized network stay what they are, the rest is close."""

import onnx
import pytest
import torch
from onnx import numpy_helper

import prernn
from exported_networks import KINDS
from prernn.commands.main import main
from prernn.engines.agreement import difference, noise
from prernn.engines.engine_network import in_steps
from prernn.engines.opening import opened
from prernn.models import checkpoint
from prernn.sparsity.quantization.weights import weights_of
from small_cnns import ResidualNet, prepare, shake

PRODUCTS = ("Conv", "Gemm", "MatMul")


def integer_weights(path):
    """``{name: (operation, integers, scales)}`` of each product with a weight in a file."""
    model = onnx.load(path)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        origin = made.get(node.input[1]) if node.op_type in PRODUCTS else None
        if origin is not None and origin.op_type == "DequantizeLinear":
            cast = made.get(origin.input[0])  # of 4 bits
            held = origin.input[0] if cast is None else cast.input[0]
            if held in values:
                name = held.removeprefix("network.").removesuffix("_quantized")
                found[name] = (node.op_type, values[held].astype("int8"), values[origin.input[1]])
    return found


@pytest.mark.parametrize(("cell", "scale"), [("gru", "layer"), ("lstm", "neuron")])
def test_integers_stay_what_they_are(cell, scale, tmp_path):
    """Of convolutions with folded batch normalization up to its sign, of products and of the recurrence exactly."""
    torch.manual_seed(0)
    net = shake(prernn.convert(prepare(ResidualNet()).float(), cell=cell, outputs=4)).eval()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.weight.data[::2] *= -1
    net = prernn.quantize(net, 3, scale=scale)
    frames = noise(net, 3, 4)
    prernn.export(net, tmp_path / "step.onnx", precision="int8", inputs=frames)
    held = integer_weights(tmp_path / "step.onnx")
    counts = {weight.name: weight.counts for weight in weights_of(net)}
    recurrent = next(value for name, value in counts.items() if "hidden_to_hidden" in name)
    rows = {tuple(row.tolist()) for row in recurrent.flatten(0, -2)}
    named = 0
    for name, (operation, integers, _) in held.items():
        assert integers.dtype.name == "int8"
        own = torch.from_numpy(integers.copy()).long()
        if name in counts:
            named += 1
            sign = torch.where((own == counts[name]).flatten(1).all(1), 1, -1)
            assert torch.equal(own * sign.view(-1, *[1] * (own.ndim - 1)), counts[name].long()), name
        elif operation != "Conv" and own.ndim == 2 and recurrent.shape[-1] in own.shape:
            seen = [own, own.T][own.shape[1] != recurrent.shape[-1]]
            rows -= {tuple(row.tolist()) for row in seen}
    assert named >= 2
    assert not rows


@pytest.mark.parametrize(
    ("kind", "format"),
    [(kind, "onnx") for kind in ("conv", "quantized", "kept activation", "frame by frame", "features", "snippets")]
    + [(kind, "openvino") for kind in ("quantized", "rcn")],
)
def test_a_file_answers_alike_and_goes_on(kind, format, tmp_path):
    torch.manual_seed(0)
    net = KINDS[kind]().eval()
    path = tmp_path / ("step.onnx" if format == "onnx" else "step.xml")
    videos = noise(net, 4, 6)
    about = prernn.export(net, path, format, precision="int8", inputs=videos)
    assert about.precision == "int8"
    there = opened(path)
    with torch.inference_mode():
        expected, state = in_steps(net, videos, None)
        got, there_state = in_steps(there, videos, None)
        again, _ = in_steps(there, videos[:, :3], None)
    assert difference(got, expected) < 0.15
    torch.testing.assert_close(again, got[:, :3])
    for part, other in zip(state, there_state, strict=True):
        for leaf, own in zip(part, other, strict=True):
            assert difference(own.reshape(leaf.shape).float(), leaf.float()) < 0.15


def test_counts_beyond_eight_bits_are_rounded(tmp_path):
    torch.manual_seed(0)
    net = prernn.quantize(prernn.framewise(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())), 300.0)
    net.frame_shape = (3, 5, 5)
    (weight,) = weights_of(net)
    assert weight.counts.abs().max() > 127
    prernn.export(net, tmp_path / "step.onnx", precision="int8", inputs=noise(net, 2, 2))
    ((_, integers, scales),) = integer_weights(tmp_path / "step.onnx").values()
    assert abs(integers).max() == 127
    held = torch.from_numpy(integers * scales.reshape(-1, 1, 1, 1))
    each = torch.from_numpy(scales).view(-1, 1, 1, 1)
    assert ((held - weight.values).abs() <= 0.5 * each * 1.001).all()


def test_the_file_is_small(tmp_path):
    net = prernn.traditional(prernn.backbone("features", features=400), hidden_size=400, outputs=100).eval()
    sizes = []
    for precision, inputs in (("float32", None), ("int8", noise(net, 2, 3))):
        path = tmp_path / f"{precision}.onnx"
        prernn.export(net, path, precision=precision, inputs=inputs)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.27 * sizes[0]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"precision": "int4"}, ValueError, "float32, int8"),
        ({"precision": "int8", "kind": "sequence"}, NotImplementedError, "a sequence in onnx"),
        ({"precision": "int8", "format": "torch"}, NotImplementedError, "in torch"),
        ({"precision": "int8", "format": "openvino", "stateful": True}, NotImplementedError, "a stateful step"),
        ({"inputs": torch.zeros(1)}, ValueError, "only for precision int8"),
    ],
)
def test_mistakes(options, kind, words, tmp_path):
    path = tmp_path / f"step{ {'torch': '.pt2', 'openvino': '.xml'}.get(options.get('format', ''), '.onnx') }"
    with pytest.raises(kind, match=words):
        prernn.export(KINDS["features"](), path, **options)
    assert not list(tmp_path.iterdir())


def test_words_are_refused(tmp_path):
    with pytest.raises(NotImplementedError, match="words"):
        prernn.export(KINDS["words"](), tmp_path / "step.onnx", precision="int8")


def test_the_command(tmp_path, capsys):
    net = prernn.convert(prernn.backbone("small_vgg", width=2, units=16, size=16), "fc6", cell="gru", outputs=3)
    checkpoint.save(prernn.quantize(net.eval(), 2), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--precision", "int8"]) == 0
    out = capsys.readouterr().out
    assert "step-int8.onnx" in out.replace("\n", "")
    assert "which gives what" not in out
    assert (tmp_path / "run" / "step-int8.onnx").is_file()
    assert main(["export", str(tmp_path / "run"), "--precision", "int8", "--videos", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
