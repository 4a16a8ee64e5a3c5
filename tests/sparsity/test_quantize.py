"""Instant quantization: counting, unbiasedness, convergence, storage, normalization, integers."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prernn
from prernn.models.backbones import backbone
from prernn.sparsity.counts import ORDERS, SAMPLERS, SCALES, bits_of, signed_counts
from prernn.sparsity.integer_network import IntegerLayer, integer_network
from prernn.sparsity.normalize import normalized
from prernn.sparsity.packing import load_quantized, pack, save_quantized, unpack
from prernn.sparsity.quantize import quantization_report, quantize, weights_of

ALL = pytest.mark.parametrize("sampler", SAMPLERS)


def draw(values, samples, seed=0, neuron=None, **options):
    if neuron is None:
        neuron = torch.arange(len(values)).view(-1, *[1] * (values.ndim - 1)).expand(values.shape)
    generator = torch.Generator().manual_seed(seed)
    return signed_counts(values, neuron, samples, generator=generator, **options)


def small_cnn() -> nn.Sequential:
    """Batch normalization, groups, pooling and a flattened map, with statistics that are not trivial."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, groups=4), nn.LeakyReLU(), nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU()),
        nn.Linear(16, 5),
    ).double()
    for _ in range(3):
        net(torch.randn(16, 3, 10, 10, dtype=torch.float64))
    return net.eval()


@ALL
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", ORDERS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_magnitudes_of_the_counts_sum_to_the_samples(sampler, scale, order, data):
    neurons, inputs = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    values = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=neurons * inputs, max_size=neurons * inputs))
    weight = torch.tensor(values, dtype=torch.float64).view(neurons, inputs)
    samples = data.draw(st.integers(1, 50))
    counts, factor = draw(weight, samples, sampler=sampler, scale=scale, order=order)
    assert ((counts == 0) | (counts.sign() == weight.sign())).all()  # a weight keeps its sign, and 0 stays 0
    norms = weight.abs().sum(1)
    if scale == "layer":
        assert counts.abs().sum() == (samples if norms.any() else 0)
        assert math.isclose(float(factor), float(norms.sum()) / samples)
    else:
        each = max(1, round(samples / neurons))
        assert counts.abs().sum(1).tolist() == [each if norm else 0 for norm in norms.tolist()]
        torch.testing.assert_close(factor, norms / each)


@ALL
@pytest.mark.parametrize("scale", SCALES)
def test_counts_are_right_on_average(sampler, scale):
    torch.manual_seed(1)
    weight = torch.randn(3, 5, dtype=torch.float64)
    draws = torch.stack(
        [
            counts * (factor if scale == "layer" else factor[:, None])
            for counts, factor in (draw(weight, 9, seed, sampler=sampler, scale=scale) for seed in range(3000))
        ]
    )
    error = (draws.mean(0) - weight).abs() / (draws.std(0) / 3000**0.5 + 1e-12)
    assert error.max() < 4.5  # standard errors


def test_error_falls_as_it_should():
    """1/sqrt(N) for random samples, 1/N for even ones."""
    torch.manual_seed(2)
    weight = torch.randn(200, dtype=torch.float64)[None]
    errors = {}
    for sampler in SAMPLERS:
        for samples in (400, 6400):
            found = [draw(weight, samples, seed, sampler=sampler) for seed in range(20)]
            squares = [float((counts * factor - weight).square().mean()) for counts, factor in found]
            errors[sampler, samples] = (sum(squares) / len(squares)) ** 0.5
    slope = {name: math.log(errors[name, 400] / errors[name, 6400]) / math.log(16) for name in SAMPLERS}
    assert slope["random"] == pytest.approx(0.5, abs=0.05)
    for name in ("systematic", "jittered"):
        assert slope[name] == pytest.approx(1.0, abs=0.05)
    assert slope["sobol"] > 0.85  # log(N) / N
    for samples in (400, 6400):
        assert errors["systematic", samples] <= errors["jittered", samples] < errors["random", samples]


def test_even_samples_round_up_or_down():
    torch.manual_seed(3)
    weight = torch.randn(4, 30, dtype=torch.float64)
    counts, factor = draw(weight, 200, sampler="systematic")
    assert ((counts - weight / factor).abs() < 1).all()


