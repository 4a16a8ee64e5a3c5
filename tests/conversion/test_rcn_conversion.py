"""RCN: which convolutions become units, in any CNN, what stays as it is and what is drawn anew."""

import copy
import functools
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torchvision.models import get_model

import prernn
from equations import close
from prernn.conversion.accounting import frame_cost
from prernn.layers.input_to_hidden import GateInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.parse import hidden_structure
from prernn.models.backbones import backbone
from rcn_networks import (
    DOUBLE,
    SMALL,
    converted,
    drawn,
    parameters_of,
    rows_of,
    size_of,
    still,
    trained,
    units,
    written_out,
)
from small_cnns import CNNS, SIZE, ResidualNet, film, prepare

both_inits = pytest.mark.parametrize("init", ["identity", "random"])

# --- which convolutions


@functools.cache
def resnet18_on_meta():
    with torch.device("meta"):
        return get_model("resnet18")


def chosen(layers, **options):
    return list(units(prernn.convert_rcn(resnet18_on_meta(), layers=layers, **options)))


def test_resnet18_has_17_units():
    names = [n for n, m in resnet18_on_meta().named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert chosen(None) == names
    assert len(names) == 17
    assert not any("downsample" in name for name in names)


def test_layers_are_chosen_by_name_pattern_list_or_function():
    fourth = [f"layer4.{i}.conv{j}" for i in (0, 1) for j in (1, 2)]
    assert chosen("layer4.1.conv2") == fourth[-1:]
    assert chosen("layer4.?.conv?") == fourth
    assert chosen("layer4.*") == [*fourth[:2], "layer4.0.downsample.0", *fourth[2:]]
    assert chosen(["layer4.1.conv2", "conv1", "layer4.1.*"]) == ["conv1", "layer4.1.conv1", "layer4.1.conv2"]
    assert chosen(lambda name, conv: conv.stride == (2, 2) and conv.kernel_size == (1, 1)) == [
        f"layer{i}.0.downsample.0" for i in (2, 3, 4)
    ]


@torch.no_grad()
def test_a_1x1_convolution_that_is_chosen_is_a_unit_like_any():
    cnn = prepare(ResidualNet())
    net = prernn.convert_rcn(cnn, layers="conv*", **SMALL)
    assert list(units(net)) == ["conv1", "conv2", "conv3"]
    video = film()
    close(net(still(video[:, 0]))[0], still(cnn(video[:, 0])))
    close(drawn(net)(video)[0], written_out(cnn, net, video)[0])


class Twice(nn.Module):
    """Calls one convolution twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv(torch.relu(self.conv(torch.relu(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "layer9.*"}, "layer9"),
        ({"layers": ["conv1", "fc"]}, "'fc'"),
        ({"layers": lambda name, conv: False}, "at least one convolution"),
        ({"layers": []}, "at least one convolution"),
        ({"init": "zero"}, "init.*zero"),
        ({"mix": "max"}, "mix.*max"),
        ({"hidden": "banana"}, "banana"),
    ],
)
def test_what_can_not_be_is_an_error_that_says_so(options, message):
    with pytest.raises(ValueError, match=message):
        prernn.convert_rcn(resnet18_on_meta(), **options)


@pytest.mark.parametrize(("spec", "message"), [("band:129", "'conv1'.*band:129.*D=64"), ("grouped:7", "'conv1'.*D=64")])
def test_a_structure_that_does_not_fit_names_the_convolution(spec, message):
    with pytest.raises(ValueError, match=message):
        prernn.convert_rcn(resnet18_on_meta(), hidden=spec)


def test_channels_that_are_no_multiple_of_the_groups_name_the_convolution():
    """The first convolution fits, the second does not."""
    cnn = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"'1'.*grouped:4.*D=6"):
        prernn.convert_rcn(cnn, hidden="grouped:4", **SMALL)


def test_a_convolution_that_is_called_twice_can_not_be_a_unit():
    with pytest.raises(NotImplementedError, match=r"'conv'.*2 times"):
        prernn.convert_rcn(Twice(), **SMALL)
    assert list(units(prernn.convert_rcn(Twice(), layers="stem", **SMALL))) == ["stem"]


class Unbatched(nn.Module):
    """Its convolution sees the two halves of a picture as two pictures."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(8, 5)

    def forward(self, x):
        halves = torch.cat(x.chunk(2, dim=3), dim=0)
        return self.fc(torch.cat(self.conv(halves).mean((2, 3)).chunk(2, dim=0), dim=1))


def test_a_convolution_that_sees_parts_of_frames_can_not_be_a_unit():
    with pytest.raises(NotImplementedError, match=r"'conv'.*parts of frames"):
        prernn.convert_rcn(Unbatched(), **SMALL)


@torch.no_grad()
def test_a_state_of_other_frames_or_another_batch_is_an_error():
    net = trained("plain")  # maps have the size of the frame
    video = film(2, 3, (4, 6))
    _, state = net(video)
    assert state[0][0].shape[2:] == (4, 6)
    close(net(video, net.init_state(2, (4, 6))), net(video))
    for other in ((6, 4), (8, 8), (2, 12), (3, 8)):  # some of them with as many places
        with pytest.raises(ValueError, match="state"):
            net(film(2, 3, other), state)
        with pytest.raises(ValueError, match="state"):
            net.step(film(2, 1, other)[:, 0], state)
    for wrong in (rows_of(state, [0]), rows_of(state, [0, 1, 1]), state[:1], (), tuple(part[:1] for part in state)):
        with pytest.raises(ValueError, match="expected a state"):
            net(video, wrong)
    flags = tuple((h, flag.squeeze(1)) for h, flag in state)
    with pytest.raises(ValueError, match="expected a state"):
        net(video, flags)


# --- any CNN


BACKBONES = {  # a name and the side of a picture
    "resnet18": 64,
    "mobilenet_v2": 64,
    "timm/tf_efficientnet_lite0": 64,
    "googlenet": 64,
    "regnet_y_400mf": 64,
    "densenet121": 64,
    "timm/convnext_tiny": 64,
    "resnet50": 64,
    "vgg11_bn": 64,
    "efficientnet_b0": 64,
    "timm/efficientnet_b0": 64,
    "shufflenet_v2_x0_5": 64,
    "mnasnet0_5": 64,
    "squeezenet1_0": 64,
}
QUICK = ("resnet18", "timm/tf_efficientnet_lite0")


def settled(cnn, side):
    """The CNN in evaluation mode, with the statistics of a batch of noise and norms that are not just 0 and 1."""
    for module in cnn.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.5)
            module.momentum = None
    with torch.no_grad():
        cnn.train()(torch.randn(4, 3, side, side))
    return cnn.eval()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BACKBONES])
