"""Normalized networks and inference with integers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import prernn
from prernn.models.backbones import backbone
from prernn.ops.backends import kernels, missing
from prernn.sparsity.normalize import normalized
from prernn.sparsity.quantization.counts import SCALES
from prernn.sparsity.quantization.integer_network import IntegerLayer, integer_network
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from prernn.sparsity.quantization.weights import weights_of
from quantized_cnn import small_cnn


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


def test_few_rows_meet_the_integers_in_the_kernel(monkeypatch):
    layers = nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 7, bias=False))
    for scale in SCALES:
        quantized = quantize(layers, 4.0, scale=scale)
        integers = integer_network(quantized)
        for rows in (1, 3, 40):
            x = torch.randn(rows, 300)
            torch.testing.assert_close(integers(x), quantized(x), rtol=1e-4, atol=1e-5)
    if missing("native") is None:
        used = []
        product = kernels("native").narrow_product
        monkeypatch.setattr(kernels("native"), "narrow_product", lambda *a: used.append(1) or product(*a))
        integers(torch.randn(2, 300))
        layers = [part for part in integers.modules() if isinstance(part, IntegerLayer)]
        assert len(used) == sum(layer.counts.dtype == torch.int8 for layer in layers)
        assert used


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