def test_order_by_sign_keeps_the_sums_of_each_neuron():
    """Even samples err by less than one in a run of neighbours: with signs apart, by less than 3 in a neuron's sum."""
    torch.manual_seed(4)
    weight = torch.randn(20, 400, dtype=torch.float64)
    worst = {}
    for order in ORDERS:
        counts, factor = draw(weight, weight.numel() / 4, order=order)
        worst[order] = float((counts.sum(1) - weight.sum(1) / factor).abs().max())
    assert worst["sign"] < 3
    assert worst["natural"] > 6


def test_no_samples_no_weights_and_single_weights():
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    for scale in SCALES:
        counts, factor = draw(weight, 0, scale=scale)
        assert not counts.any()
        assert not factor.any()
        counts, factor = draw(torch.zeros(2, 3), 7, scale=scale)
        assert not counts.any()
        assert not factor.any()
        counts, factor = draw(weight, 6, scale=scale)
        assert counts[1].tolist() == [0, 0]
    counts, factor = draw(torch.tensor([[-0.5], [0.25]]), 6, scale="neuron")
    assert counts.tolist() == [[-3], [3]]
    assert (counts[:, 0] * factor).tolist() == [-0.5, 0.25]


def test_what_is_outside_a_band_gets_nothing():
    values, neuron = torch.tensor([5.0, 1.0, 1.0, 9.0]), torch.tensor([-1, 0, 1, -1])
    for scale in SCALES:
        counts, factor = draw(values, 4, neuron=neuron, scale=scale)
        assert counts.tolist() == [0, 2, 2, 0]
        assert (factor == 0.5).all()


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


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_packing_is_exact(data):
    low = data.draw(st.integers(-300, 300))
    span = data.draw(st.integers(0, 700))
    values = data.draw(st.lists(st.integers(low, low + span), min_size=1, max_size=40))
    counts = torch.tensor(values)
    packed, layout = pack(counts)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-len(values) * bits_of(counts) // 8)
    assert torch.equal(unpack(packed, layout), counts)


def test_broken_files_are_named(tmp_path):
    net = quantize(nn.Linear(6, 5), 2.0)
    path = save_quantized(net, tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match="another network"):
        load_quantized(nn.Linear(7, 5), path)
    with pytest.raises(ValueError, match="another network"):
        load_quantized(nn.Sequential(nn.Linear(6, 5)), path)
    with pytest.raises(ValueError, match="safetensors"):
        load_quantized(nn.Linear(6, 5), tmp_path / "absent.safetensors")
    packed, layout = pack(torch.tensor([1, 2, 3]))
    for change in ({"bits": 9}, {"shape": [5000]}, {"low": 0.5}, {"bits": -1}):
        with pytest.raises(ValueError, match="expected"):
            unpack(packed, {**layout, **change})


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


def test_normalized_networks_compute_the_same():
    net = small_cnn()
    other = normalized(net)
    x = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(other(x), net(x), rtol=1e-12, atol=1e-12)
    *inner, last = [weight.values.flatten(1).abs().sum(1) for weight in weights_of(other)]
    for norms in inner:
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert (last - 1).abs().min() > 1e-3  # the outputs keep theirs
    assert not any(isinstance(part, nn.BatchNorm2d) for part in other.modules())
    assert isinstance(net[1], nn.BatchNorm2d)


def test_factors_stop_where_they_can_not_be_carried():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            h = torch.relu(self.a(x))
            h = h + self.b(h).relu()
            return self.d(torch.sigmoid(self.c(h)))

    torch.manual_seed(0)
    net = Shortcut().double()
    other = normalized(net)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(other(x), net(x), rtol=1e-12, atol=1e-12)
    for name in "abcd":
        assert torch.equal(getattr(other, name).weight, getattr(net, name).weight)