@torch.no_grad()
def test_a_still_video_in_any_cnn(name):
    library, _, key = name.rpartition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cnn = timm.create_model(key, num_classes=7) if library else get_model(key, num_classes=7)
    cnn = settled(cnn, BACKBONES[name]).double()
    size = (BACKBONES[name], BACKBONES[name])
    net = prernn.convert_rcn(cnn, image_size=size)
    large = [n for n, m in cnn.named_modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    assert set(units(net)) <= set(large)  # googlenet's auxiliary branches are no part of evaluation
    assert len(units(net)) >= 7
    picture = film(2, 1, size)[:, 0]
    expected = cnn(picture)
    scale = expected.abs().max()
    assert scale > 1e-3
    close(net(still(picture, 3))[0] / scale, still(expected, 3) / scale, atol=1e-10)
    moving = film(2, 2, size)
    assert (net(moving)[0][:, 1] - cnn(moving[:, 1])).abs().max() > 1e-6 * scale


# --- what stays and what is drawn


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", list(CNNS))
def test_the_source_cnn_stays_as_it_is_whatever_is_trained(kind, training):
    cnn = prepare(CNNS[kind]()).train(training)
    cnn.bn0.eval() if kind == "conv" else cnn.bn.eval()
    frozen = next(cnn.parameters()).requires_grad_(False)
    modes = {name: module.training for name, module in cnn.named_modules()}
    before = copy.deepcopy(cnn.state_dict())
    for pretrained in (True, False):
        net = prernn.convert_rcn(cnn, pretrained=pretrained, init="random", outputs=3, **SMALL)
        assert net.training is training
        assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in cnn.parameters()}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net(film())[0].square().sum().backward()
        optimizer.step()
    assert {name: module.training for name, module in cnn.named_modules()} == modes
    assert not frozen.requires_grad
    assert all(p.grad is None for p in cnn.parameters())
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    assert not any(isinstance(module, RecurrentLayer) for module in cnn.modules())


@pytest.mark.parametrize("kind", ["fc", "residual", "wide", "grouped", "snippets"])
def test_pre_trained_weights_stay_bit_identical_and_can_be_drawn_anew(kind):
    cnn = converted(kind)[0]
    source = cnn.state_dict()
    shapes = {name: value.shape for name, value in source.items()}
    for pretrained in (True, False):
        net = prernn.convert_rcn(cnn, pretrained=pretrained, image_size=size_of(kind))
        own, new = parameters_of(net)
        assert {name: value.shape for name, value in own.items()} == shapes
        assert all(torch.equal(own[name], value) for name, value in source.items()) is pretrained
        assert set(new) == {f"{unit}.{part}" for unit in units(net) for part in ("hidden_to_hidden.weight", "bias")}
        for layer in net.recurrent_layers:
            close(layer.hidden_to_hidden.matrix()[0], torch.eye(layer.hidden_size, **DOUBLE))
            assert not layer.bias.any()
    for name, module in net.cnn.named_modules():
        if isinstance(module, _BatchNorm):
            assert not module.running_mean.any()
            assert bool((module.running_var == 1).all())
            assert bool((module.weight == 1).all())
            assert not module.bias.any()
        elif isinstance(module, (_ConvNd, nn.Linear)):
            own = source[f"{name.removesuffix('.input_to_hidden.layer')}.weight"]
            assert (module.weight - own).abs().mean() > 1e-3
    fresh = {id(p) for p in net.new_parameters()}
    assert fresh == {id(p) for p in net.parameters()}
    fresh = {id(p) for p in converted(kind)[1].new_parameters()}
    assert fresh == {
        id(p) for unit in units(converted(kind)[1]).values() for p in (unit.hidden_to_hidden.weight, unit.bias)
    }


