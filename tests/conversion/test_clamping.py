"""ReLU6 that keeps its result: outputs and gradients to the last bit, and less memory."""

import copy
import pickle

import pytest
import torch
from torch import nn

import prernn
from prernn.conversion.lighter.clamping import clamps_of, from_result
from prernn.conversion.modes import freeze_statistics


class Clamping(nn.Module):
    """A CNN with ReLU6 and Hardtanh in place and not, one followed by a module that overwrites its result."""

    def __init__(self, inplace):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.norm = nn.BatchNorm2d(8)
        self.relu6, self.hard = nn.ReLU6(inplace), nn.Hardtanh(-0.5, 0.25, inplace)
        self.last, self.over = nn.ReLU6(inplace), nn.LeakyReLU(0.5, inplace=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu6(self.norm(self.conv1(x)))
        x = x + self.hard(self.conv2(x))
        x = self.over(self.last(self.conv3(x)))
        return self.fc(x.mean((2, 3)))


def converted(inplace, dtype=torch.float64):
    torch.manual_seed(0)
    net = prernn.convert(Clamping(inplace).to(dtype).eval(), "fc", cell="gru").train()
    freeze_statistics(net)
    return net


def gradients(net, video):
    net.zero_grad()
    net(video)[0].square().sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def saved_bytes(net, video):
    kept = {}

    def pack(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = net(video)[0]
    del out
    return sum(kept.values())


@pytest.mark.parametrize("inplace", [True, False])
def test_gradients_are_the_same_and_less_is_kept(inplace):
    net, video = converted(inplace), 4 * torch.randn(2, 3, 3, 16, 16, dtype=torch.float64)
    plain = copy.deepcopy(net)
    net(video)  # which finds what can be folded
    plain._foldable = [tuple(plain.get_submodule(name) for name in pair) for pair in names(net)]
    found, expected = gradients(net, video), gradients(plain, video)
    assert len(net._clamps) == 2  # what is overwritten keeps torch's way
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # one map of 8 channels, 16 x 16, in float64: the next convolution reads the one, an addition keeps nothing
    assert saved_bytes(plain, video) - saved_bytes(net, video) == 2 * 3 * 8 * 16 * 16 * 8


def names(net):
    """The pairs that are folded, by their names."""
    known = {id(part): name for name, part in net.named_modules()}
    return [[known[id(part)] for part in pair] for pair in net._foldable]


def test_second_derivatives_and_limits_are_those_of_torch():
    part = nn.Hardtanh(-1.0, 2.0, inplace=True)
    x = torch.tensor([-2.0, -1.0, 0.5, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    with from_result([part]):
        (own,) = torch.autograd.grad(part(x * x.sign()).pow(3).sum(), x, create_graph=True)
        assert torch.autograd.gradgradcheck(lambda x: part(x * 1.5).pow(2), x.detach().clone().requires_grad_())
    (known,) = torch.autograd.grad(part(x * x.sign()).pow(3).sum(), x, create_graph=True)
    assert torch.equal(own, known)
    assert "forward" not in vars(part)


def test_torch_func_and_pickles_see_nothing_of_it():
    net, video = converted(True), torch.randn(1, 2, 3, 16, 16, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(net, parameters, video)[0].square().sum()

    expected = gradients(net, video)
    for name, value in torch.func.grad(loss)(parameters).items():
        torch.testing.assert_close(value, expected[name])
    again = pickle.loads(pickle.dumps(net))
    assert again._clamps == []
    assert len(clamps_of(again.cnn)) == len(clamps_of(net.cnn)) == 2
