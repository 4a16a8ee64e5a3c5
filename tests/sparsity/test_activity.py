"""The report of online sparsity."""

import pytest
import torch
from torch import nn

import prernn
from prernn.sparsity.activity import activation_report
from prernn.sparsity.online import online_sparsity
from sampled_layers import DOUBLE, Layers, pictures
from small_cnns import ResidualNet, film, prepare


class Two(nn.Module):
    """A convolution without padding and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.unused, self.fc = nn.Conv2d(1, 2, 2), nn.Linear(3, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.conv(x).relu().flatten(1))


def test_report_of_two_layers_by_hand():
    net = Two().double()
    with torch.no_grad():
        net.conv.weight.fill_(1)
        net.conv.bias.copy_(torch.tensor([0.0, -100.0]))  # the second map is zero after ReLU
    picture = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]], **DOUBLE)[None, None]
    sampled = online_sparsity(net, 2 / 9, 1 / 8, start=0)
    conv, fc = activation_report(sampled, torch.cat([picture, 2 * picture])).layers
    # two samples of two equal activations draw both; the corner meets one output of each map, the center four
    assert (conv.name, conv.inputs, conv.samples) == ("conv", 9, 2)
    assert (conv.non_zero, conv.used) == (pytest.approx(2 / 9), pytest.approx(2 / 9))
    assert (conv.multiply_adds, conv.remaining) == (2 * 4 * 4, 2 * (1 + 4))
    # four of eight activations (8, 4, 4 and 4) are not zero, and one sample draws one
    assert (fc.name, fc.inputs, fc.samples) == ("fc", 8, 1)
    assert (fc.non_zero, fc.used, fc.multiply_adds, fc.remaining) == (0.5, 0.125, 24, 3)


def test_averages_are_of_the_sampled_layers_and_sums_of_all():
    net = Two().double()
    x = torch.randn(3, 1, 3, 3, **DOUBLE)
    report = activation_report(online_sparsity(net, 0.5, 0.25), x)
    conv, fc = report.layers
    assert (conv.samples, conv.used, conv.non_zero) == (None, 1, 1)
    assert conv.remaining == conv.multiply_adds == 32
    assert (report.non_zero, report.used, report.used_of_non_zero) == (fc.non_zero, fc.used, fc.used / fc.non_zero)
    assert (report.multiply_adds, report.remaining) == (32 + 24, pytest.approx(32 + 24 * fc.used))
    dense = activation_report(net, x)
    assert dense.used == dense.non_zero == pytest.approx((1 + dense.layers[1].non_zero) / 2)
    assert dense.used_of_non_zero == 1
    assert not any(layer._forward_pre_hooks for layer in net.modules())
    lines = report.table().splitlines()
    assert lines[0].split() == ["layer", "inputs", "samples", "non-zero", "used", "multiply-adds", "remaining"]
    assert lines[1].split() == ["conv", "9", "100.00%", "100.00%", "32", "32"]
    assert [line.split()[0] for line in lines[2:]] == ["fc", "all"]
    assert lines[2].split()[1:3] == ["8", "2"]


def test_padding_is_not_counted_and_groups_are():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False)).double()
    ones = torch.ones(2, 4, 2, 2, **DOUBLE)
    (layer,) = activation_report(net, ones).layers
    # each of four places meets all four, in two channels of the group of each of six outputs
    assert layer.multiply_adds == layer.remaining == 4 * 4 * 2 * 6
    ones[:, 0] = 0
    (layer,) = activation_report(net, ones).layers
    assert (layer.multiply_adds, layer.remaining) == (4 * 4 * 2 * 6, 4 * 4 * (1 * 3 + 2 * 3))


def test_report_counts_every_gate():
    frames = film(batch=2, steps=3)
    single, gates = (
        activation_report(prernn.convert(prepare(ResidualNet()), cell="gru", input=input, image_size=(8, 8)), frames)
        for input in ("single", "gate")
    )
    name = "conv3"
    one, three = (next(layer for layer in report.layers if layer.name == name) for report in (single, gates))
    assert (one.multiply_adds, three.multiply_adds) == (6 * 12, 3 * 6 * 12)  # behind the pooling, at one place
    assert three.inputs == 6 * 4 * 4


def test_shares_hold_on_a_sampled_network():
    report = activation_report(online_sparsity(Layers().double(), 0.2, 0.2, start=0), pictures(8))
    for layer in report.layers:
        assert 0 < layer.used <= min(layer.non_zero, layer.samples / layer.inputs)
        assert layer.remaining < layer.multiply_adds