@pytest.mark.parametrize("spec", ["full", "grouped:4", "paths:8", "sparse:0.1", "band:21"])
def test_random_start_is_hes(spec):
    cnn = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3, stride=4), nn.Flatten())
    net = prernn.convert_rcn(cnn, hidden=spec, init="random", pretrained=False, **SMALL)
    fan_in = hidden_structure(spec).mask(256).double().sum(1).median().item()
    assert len(net.recurrent_layers) == 2
    for unit in net.recurrent_layers:
        weight = unit.hidden_to_hidden.weight
        assert unit.hidden_to_hidden.structure == hidden_structure(spec)
        assert abs(weight.std() * (fan_in / 2) ** 0.5 - 1) < 0.1
        assert abs(weight.mean()) < 0.1 * weight.std()
        conv = unit.input_to_hidden.layer.weight
        assert abs(conv.std() * (conv[:, 0].numel() / 2) ** 0.5 - 1) < 0.05  # He's, by fan-out as torchvision's ResNet
        assert not unit.input_to_hidden.layer.bias.any()


@both_inits
def test_a_structure_without_self_connections_gets_them_for_the_identity_alone(init):
    for spec in ("sparse:0.1", "paths:3"):
        net = converted("wide", spec, "mean", init)[1]
        wanted = f"{spec}+self" if init == "identity" else spec
        assert [str(layer.hidden_to_hidden.structure) for layer in net.recurrent_layers] == [wanted] * 2


def test_a_new_output_layer():
    cnn, _ = converted("wide")
    net = prernn.convert_rcn(cnn, outputs=9, **SMALL)
    assert net(film(2, 3))[0].shape == (2, 3, 9)
    assert net.drawn_anew == set(net.output_layer.parameters())
    assert {net.output_layer.weight.shape} == {(9, SIZE)}


# --- drawn anew, in few bits, and measured


def test_drawing_anew_reaches_the_copies_of_a_converted_layer_and_says_what_it_can_not_reach():
    torch.manual_seed(0)
    converted = prernn.convert(prepare(CNNS["conv"]()), cell="lstm", **SMALL)
    net = prernn.convert_rcn(converted, pretrained=False)
    form = next(x.input_to_hidden for x in net.recurrent_layers if isinstance(x.input_to_hidden, GateInput))
    old = next(x.input_to_hidden for x in converted.recurrent_layers)
    assert not torch.equal(form.layer.weight, old.layer.weight)
    assert torch.equal(form.copies, form.layer.weight.expand_as(form.copies))  # gates start alike
    new = set(net.new_parameters())
    assert {form.copies, form.layer.weight} <= new
    assert new == set(net.parameters())
    with pytest.raises(NotImplementedError, match=r"can't initialize .*gamma.* at random"):
        prernn.convert_rcn(backbone("timm/convnext_atto"), pretrained=False)


def test_what_was_drawn_anew_is_new_after_a_further_conversion():
    net = prernn.convert(prernn.convert_rcn(prepare(CNNS["conv"]()), pretrained=False, **SMALL), cell="gru")
    assert set(net.new_parameters()) == set(net.parameters())


def test_units_in_few_bits_and_under_inference_mode():
    wide = nn.Sequential(nn.Conv2d(3, 301, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(301, 2)).bfloat16()
    (layer,) = prernn.convert_rcn(wide, **SMALL).recurrent_layers
    assert torch.equal(layer.hidden_to_hidden.matrix()[0], torch.eye(301, dtype=torch.bfloat16))
    with torch.inference_mode():
        (layer,) = prernn.convert_rcn(wide.float(), hidden="paths:2", **SMALL).recurrent_layers
        assert torch.equal(layer.hidden_to_hidden.matrix()[0], torch.eye(301))


def test_the_size_of_a_state_leaves_the_network_as_it_is():
    net = prernn.convert_rcn(prepare(CNNS["conv"]()).train(), **SMALL)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.init_state(1, (12, 10))
    frame_cost(net, (12, 10))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
