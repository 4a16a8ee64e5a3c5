"""Finding a layer in any CNN: what is cut out, and that the network computes what the CNN computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prernn
from architectures import Gated, build
from equations import close
from prernn.conversion.graph.surroundings import find_layer, find_site
from prernn.conversion.network import open_network
from small_cnns import SIZE, DenseNet, FcNet, PlainNet, ResidualNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}


# --- what is cut out


@pytest.mark.parametrize(
    ("cnn", "name", "inputs", "has_tail", "activation", "pool_first"),
    [
        (FcNet, "fc7", 1, False, nn.ReLU, False),
        (ResidualNet, "conv3", 2, True, nn.ReLU, True),
        (DenseNet, "conv2", 2, True, None, False),
        (PlainNet, "conv", 1, True, nn.ReLU6, True),
        (lambda: PlainNet(act=nn.Hardswish, kernel=3), "conv", 1, True, nn.Hardswish, False),
    ],
    ids=["fc", "residual", "dense", "plain", "hardswish"],
)
def test_site_of_each_kind_of_ending(cnn, name, inputs, has_tail, activation, pool_first):
    module = open_network(cnn(), (8, 8)).cnn
    site = find_layer(module)
    assert (site.name, site.size, len(site.inputs)) == (name, SIZE, inputs)
    assert site.layer is module.get_submodule(name)
    assert (site.tail is not None) == has_tail
    assert site.pool_first is pool_first
    assert site.activation is not None
    assert activation is None or type(site.activation) is activation
    values = torch.randn(3, SIZE)
    if activation is None:  # DenseNet's is a function
        assert torch.equal(site.activation(values.clone()), F.relu(values))


def test_site_by_name_is_the_same():
    module = open_network(ResidualNet(), (8, 8)).cnn
    found, named = find_layer(module), find_site(module, "conv3")
    assert (found.name, found.inputs, found.end, found.nodes) == (named.name, named.inputs, named.end, named.nodes)


class Ending(nn.Module):
    """A stem, then whatever stands between it and the outputs."""

    def __init__(self, *modules, features=6):
        super().__init__()
        self.stem, self.rest = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(*modules)
        self.out = nn.Linear(features, 5)

    def forward(self, x):
        return self.out(self.rest(F.relu(self.stem(x))))


VECTOR = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


class DenseBlock(nn.Module):
    """fc layer with a shortcut that is added before the activation."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return F.silu(self.fc(x) + x)


@pytest.mark.parametrize(
    ("modules", "features"),
    [
        ((*VECTOR, nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()), 6),
        ((*VECTOR, nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU()), 6),
        ((*VECTOR, nn.Linear(4, 6), nn.Identity(), nn.Sigmoid()), 6),
        ((*VECTOR, nn.Linear(4, 6)), 6),
        ((*VECTOR, nn.Linear(4, 6), nn.GLU()), 3),
        ((*VECTOR, nn.Linear(4, 6), nn.LogSigmoid()), 6),
        ((*VECTOR, nn.Linear(4, 6), nn.Dropout(), nn.ReLU()), 6),
        ((nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Hardswish(), nn.Flatten()), 6),
        ((nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 6, 2), nn.GELU(), nn.Flatten()), 6),
        ((*VECTOR, DenseBlock()), 4),
        ((*VECTOR, torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU()), 6),
    ],
    ids=lambda value: "-".join(type(m).__name__ for m in value) if isinstance(value, tuple) else str(value),
)
@torch.no_grad()
def test_a_layer_that_makes_one_place_is_the_cnn_when_nothing_recurs(modules, features):
    """Law 4 for every ending in which pooling does not stand between the layer and its activation."""
    cnn = prepare(Ending(*modules, features=features))
    net = prernn.convert(cnn, cell="vrnn", **SMALL)
    assert prernn.recurrent_parameters(net).layers[0].name.startswith("rest.")
    net.recurrent_layers[0].hidden_to_hidden.zero_()
    video = film()
    close(net(video)[0], torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1))


