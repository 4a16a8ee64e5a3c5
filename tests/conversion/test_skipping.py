"""Layers that leave out products with zeros give what they gave."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import prernn
from equations import close
from prernn import ops
from prernn.conversion.lighter import skipping
from prernn.conversion.lighter.low_precision import low_precision
from prernn.conversion.lighter.skipping import FEW, FEW_PICTURES, SkippingConv2d, SkippingLinear, skip, skip_zeros

pytestmark = pytest.mark.usefixtures("small_layers")
NATIVE = ops.missing("native") is None


@pytest.fixture
def small_layers(monkeypatch):
    monkeypatch.setattr(skipping, "LEAST", 1)


def test_small_layers_stay(monkeypatch):
    monkeypatch.setattr(skipping, "LEAST", 50)
    net = nn.Sequential(nn.Linear(7, 7), nn.Conv2d(9, 9, 3, padding=1), nn.Linear(8, 8))
    assert [type(part) for part in skip_zeros(net)] == [nn.Linear, nn.Conv2d, SkippingLinear]
    assert type(net[2]) is nn.Linear


def behind_relu(*shape):
    return torch.randn(shape).relu()


class Spy:
    """Counts the calls of the kernels."""

    def __init__(self, monkeypatch):
        self.calls, real = 0, skipping.kernels

        def kernels(name):
            self.calls += 1
            return real(name)

        monkeypatch.setattr(skipping, "kernels", kernels)


@pytest.mark.parametrize("shape", [(40,), (1, 40), (0, 40), (2, 3, 40), (FEW, 40), (FEW + 1, 40), (3, 0, 40)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_what_it_gave(shape, bias):
    layer = nn.Linear(40, 30, bias=bias)
    made, x = skip_zeros(nn.Sequential(layer))[0], behind_relu(*shape)
    assert type(made) is SkippingLinear
    with torch.no_grad():
        for given in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
            torch.testing.assert_close(made(given), layer(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("shape", [(5, 9, 8), (1, 5, 9, 8), (0, 5, 9, 8), (FEW_PICTURES + 1, 5, 9, 8)], ids=str)
def test_a_convolution_gives_what_it_gave(shape, side):
    conv = nn.Conv2d(5, 7, side, padding=side // 2)
    made, x = copy.deepcopy(conv), behind_relu(*shape)
    assert skip(made, 0.2)
    with torch.no_grad():
        torch.testing.assert_close(made(x), conv(x), rtol=1e-5, atol=1e-5)
        made.weight.mul_(2)  # the copy that the kernel reads is made anew
        torch.testing.assert_close(made(x) - made.bias.view(-1, 1, 1), 2 * (conv(x) - conv.bias.view(-1, 1, 1)))
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert "_kept" not in vars(again)
        with torch.no_grad():
            close(again(x), made(x), atol=0)


@pytest.mark.skipif(not NATIVE, reason="no C kernels")
def test_the_kernels_are_taken_where_they_pay(monkeypatch):
    spy, layer, conv = Spy(monkeypatch), nn.Linear(8, 8), nn.Conv2d(2, 2, 3, padding=1)
    assert skip(layer)
    assert skip(conv, 0.3)
    with torch.no_grad():
        layer(torch.ones(FEW, 8))
        conv(torch.ones(FEW_PICTURES, 2, 15, 15))
        assert spy.calls == 3  # one packs the weight
        layer(torch.ones(FEW + 1, 8))
        conv(torch.ones(1, 2, 16, 16))  # large maps pay with fewer activations
        conv(torch.ones(FEW_PICTURES + 1, 2, 4, 4))
        with ops.using("reference"):
            layer(torch.ones(1, 8))
        copy.deepcopy(layer).double()(torch.ones(1, 8).double())
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.ones(1, 8))
    layer(torch.ones(1, 8))  # whose weight wants a gradient
    assert spy.calls == 3


def test_gradients_are_as_before():
    layer, x = nn.Linear(6, 4), torch.randn(2, 6, requires_grad=True)
    made = skip_zeros(nn.Sequential(layer))[0]
    for each in (layer, made):
        each(x).square().sum().backward()
    close(made.weight.grad, layer.weight.grad, atol=1e-6)
    close(x.grad, 2 * torch.autograd.grad(layer(x).square().sum(), x)[0], atol=1e-5)


def test_layers_that_can_not_skip_stay():
    odd = [
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 4, 3, padding=1),
        parametrizations.weight_norm(nn.Linear(4, 4)),
        torch.nn.utils.spectral_norm(nn.Linear(4, 4)),
    ]
    for layer in odd:
        kind = type(layer)
        assert not skip(layer, 0.1)
        assert type(layer) is kind
    assert not skip(nn.Conv2d(4, 4, 3, padding=1), 0.9)
    assert skip(conv := nn.Conv2d(4, 4, 3, padding="same"), 0.1)
    assert type(conv) is SkippingConv2d


def test_tied_weights_stay_tied():
    net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9, bias=False))
    net[1].weight = net[0].weight
    made, words = skip_zeros(net), torch.tensor([[1, 5]])
    assert made[0].weight is made[1].weight
    with torch.no_grad():
        close(made(words), net(words), atol=1e-6)


def test_a_network_is_saved_traced_and_made_smaller(tmp_path):
    cnn = prernn.backbone("small_vgg", width=2, units=150, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", input="single", hidden="diagonal", outputs=3).eval()
    made, frames = skip_zeros(net), torch.randn(1, 3, 3, 16, 16)
    with torch.no_grad():
        expected = net(frames)[0]
        close(made(frames)[0], expected, atol=1e-5)
        prernn.save(made, tmp_path)
        close(prernn.load(tmp_path)(frames)[0], expected, atol=1e-5)
        close(low_precision(made, "bfloat16")(frames)[0], expected, atol=2e-2)
        close(prernn.quantize(made, 4.0)(frames)[0], prernn.quantize(net, 4.0)(frames)[0], atol=1e-5)
        stream = prernn.Stream(made)
        close(torch.stack([stream(frame) for frame in frames[0]]), expected[0], atol=1e-5)
    prernn.export(made, tmp_path / "net.pt2", format="torch")
