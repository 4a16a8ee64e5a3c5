"""A quantized network's stream reads its integers, and leaves the network as it was."""

import copy

import pytest
import torch

import prernn
from prernn.conversion.accounting import total_weights
from prernn.engines.torch_engine import TorchNetwork
from prernn.ops.narrow import FEW, FewBits
from small_cnns import FcNet, prepare

pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")

HIDDEN = ["full", "grouped:2", "band:65", "sparse:0.3", "paths:40"]


def quantized_network(hidden="full", by="layer", **options):
    torch.manual_seed(0)
    net = prernn.traditional(prepare(FcNet()).float(), cell="gru", hidden_size=160, hidden=hidden).eval()
    return prernn.quantize(net, **({"samples_per_weight": 2.0, "scale": by} | options))


def converted(kind="gate"):
    torch.manual_seed(0)
    cnn = prernn.backbone("small_vgg", width=2, units=160, size=16)
    return prernn.quantize(prernn.convert(cnn, "fc7", cell="gru", input=kind, hidden="full", outputs=3).eval(), 2.0)


def integers_in(runs):
    return sum(isinstance(part, FewBits) for part in runs._few.stepper.modules())


def outputs(stream, frames):
    return torch.stack([stream(frame) for frame in frames])


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("by", ["layer", "neuron"])
def test_a_stream_reads_integers_and_gives_the_same(hidden, by):
    net = quantized_network(hidden, by)
    frames = torch.randn(6, *net.frame_shape)
    stream = prernn.Stream(net)
    assert integers_in(stream._runs) >= 1
    plain = prernn.Stream(net, precision="float32")
    assert not integers_in(plain._runs)
    torch.testing.assert_close(outputs(stream, frames), outputs(plain, frames), rtol=1e-4, atol=1e-5)
    for part in stream._runs._few.stepper.modules():
        if isinstance(part, FewBits):
            assert part.values.dtype == torch.int8


@pytest.mark.parametrize("kind", ["gate", "single"])
def test_a_converted_network_with_large_layers(kind):
    net = converted(kind)
    stream, frames = prernn.Stream(net), torch.randn(6, *net.frame_shape)
    assert integers_in(stream._runs) == (4 if kind == "gate" else 2)  # W_hh, the layer and its copies
    plain = prernn.Stream(net, precision="float32")
    torch.testing.assert_close(outputs(stream, frames), outputs(plain, frames), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_does_and_is_left_as_it_was(tmp_path):
    net = converted()
    prernn.save(net, tmp_path)
    stream = prernn.Stream(tmp_path)
    frames = torch.randn(4, *net.frame_shape)
    out = outputs(stream, frames)
    assert integers_in(stream._runs)
    loaded = stream.net
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert total_weights(loaded) == total_weights(net)
    assert not any(isinstance(part, FewBits) for part in loaded.modules())
    assert {name: p.requires_grad for name, p in loaded.named_parameters()} == {
        name: p.requires_grad for name, p in net.named_parameters()
    }
    prernn.save(loaded, tmp_path / "again")
    torch.testing.assert_close(outputs(prernn.Stream(tmp_path / "again"), frames), out)
    assert [row.weights for row in prernn.quantization_report(loaded)] == [
        row.weights for row in prernn.quantization_report(net)
    ]
    memory = {tensor.data_ptr() for tensor in loaded.parameters()}
    shared = [tensor for tensor in stream._runs._few.stepper.parameters() if tensor.data_ptr() not in memory]
    assert not shared


def test_many_streams_and_other_backends_take_the_floats():
    net = quantized_network()
    runs = TorchNetwork(net, integers=True)
    for rows in (1, FEW, FEW + 1):
        frame = torch.randn(rows, *net.frame_shape)
        with torch.no_grad():
            torch.testing.assert_close(runs.step(frame), net.step(frame), rtol=1e-4, atol=1e-5)
    with prernn.ops.using("reference"):
        assert TorchNetwork(net, integers=True)._few is not runs._few
    with pytest.raises(ValueError, match="expected"):
        runs.step(torch.randn(3))


def test_a_stream_follows_weights_that_change():
    net = quantized_network()
    stream, frame = prernn.Stream(net), torch.randn(net.frame_shape)
    stream(frame)
    (layer,) = net.recurrent_layers
    weight = layer.hidden_to_hidden
    with torch.no_grad():
        weight.weight.mul_(0.5)  # no longer counts times the scale
    stream.reset()
    assert not any(isinstance(part, FewBits) for part in stream._runs._few.stepper.recurrent_layers)
    outputs(stream, [frame, frame])
    plain = prernn.Stream(net, precision="float32")
    stream.reset()
    torch.testing.assert_close(outputs(stream, [frame, frame]), outputs(plain, [frame, frame]), rtol=1e-4, atol=1e-5)
    weight.weight = torch.nn.Parameter(torch.zeros_like(weight.weight))
    stream.reset()
    plain.reset()
    torch.testing.assert_close(outputs(stream, [frame, frame]), outputs(plain, [frame, frame]), rtol=1e-4, atol=1e-5)


def test_counts_beyond_8_bits_and_changed_weights_stay_floats():
    large = quantized_network(samples_per_weight=2000.0)
    (layer,) = large.recurrent_layers
    assert int(layer.hidden_to_hidden.weight_counts.abs().max()) > 127
    stream, frames = prernn.Stream(large), torch.randn(3, *large.frame_shape)
    torch.testing.assert_close(
        outputs(stream, frames), outputs(prernn.Stream(large, precision="float32"), frames), rtol=1e-4, atol=1e-5
    )
    (inside,) = stream._runs._few.stepper.recurrent_layers
    assert not isinstance(inside.hidden_to_hidden.weight, torch.nn.Module)


def test_what_is_not_quantized_is_read_as_it_is():
    net = prernn.traditional(prepare(FcNet()).float(), cell="gru", hidden_size=160, hidden="full").eval()
    runs = TorchNetwork(net, integers=True)
    assert runs._few is runs._ready
    small = prernn.low_precision(copy.deepcopy(net))
    runs = TorchNetwork(small, integers=True)
    assert runs._few is runs._ready