def test_the_deepest_layer_counts_not_the_last_in_the_code():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.short = (
                nn.Conv2d(3, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Conv2d(3, 4, 1),
            )
            self.out = nn.Linear(4, 5)

        def forward(self, x):
            deep = self.b(F.relu(self.a(x)))
            return self.out((deep + self.short(x)).mean((2, 3)))

    assert prernn.recurrent_parameters(prernn.convert(Net(), **SMALL)).layers[0].name == "b"


@pytest.mark.parametrize(
    ("cnn", "shape", "name"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)), (1, 28, 28), "1"),
        (nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 10)), (30,), "0"),
        (nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), *VECTOR, nn.Linear(6, 10)), (2, 224, 224), "0"),
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 10, 1)),
            (1, 224, 224),
            "0",
        ),
        (
            nn.Sequential(nn.Conv3d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 10)),
            (3, 16, 112, 112),
            "0",
        ),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 30 * 30, 10)), (3, 32, 32), None),
    ],
    ids=["mlp", "vectors", "two channels", "conv output", "3d", "size from fc"],
)
def test_frames_of_any_kind(cnn, shape, name):
    if name is None:  # its only conv layer is not pooled
        net = prernn.traditional(cnn, hidden_size=7)
    else:
        net = prernn.convert(cnn)
        assert prernn.recurrent_parameters(net).layers[0].name == name
    assert net.frame_shape == shape
    small = shape if name is None or len(shape) == 1 or "28" in str(shape) else (shape[0], *[9] * (len(shape) - 1))
    video = torch.randn(2, 3, *small)
    with torch.no_grad():
        out, _ = net.eval()(video)
        state = None
        for time in range(3):
            stepped, state = net.step(video[:, time], state)
            close(stepped, out[:, time], atol=1e-5)
    assert out.shape[:3] == (2, 3, 10)


# --- pooling first


