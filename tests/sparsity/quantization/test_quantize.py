"""Instant quantization of networks: arguments, copies, every kind of layer, files, streams."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import prernn
from prernn.models.backbones import backbone
from prernn.sparsity.quantization.counts import MOST_SAMPLES, SAMPLERS, SCALES
from prernn.sparsity.quantization.integer_network import integer_network
from prernn.sparsity.quantization.packing import load_quantized, save_quantized
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from prernn.sparsity.quantization.weights import weights_of
from quantized_cnn import small_cnn
from small_cnns import FcNet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_weight": -1}, "from 0 on"),
        ({"samples_per_weight": math.nan}, "from 0 on"),
        ({"sampler": "halton"}, "systematic, jittered"),
        ({"scale": "gate"}, "layer, neuron"),
        ({"order": "size"}, "sign, natural"),
        ({"allocation": math.inf}, "allocation"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        quantize(nn.Linear(3, 2), **options)


def test_wrong_modules_are_named():
    with pytest.raises(ValueError, match="weights to quantize"):
        quantize(nn.ReLU())
    with pytest.raises(ValueError, match="already"):
        quantize(quantize(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="quantized module"):
        quantization_report(nn.Linear(3, 2))
    broken = nn.Linear(3, 2)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(ValueError, match="finite"):
        quantize(broken)


def test_a_copy_with_integers_beside_its_weights():
    net = small_cnn()
    before = copy.deepcopy(net.state_dict())
    quantized = quantize(net, 2.0, seed=1)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    for weight in weights_of(quantized):
        assert weight.counts.dtype == torch.int8
        assert torch.equal(weight.values, weight.counts * weight.scale)
        assert not weight.values.requires_grad
    assert torch.equal(quantized[0].bias, net[0].bias)
    for a, b in zip(quantized.state_dict().values(), quantize(net, 2.0, seed=1).state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(quantized[0].weight, quantize(net, 2.0, seed=2)[0].weight)


def test_samples_are_shared_out():
    net = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 100), nn.Linear(100, 100))
    for allocation in (0.0, 1 / 3, 0.5):
        rows = quantization_report(quantize(net, 3.0, allocation=allocation)).rows
        assert sum(row.samples for row in rows) == pytest.approx(3 * sum(row.weights for row in rows), abs=2)
        each = [row.samples / row.weights for row in rows]
        assert each[0] / each[2] == pytest.approx(100**allocation, rel=0.02)
    (row,) = quantization_report(quantize(nn.Linear(7, 9), 1.5)).rows
    assert row.samples == round(1.5 * 63)


def test_a_report_counts():
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -1.0, 0.0, 0.0]]))
    report = quantization_report(quantize(nn.Sequential(layer), 1.0, scale="neuron"))
    (row,) = report.rows
    assert (row.name, row.weights, row.samples, row.bits, row.nonzero, row.scale) == ("0.weight", 4, 4, 3, 0.5, 1.0)
    assert (report.bits, report.nonzero, report.weights) == (3, 0.5, 4)
    assert "0.weight" in report.table()
    ternary = quantization_report(quantize(nn.Linear(64, 64), 0.2))
    assert ternary.bits <= 2
    assert ternary.nonzero < 0.25


STRUCTURES = ("full", "diagonal", "band:3", "grouped:2", "sparse:0.3", "paths:2", "paths:2+self")


@pytest.mark.parametrize("hidden", STRUCTURES)
@pytest.mark.parametrize("scale", SCALES)
def test_recurrent_structures(hidden, scale, tmp_path):
    torch.manual_seed(0)
    make = lambda: prernn.GRU(4, 8, hidden=hidden, num_layers=2, bidirectional=True)  # noqa: E731
    layer = make()
    quantized = quantize(layer, 3.0, scale=scale)
    structure = prernn.hidden_structure(hidden)
    for row in quantization_report(quantized):
        if row.name.startswith("weight_hh"):
            assert row.weights == 3 * structure.weight_count(8)
    for number in (0, 1):
        dense, before = (each.hidden_matrix(number) for each in (quantized, layer))
        assert not dense[:, ~structure.mask(8)].any()
        assert (dense - before).abs().max() < 1.5 * before.abs().max()
        assert ((dense == 0) | (dense.sign() == before.sign())).all()
    loaded = load_quantized(make(), save_quantized(quantized, tmp_path / "q.safetensors"))
    for a, b in zip(quantized.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_torch_and_path_layers():
    net = nn.ModuleList([nn.LSTM(3, 4), prernn.PathLinear(8, 8, 20), prernn.PathConv2d(4, 4, 3, 6)])
    report = quantization_report(quantize(net, 2.0))
    weights = {row.name: row.weights for row in report}
    assert weights == {"0.weight_ih_l0": 48, "0.weight_hh_l0": 64, "1.weight": 20, "2.weight": 54}


def test_broken_files_are_named(tmp_path):
    net = quantize(nn.Linear(6, 5), 2.0)
    path = save_quantized(net, tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match="another network"):
        load_quantized(nn.Linear(7, 5), path)
    with pytest.raises(ValueError, match="another network"):
        load_quantized(nn.Sequential(nn.Linear(6, 5)), path)
    with pytest.raises(ValueError, match="safetensors"):
        load_quantized(nn.Linear(6, 5), tmp_path / "absent.safetensors")


@pytest.mark.parametrize(("input", "hidden"), [("single", "band:5"), ("gate", "full"), ("single", "paths:4")])
def test_a_quantized_network_streams_and_is_kept(input, hidden, tmp_path):
    torch.manual_seed(0)
    options = {"classes": 10, "size": 32, "width": 4, "units": 16}
    net = prernn.convert(backbone("small_vgg", **options), cell="gru", input=input, hidden=hidden, outputs=5).eval()
    net.recipe = replace(net.recipe, backbone="small_vgg", backbone_options=options)
    quantized = quantize(net, 2.0)
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode():
        whole, _ = quantized(video)
        state, steps = None, []
        for t in range(4):
            out, state = quantized.step(video[:, t], state)
            steps.append(out)
        torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-5, atol=1e-6)
        loaded = prernn.load(prernn.save(quantized, tmp_path / "q"))
        assert torch.equal(loaded(video)[0], whole)
    assert quantization_report(loaded).rows == quantization_report(quantized).rows
    plain, packed = (prernn.save(each, tmp_path / name).stat().st_size for each, name in ((net, "a"), (quantized, "b")))
    assert packed < 0.5 * plain
    names = {row.name for row in quantization_report(quantized)}
    assert any("hidden_to_hidden" in name for name in names)
    assert any("copies" in name for name in names) == (input == "gate")


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_shared_is_kept_once(whole, tmp_path):
    def build():
        layers = [nn.Linear(40, 40), nn.Linear(40, 40)]
        layers[1].weight = layers[0].weight
        return nn.Sequential(layers[0], nn.ReLU(), layers[0] if whole else layers[1])

    torch.manual_seed(0)
    quantized = quantize(build(), 2.0)
    path = save_quantized(quantized, tmp_path / "q.safetensors")
    assert path.stat().st_size < 40 * 40 + 1200  # 5 bits a weight, once
    x = torch.randn(2, 40)
    assert torch.equal(load_quantized(build(), path)(x), quantized(x))


def test_half_precision():
    torch.manual_seed(0)
    assert quantize(nn.Linear(2, 2).half(), 1e5).weight.isfinite().all()
    net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4)).half()
    quantized, x = quantize(net, 8.0), 500 * torch.rand(3, 512).half()  # sums of integers leave the range
    assert (quantized[0].weight_counts.float() @ x[0].float()).abs().max() > torch.finfo(torch.float16).max
    torch.testing.assert_close(integer_network(quantized)(x), quantized(x), rtol=1e-2, atol=0.1)


def test_what_a_band_never_uses_may_be_anything():
    """Corners of a band's weight, outside the matrix."""
    for layer in (prernn.VRNN(3, 6, hidden="band:5"), prernn.convert(FcNet(), hidden="band:5", image_size=(8, 8))):
        hidden = layer if isinstance(layer, prernn.VRNN) else layer.recurrent_layers[0].hidden_to_hidden
        name = "weight_hh_l0" if hidden is layer else "weight"
        with torch.no_grad():
            getattr(hidden, name).view(-1, 5)[0, 0] = 0.0
        expected = quantize(layer, 3.0).state_dict()
        for junk in (math.nan, math.inf, 1e30):
            with torch.no_grad():
                getattr(hidden, name).view(-1, 5)[0, 0] = junk
            for key, value in quantize(layer, 3.0).state_dict().items():
                assert torch.equal(value, expected[key]), key
        with torch.no_grad():
            getattr(hidden, name).view(-1, 5)[0, 2] = math.nan
        with pytest.raises(ValueError, match=rf"{name}: expected finite weights"):
            quantize(layer, 3.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scale", SCALES)
def test_more_samples_than_can_be_counted_are_refused(sampler, scale):
    layer = nn.Linear(4, 4)
    for samples in (1e18, 10**18, 1e300, 1e308):
        with pytest.raises(ValueError, match=r"weight: expected at most [0-9,]+ samples of a layer, got [0-9.e+inf]+"):
            quantize(layer, samples, sampler=sampler, scale=scale)


@pytest.mark.parametrize("scale", SCALES)
def test_the_most_samples_are_reported_and_loaded(scale, tmp_path):
    layer = nn.Linear(4, 4, dtype=torch.float64)
    small = quantize(layer, MOST_SAMPLES / 16, scale=scale)
    assert quantization_report(small).samples == pytest.approx(MOST_SAMPLES, abs=16)
    torch.testing.assert_close(small.weight, layer.weight, rtol=0, atol=1e-13)
    loaded = load_quantized(nn.Linear(4, 4, dtype=torch.float64), save_quantized(small, tmp_path / "q.safetensors"))
    assert torch.equal(loaded.weight, small.weight)


def test_weights_whose_sum_leaves_their_type_are_refused():
    layer = nn.Linear(4, 4)
    nn.init.constant_(layer.weight, 3e38)
    with pytest.raises(
        ValueError, match=r"weight: expected weights whose magnitudes add up to a number of torch.float32"
    ):
        quantize(layer, 0.1)


def test_the_projection_of_an_lstm_is_quantized():
    ours, theirs = prernn.LSTM(3, 6, proj_size=2, bidirectional=True), nn.LSTM(3, 6, proj_size=2, bidirectional=True)
    for layer in (ours, theirs):
        names = [row.name for row in quantization_report(quantize(layer, 2.0)).rows]
        assert sorted(names) == sorted(name for name, _ in layer.named_parameters() if name.startswith("weight"))
