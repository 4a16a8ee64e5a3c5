"""Factors of neurons: through what they go, what meets has one, and where they stop."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.normalize import fold_batch_norm, graph_of, layers_of, normalized, normalized_outputs
from prernn.sparsity.quantization.quantize import quantize

EXACT = {"rtol": 1e-11, "atol": 1e-11}


def norms(graph):
    """The 1-norms of each layer's neurons, by its name."""
    return {str(node.target): layer.weight.flatten(1).abs().sum(1) for node, layer in layers_of(graph).items()}


def folded(net):
    _, graph = graph_of(net)
    fold_batch_norm(graph)
    return graph


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


class Doubled(nn.Module):
    """An addition of what one layer gives to itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h + F.leaky_relu(h))


def unchanged(net):
    """The normalized network of four inputs, after a check that it computes the same."""
    other = normalized(net)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    return other


def test_what_meets_in_an_addition_keeps_its_scale():
    torch.manual_seed(0)
    net = Shortcut().double()
    other = unchanged(net)
    for name in "abcd":  # c goes into a sigmoid, d to the outputs
        assert torch.equal(other.get_submodule(name).weight, net.get_submodule(name).weight)


def test_what_meets_itself_has_its_own_factor():
    torch.manual_seed(0)
    other = unchanged(Doubled().double())
    assert is_one(norms(other)["a"])


@pytest.mark.parametrize(
    "between",
    [lambda h: h + 1, lambda h: h * h, lambda h: torch.tanh(h), lambda h: h.flip(1), lambda h: h[:, :1]],
    ids=["a number", "a product", "tanh", "other places", "one for all"],
)
def test_factors_stop_where_they_can_not_go(between):
    torch.manual_seed(0)
    net = Shortcut(between).double()
    other = unchanged(net)
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
    assert is_one(own["d"])
    for name in "abc":  # four channels of c meet zeros alone, and keep step with the others
        torch.testing.assert_close(own[name], norms(folded(net))[name], **EXACT)


def residual_network(depth):
    torch.manual_seed(0)
    net = CifarResNet(depth).double()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    return net.eval()


@pytest.mark.parametrize("depth", [8, 20])
def test_residual_networks(depth):
    """Densities are the first convolutions of the blocks; what adds to shortcuts keeps its scale."""
    net = residual_network(depth)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    other = normalized(net)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    dense = [name for name, own in norms(other).items() if is_one(own)]
    assert dense == [name for name in norms(other) if name.startswith("layer") and name.endswith("conv1")]
    assert len(dense) == (depth - 2) // 2
    torch.testing.assert_close(norms(other)["conv1"], norms(folded(net))["conv1"], **EXACT)
    again, factors = normalized_outputs(net)
    torch.testing.assert_close(again(x) * factors, net(x), **EXACT)
    assert is_one(list(norms(again).values())[-1])
    assert factors.shape == (10,)
    assert (factors != 1).all()


@pytest.mark.parametrize("scale", ["layer", "neuron"])
def test_a_residual_network_with_a_faint_channel_can_be_quantized(scale):
    """The faint channel is added to by others that are not: it can be no measure of them."""
    net = residual_network(8)
    net.bn1.weight.data[3] *= 1e-4
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = net(x).detach()

    def error(module):
        return float((quantize(module, 2, scale=scale)(x) - expected).detach().norm() / expected.norm())

    assert error(normalized(net)) < 2 * error(net)


def test_outputs_that_are_no_layers_are_refused():
    with pytest.raises(NotImplementedError, match="outputs are a layer's"):
        normalized_outputs(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)))