@pytest.mark.parametrize("form", ["gate", "single"])
@pytest.mark.parametrize(
    "cnn",
    [
        ResidualNet,
        PlainNet,
        lambda: Gated(nn.Identity()),
        lambda: Gated(nn.BatchNorm2d(6)),
        lambda: Gated(nn.GroupNorm(1, 6)),
        lambda: Gated(nn.Tanh()),
        lambda: Gated(nn.MaxPool2d(3, 1, 1)),
        lambda: Ending(nn.Conv2d(4, 6, 1, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: Ending(nn.Conv2d(4, 6, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: Ending(nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: Ending(nn.Conv2d(4, 6, 1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: Ending(nn.Conv2d(4, 6, 1), nn.AvgPool2d(8), nn.Flatten()),
        lambda: Ending(nn.Conv2d(4, 6, 1), nn.AvgPool2d(5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: Ending(nn.Conv2d(4, 4, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), features=4),
        lambda: Ending(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Hardtanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=[
        *("residual", "plain", "gated", "gated-bn", "gated-norm", "gated-tanh", "gated-maxpool", "padding", "stride"),
        *("norm", "maxpool", "avgpool8", "avgpool5", "groups", "two activations"),
    ],
)
@torch.no_grad()
def test_pooling_first_changes_nothing(cnn, form):
    """Where the package pools before the layer, not doing so gives the same."""
    net = shake(prernn.convert(prepare(cnn()), cell="lstm", input=form, **SMALL))
    (layer,) = net.recurrent_layers
    video = film()
    expected = net(video)
    layer.input_to_hidden.pool_first = False
    close(net(video), expected)


def test_pooling_first_is_used_where_it_can_be():
    for cnn in (ResidualNet(), PlainNet(), build("resnet50"), build("timm/seresnet50"), build("efficientnet_b0")):
        size = (8, 8) if isinstance(cnn, (ResidualNet, PlainNet)) else (64, 64)
        assert prernn.convert(cnn, image_size=size).recurrent_layers[0].input_to_hidden.pool_first


# --- what a network computes is what the CNN computes


class Statement(nn.Module):
    """Changes a value in place and does not use the returned one."""

    def __init__(self, change):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
        self.relu, self.change = nn.ReLU(inplace=True), change

    def forward(self, x):
        x = self.conv1(x)
        x = self.change(self, x)
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


def in_place(apply):
    def change(net, x):
        apply(net, x)
        return x

    return change


def setitem(net, x):
    x[:, 0] = 3
    return x


CHANGES = {
    "module": in_place(lambda net, x: net.relu(x)),
    "relu_": in_place(lambda net, x: x.relu_()),
    "add_": in_place(lambda net, x: x.add_(1)),
    "mul_": in_place(lambda net, x: x.mul_(3)),
    "clamp_": in_place(lambda net, x: x.clamp_(0, 1)),
    "F.relu": in_place(lambda net, x: F.relu(x, inplace=True)),
    "F.relu_": in_place(lambda net, x: F.relu_(x)),
    "view": in_place(lambda net, x: x[:, :2].add_(3)),
    "setitem": setitem,
    "returned": lambda net, x: net.relu(x.add_(1)).mul_(2),
    "iadd": lambda net, x: x.__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_in_place_changes_are_kept_or_refused(change):
    """A network that quietly leaves out a step of the CNN is the worst that can happen."""
    cnn = prepare(Statement(CHANGES[change]))
    frame = film()[:, 0]
    try:
        net = prernn.framewise(cnn, **SMALL)
    except NotImplementedError:
        assert change not in ("returned", "iadd", "module", "relu_")
        return
    close(net.step(frame.clone())[0], cnn(frame.clone()))


class Overwritten(nn.Module):
    """Another branch overwrites, after the layer has read it, what the layer reads."""

    def __init__(self, inplace):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.fc = nn.ReLU(inplace=inplace), nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(x)
        return self.fc(F.silu(y + self.relu(x)).mean((2, 3)))


@torch.no_grad()
def test_a_layers_input_that_is_overwritten_later():
    cnns = [prepare(Overwritten(inplace)) for inplace in (False, True)]
    cnns[1].load_state_dict(cnns[0].state_dict())
    expected, actual = [prernn.convert(cnn, "conv", input="single", hidden="diagonal", **SMALL) for cnn in cnns]
    actual.load_state_dict(expected.state_dict())
    video = film()
    close(actual(video), expected(video))


def overwriting(between, act):
    """The recurrent layer's output goes straight into modules that work in place."""
    return Ending(*VECTOR, nn.Linear(4, 6), between, act)


@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
@pytest.mark.parametrize(
    ("between", "act"),
    [
        (nn.Dropout(), nn.ReLU(inplace=True)),
        (nn.ReLU(), nn.Hardtanh(-0.1, 0.1, inplace=True)),
        (nn.Identity(), nn.Threshold(0.1, 0.3, inplace=True)),
        (nn.LayerNorm(6), nn.ReLU(inplace=True)),
    ],
    ids=["dropout-relu", "relu-hardtanh", "threshold", "norm-relu"],
)
@torch.no_grad()
def test_what_follows_in_place_does_not_reach_the_state(cell, between, act):
    net = shake(prernn.convert(prepare(overwriting(between, act)), "rest.2", cell=cell, **SMALL))
    video, state, outputs = film(), None, []
    for frame in video.unbind(1):
        out, state = net.step(frame, state)
        outputs.append(out)
    close((torch.stack(outputs, dim=1), state), net(video))


@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
def test_dropout_in_place_does_not_reach_the_state_in_training(cell):
    """torchvision's MobileNetV3, EfficientNet and MnasNet drop in place before the output layer."""
    cnn = prepare(Ending(*VECTOR, nn.Linear(4, 6), nn.Hardswish(), nn.Dropout(0.5, inplace=True)))
    net = prernn.convert(cnn, cell=cell, **SMALL)
    frame = film(batch=20)[:, 0]
    expected = net.eval().step(frame)[1]
    out, state = net.train().step(frame)
    close(state, expected)
    out.sum().backward()
