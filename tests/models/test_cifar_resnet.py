"""CIFAR's residual networks, and what quantization makes of the trained ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import footage
import prernn
from prernn.models.backbones import backbone, input_spec
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.quantization.quantize import quantization_report, quantize

SHARED = footage.SHARED / "cifar10"


@pytest.mark.parametrize(("depth", "weights"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_layers_and_weights(depth, weights):
    net = CifarResNet(depth)
    layers = [part for part in net.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth
    assert sum(p.numel() for p in net.parameters()) == weights
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_shortcuts_have_no_weights():
    net = CifarResNet(8).double().eval()
    for part in net.modules():
        if isinstance(part, nn.Conv2d) and part is not net.conv1:
            nn.init.zeros_(part.weight)  # only the shortcuts are left
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    before = net.relu(net.bn1(net.conv1(x)))  # (1, 16, 32, 32)
    expected = F.pad(before[:, :, ::4, ::4], (0, 0, 0, 0, 24, 24))  # two halvings, 8 + 16 empty channels at each side
    torch.testing.assert_close(net.layer3(net.layer2(net.layer1(before))), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 21, 22])
def test_a_depth_that_does_not_exist(depth):
    with pytest.raises(ValueError, match=f"6n \\+ 2 layers .*, got {depth}"):
        CifarResNet(depth)


def test_it_is_a_backbone_that_becomes_recurrent():
    cnn = backbone("cifar_resnet20", classes=7).eval()
    assert cnn.input_spec["size"] == input_spec("cifar_resnet20")["size"] == 32
    net = prernn.convert(cnn, cell="gru", input="single", outputs=5).eval()
    assert net.recipe.steps[0].arguments["layer"] == ["layer3.2.conv2"]
    assert net(torch.randn(1, 2, 3, 32, 32))[0].shape == (1, 2, 5)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the trained networks are absent")
def test_few_samples_are_enough():
    """The talk's line of ResNet-20: about 68 % of the weights, 0.67 points lost; here 3 draws on some pictures."""
    from prernn.benchmarks.measuring import cifar

    pictures, labels = cifar.read(SHARED)
    net = cifar.network(SHARED, 20)
    pictures, labels = pictures[:423], labels[:423]
    full = cifar.accuracy(net, pictures, labels)
    lost = []
    for seed in range(3):
        quantized = quantize(net, 1.2, seed=seed)
        report = quantization_report(quantized)
        assert report.bits < 5
        assert report.nonzero < 0.71
        lost.append(full - cifar.accuracy(quantized, pictures, labels))
    assert sum(lost) / 3 < 1.5
    assert full - cifar.accuracy(quantize(net, 1.2, order="natural", allocation=0.0), pictures, labels) > 1.5
