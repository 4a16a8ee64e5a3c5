"""Files in integers are small, and compute what the larger ones do to the last bit."""

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

import prernn
from exported_networks import KINDS
from prernn.benchmarks.measuring.quantized.integer_products import products_in_integers
from prernn.engines import onnxruntime_engine
from prernn.engines.agreement import last_bit_difference, noise
from prernn.engines.exported import integer_file
from prernn.engines.exported.compact import in_pairs
from prernn.engines.opening import opened


@given(arrays("int8", array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.integers(-8, 7)))
def test_pairs_are_four_bit_integers(values):
    tensor = helper.make_tensor("a", TensorProto.INT4, values.shape, in_pairs(values), raw=True)
    assert (numpy_helper.to_array(tensor).astype("int8") == values).all()
    assert len(tensor.raw_data) == (values.size + 1) // 2


def few_counts():
    """A quantized network of which some weights have counts below 8, and others beyond."""
    torch.manual_seed(0)
    net = prernn.quantize(KINDS["conv"](), 1.0).eval()
    assert isinstance(net, prernn.RecurrentNetwork)
    return net


def types_of(path):
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1}


@pytest.mark.parametrize("kind", ["few counts", "features"])
def test_the_same_numbers_in_a_smaller_file(kind, tmp_path, monkeypatch):
    net = few_counts() if kind == "few counts" else KINDS[kind]()
    frames = noise(net, 3, 4)
    runs = {}
    for name in ("small", "large"):
        if name == "large":
            monkeypatch.setattr(integer_file, "compact", lambda model: None)
        path = tmp_path / f"{name}.onnx"
        prernn.export(net, path, precision="int8", inputs=frames)
        onnx.checker.check_model(onnx.load(path))
        session = onnxruntime_engine.session_of(path, 1)
        runs[name] = (
            opened(path)(frames)[0],
            products_in_integers("onnxruntime", path),
            [x.name for x in session.get_inputs()],
        )
    small, large = runs.values()
    assert torch.equal(small[0], large[0])
    assert small[1:] == large[1:]
    assert (tmp_path / "small.onnx").stat().st_size < 0.8 * (tmp_path / "large.onnx").stat().st_size


def test_few_counts_have_four_bits(tmp_path):
    net = few_counts()
    frames = noise(net, 3, 4)
    answers = {}
    for opset in (None, 18):
        path = tmp_path / f"{opset}.onnx"
        prernn.export(net, path, precision="int8", inputs=frames, opset=opset)
        answers[opset] = opened(path)(frames)[0]
    assert TensorProto.INT4 in types_of(tmp_path / "None.onnx")
    assert TensorProto.INT4 not in types_of(tmp_path / "18.onnx")
    assert torch.equal(answers[None], answers[18])


def test_equal_scales_and_zero_points_are_one_tensor(tmp_path):
    net = few_counts()
    prernn.export(net, tmp_path / "step.onnx", precision="int8", inputs=noise(net, 3, 4))
    small = [x for x in onnx.load(tmp_path / "step.onnx").graph.initializer if len(x.dims) < 2]
    assert len({(x.data_type, tuple(x.dims), x.raw_data) for x in small}) == len(small) > 0


def test_openvino_has_them_too(tmp_path):
    net = few_counts()
    prernn.export(net, tmp_path / "a.xml", "openvino", precision="int8", inputs=noise(net, 3, 4))
    assert 'element_type="i4"' in (tmp_path / "a.xml").read_text()


def test_a_chaotic_network_is_called_one(tmp_path):
    torch.manual_seed(0)
    net = prernn.traditional(prernn.backbone("features", features=7), hidden_size=32, outputs=4).eval()
    video = noise(net, 1, 200)
    assert last_bit_difference(net, video) < 1e-4
    with torch.no_grad():
        for layer in net.recurrent_layers:
            layer.hidden_to_hidden.weight.copy_(9 * torch.randn_like(layer.hidden_to_hidden.weight))
    assert last_bit_difference(net, video) > 1e-4
    with pytest.raises(NotImplementedError, match="last bit: its recurrence is chaotic"):
        prernn.export(net, tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())