def test_a_neuron_without_weights_carries_nothing():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        net[0].weight[0] = 0
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(normalized(net)(x), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("carried", [False, True])
def test_integers_give_the_same_outputs(scale, carried):
    net = normalized(small_cnn()) if carried else small_cnn()
    quantized = quantize(net, 20.0, scale=scale)
    integers = integer_network(quantized)
    x = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(integers(x), quantized(x), rtol=1e-12, atol=1e-12)
    layers = [part for part in integers.modules() if isinstance(part, IntegerLayer)]
    assert len(layers) == 4
    assert all(layer.counts.dtype in (torch.int8, torch.int16) for layer in layers)
    if carried:  # one number for each layer, also where every neuron has its own: to the outputs
        assert all((layer.scale == 1).all() for layer in layers[:-1])
        assert not (layers[-1].scale == 1).any()


def test_integers_in_a_recurrent_network():
    torch.manual_seed(0)
    cnn = backbone("small_vgg", classes=10, size=32, width=4, units=16)
    for input in ("single", "gate"):
        quantized = quantize(prernn.convert(cnn, cell="gru", input=input, outputs=5).double().eval(), 4.0)
        integers = integer_network(quantized)
        video = torch.randn(1, 3, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(integers(video)[0], quantized(video)[0], rtol=1e-10, atol=1e-12)
        assert sum(isinstance(part, IntegerLayer) for part in integers.modules()) >= 5
    with pytest.raises(ValueError, match="quantized module"):
        integer_network(cnn)


def exact(net: nn.Module, x: torch.Tensor) -> None:
    torch.testing.assert_close(normalized(net.double().eval())(x), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        # neurons stand last, first, or not where the next layer reads them
        (lambda: [nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)], (5, 3, 8)),
        (lambda: [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(16, 2)], (2, 3, 4, 4)),
        (lambda: [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 2)], (2, 3, 4, 4)),
        (lambda: [nn.Linear(7, 4), nn.ReLU(), nn.Conv1d(4, 2, 1)], (2, 4, 7)),
        (lambda: [nn.Linear(8, 8), nn.ReLU(), nn.MaxPool1d(3, 1, 1), nn.Linear(8, 2)], (2, 8)),
        (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)], (5, 4, 4)),
    ],
)
def test_factors_go_where_the_neurons_are_read(net, shape):
    torch.manual_seed(0)
    module = nn.Sequential(*net())
    for part in module:
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    exact(module, torch.randn(shape, dtype=torch.float64))


def test_one_layer_under_two_names():
    torch.manual_seed(0)
    tied = lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))  # noqa: E731
    net = tied()
    net[2].weight = net[0].weight
    exact(net, torch.randn(3, 4, dtype=torch.float64))
    assert len(list(weights_of(net))) == 1


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


def test_weights_that_are_computed_are_refused():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(NotImplementedError, match="computed from others"):
        quantize(layer)


def test_nothing_to_multiply_as_integers_is_said():
    for net in (nn.Linear(4, 4), prernn.PathNetwork([4, 4, 4], 8)):
        with pytest.raises(NotImplementedError, match="found none"):
            integer_network(quantize(net))


def test_weights_of_no_size_are_left_out():
    net = nn.Sequential(prernn.PathLinear(3, 3, 0), nn.Linear(3, 3))
    assert [row.name for row in quantization_report(quantize(net, scale="neuron"))] == ["1.weight"]


def test_normalized_networks_are_kept_and_integer_ones_made_anew(tmp_path):
    torch.manual_seed(0)
    options = {"classes": 10, "size": 32, "width": 4, "units": 16}
    net = prernn.convert(backbone("small_vgg", **options), cell="lstm", input="single", outputs=5).eval()
    net.recipe = replace(net.recipe, backbone="small_vgg", backbone_options=options)
    quantized = quantize(normalized(net), 2.0)
    video = torch.randn(1, 2, 3, 32, 32)
    loaded = prernn.load(prernn.save(quantized, tmp_path / "q"))
    assert torch.equal(loaded(video)[0], quantized(video)[0])
    with pytest.raises(NotImplementedError, match="integer_network"):
        prernn.save(integer_network(quantized), tmp_path / "i")
    with pytest.raises(ValueError, match="save_quantized"):
        prernn.save(quantize(nn.Linear(3, 3)), tmp_path / "x")


def test_integers_are_sampled_where_the_network_was():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).double()
    sampled = prernn.online_sparsity(quantize(net, 8.0), linear=0.3)
    x = torch.rand(3, 16, dtype=torch.float64)
    torch.testing.assert_close(integer_network(sampled)(x), sampled(x), rtol=1e-12, atol=1e-12)
    assert not torch.equal(sampled(x), quantize(net, 8.0)(x))
