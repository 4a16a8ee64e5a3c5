"""Backbones for other channels than three."""

import pytest
import torch
from torch import nn

from prernn.models import checkpoint
from prernn.models.backbones import DEFAULT_BACKBONE, backbone, input_spec
from prernn.models.from_config import NetworkSpec
from prernn.models.weight_files import adapt_channels, first_convolution


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", (32, 32)),
        ("squeezenet1_1", (64, 64)),
        ("vit_b_16", (224, 224)),
        ("timm/resnet18", (32, 32)),
        (DEFAULT_BACKBONE, (33, 32)),  # timm's convolution with TensorFlow's padding
        ("timm/mobilenetv3_small_050", (32, 32)),
        ("c3d", (16, 112, 112)),
        ("r3d_18", (4, 32, 32)),
    ],
)
def test_networks_of_all_libraries_take_other_channels(name, size):
    model = backbone(name, channels=20, device="meta").eval()
    assert model(torch.empty(1, 20, *size, device="meta")).shape[0] == 1
    assert input_spec(model)["mean"] == pytest.approx([sum(input_spec(name)["mean"]) / 3] * 20)
    assert len(input_spec(model)["std"]) == 20


@pytest.mark.parametrize("kind", ["plain", "3d", "timm", "biased"])
@pytest.mark.parametrize(("channels", "factor"), [(20, 20 / 3), (4, 4 / 3), (2, 1), (1, 1)])
def test_equal_channels_give_a_grey_picture_times_the_stated_factor(kind, channels, factor):
    torch.manual_seed(0)
    if kind == "3d":
        conv = nn.Conv3d(3, 5, (2, 3, 3), stride=(1, 2, 2), padding=(1, 0, 2), bias=False)
    elif kind == "timm":
        from timm.layers import Conv2dSame

        conv = Conv2dSame(3, 5, 3, stride=2, bias=False)
    else:
        conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2, bias=kind == "biased", padding_mode="reflect")
    conv = conv.double()
    grey = torch.randn(2, 1, *((4,) if kind == "3d" else ()), 9, 11, dtype=torch.float64)
    before = conv(grey.repeat_interleave(3, dim=1))
    bias = 0 if conv.bias is None else conv.bias[(..., *[None] * (grey.ndim - 2))]
    network = adapt_channels(nn.Sequential(conv), channels)
    assert network[0] is conv
    after = network(grey.repeat_interleave(channels, dim=1))
    torch.testing.assert_close(after - bias, (before - bias) * factor)


def test_adapted_filters_are_the_mean_of_the_colors_by_hand():
    conv = nn.Conv2d(3, 2, 2).requires_grad_(False)
    old = conv.weight.clone()
    adapt_channels(conv, 7)
    assert conv.weight.shape == (2, 7, 2, 2)
    assert not conv.weight.requires_grad
    for c in range(7):
        torch.testing.assert_close(conv.weight[:, c], (old[:, 0] + old[:, 1] + old[:, 2]) / 3)


def test_channels_that_are_there_already_change_nothing():
    conv = nn.Conv2d(3, 2, 2)
    weight = conv.weight
    assert adapt_channels(conv, 3).weight is weight


def test_first_convolutions_that_cannot_be_adapted_are_refused():
    with pytest.raises(NotImplementedError, match="without groups to adapt, got 3 groups"):
        adapt_channels(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), 20)
    with pytest.raises(NotImplementedError, match="Sequential has none"):
        adapt_channels(nn.Sequential(nn.Linear(3, 4)), 20)
    with pytest.raises(NotImplementedError, match="computes its weight"):
        adapt_channels(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), 20)
    with pytest.raises(ValueError, match="expected at least 1 input channel, got 0"):
        adapt_channels(nn.Conv2d(3, 6, 3), 0)


def test_channels_of_a_network_without_training_are_drawn_not_averaged(tmp_path):
    fresh = first_convolution(backbone("squeezenet1_1", channels=4)).weight
    assert not torch.equal(fresh[:, 0], fresh[:, 1])
    torch.save(backbone("squeezenet1_1").state_dict(), tmp_path / "w.pt")
    loaded = first_convolution(backbone("squeezenet1_1", weights=tmp_path / "w.pt", channels=4)).weight
    assert torch.equal(loaded[:, 0], loaded[:, 1])


def test_a_recipe_keeps_its_channels(tmp_path):
    recipe = NetworkSpec(backbone="squeezenet1_1", channels=20, method="traditional", hidden_size=8, hidden="diagonal")
    net = recipe.build(3).eval()
    assert net.recipe.channels == 20
    checkpoint.save(net, tmp_path)
    again = checkpoint.load(tmp_path)
    frames = torch.rand(2, 3, 20, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(frames)[0], net(frames)[0])
    assert NetworkSpec(backbone="squeezenet1_1", method="framewise").build(3).recipe.channels is None
