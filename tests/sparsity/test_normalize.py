"""Factors of neurons: through what they go, what meets has one, and where they stop."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.normalize import layers_of, normalized, normalized_outputs

EXACT = {"rtol": 1e-11, "atol": 1e-11}


def norms(graph):
    """The 1-norms of each layer's neurons, by its name."""
    return {str(node.target): layer.weight.flatten(1).abs().sum(1) for node, layer in layers_of(graph).items()}


def is_one(values):
    return torch.allclose(values, torch.ones_like(values))


class Shortcut(nn.Module):
    """An addition of what a layer gives to what it reads, and a sigmoid."""

    def __init__(self, between=lambda h: h):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.between = between

    def forward(self, x):
        h = torch.relu(self.a(x))
        h = self.between(h) + self.b(h).relu()
        return self.d(torch.sigmoid(self.c(h)))


def test_what_meets_in_an_addition_has_one_factor():
    torch.manual_seed(0)
    net = Shortcut().double()
    other = normalized(net)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    own = norms(other)
    assert is_one(own["a"])
    factor = net.a.weight.abs().sum(1)
    torch.testing.assert_close(other.b.weight, net.b.weight * factor / factor.view(-1, 1), **EXACT)  # in and out
    torch.testing.assert_close(other.c.weight, net.c.weight * factor, **EXACT)  # a sigmoid: none of its own
    assert torch.equal(other.d.weight, net.d.weight)


@pytest.mark.parametrize(
    "between",
    [lambda h: h + 1, lambda h: h * h, lambda h: torch.tanh(h), lambda h: h.flip(1), lambda h: h[:, :1]],
    ids=["a number", "a product", "tanh", "other places", "one for all"],
)
def test_factors_stop_where_they_can_not_go(between):
    torch.manual_seed(0)
    net = Shortcut(between).double()
    other = normalized(net)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    assert torch.equal(other.a.weight, net.a.weight)


class Maps(nn.Module):
    """Channels behind each other, channels of zeros, every second place, zeros around."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 12, 3), nn.Conv2d(12, 6, 3, groups=2)
        self.out = nn.Linear(6, 5)

    def forward(self, x):
        h = torch.cat([self.a(x).relu(), F.leaky_relu(self.b(x))], 1)
        h = F.pad(h, (0, 0, 0, 0, 1, 3))[:, :, ::2, ::2] + F.max_pool2d(F.pad(self.c(h), (1, 1, 1, 1)), 2)
        return self.out(F.adaptive_avg_pool2d(self.d(torch.relu(h)), 1).flatten(1))


def test_maps_that_are_joined_filled_up_and_cut():
    torch.manual_seed(0)
    net = Maps().double().eval()
    other = normalized(net)
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    own = norms(other)
    assert all(is_one(own[name]) for name in "abd")
    filled = [0, 9, 10, 11]  # channels of c that meet zeros alone have a factor of their own
    assert is_one(own["c"][filled])
    assert not torch.allclose(own["c"][1:9], torch.ones(8, dtype=torch.float64), rtol=0.05)


@pytest.mark.parametrize("depth", [8, 20])
def test_residual_networks(depth):
    """Densities are the stem and the first convolution of each block; others have the scale of what they add to."""
    torch.manual_seed(0)
    net = CifarResNet(depth).double()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    net.eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    other = normalized(net)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    assert sum(is_one(own) for own in norms(other).values()) == 1 + (depth - 2) // 2
    again, factors = normalized_outputs(net)
    torch.testing.assert_close(again(x) * factors, net(x), **EXACT)
    assert is_one(list(norms(again).values())[-1])
    assert factors.shape == (10,)
    assert (factors != 1).all()


def test_outputs_that_are_no_layers_are_refused():
    with pytest.raises(NotImplementedError, match="outputs are a layer's"):
        normalized_outputs(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)))
