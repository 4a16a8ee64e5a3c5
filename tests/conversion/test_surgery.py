"""Finding a layer in any CNN: what is cut out, which of some sixty architectures convert, and what the errors say."""

import functools
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

import prernn
from equations import close
from prernn.conversion.graph.surgery import find_layer, find_site
from prernn.conversion.network import open_network
from small_cnns import SIZE, DenseNet, FcNet, PlainNet, ResidualNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}


def build(name: str, meta: bool = True) -> nn.Module:
    """The architecture from torchvision, or from timm where the name starts with ``timm/``; random weights."""
    library, _, key = name.rpartition("/")
    with torch.device("meta" if meta else "cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(key) if library else get_model(key)


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


class Gated(nn.Module):
    """A pointwise layer, squeeze-and-excitation, then a module, shortcut and pooling."""

    def __init__(self, between):
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.gate, self.between = nn.Conv2d(6, 6, 1), between
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x))
        y = self.between(y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))) + x
        return self.fc(F.relu(y).mean((2, 3)))


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


# --- errors


@functools.cache
def meta(name):
    return build(name)


@pytest.mark.parametrize(
    ("make", "layer", "kind", "words"),
    [
        (lambda: FcNet(), "fc9", ValueError, ["'fc9'", "fc or conv layer", "fc6", "fc7", "fc8"]),
        (lambda: FcNet(), "act7", ValueError, ["'act7'", "fc or conv layer", "fc7"]),
        (lambda: FcNet(), "", ValueError, ["''", "fc7"]),
        (lambda: FcNet(), ["fc7", "fc7"], ValueError, ["different layer names", "fc7"]),
        (lambda: FcNet(), [], ValueError, ["layer names"]),
        (lambda: ResidualNet(), "conv2", NotImplementedError, ["'conv2'", "further layers", "'conv3'", "pass"]),
        (lambda: FcNet(), "conv", NotImplementedError, ["'conv'", "pooling", "pass an fc layer"]),
        (lambda: Gated(nn.Identity()), "gate", NotImplementedError, ["'gate'", "gate or attention"]),
        (
            lambda: meta("alexnet"),
            "features.10",
            NotImplementedError,
            ["features.10'", "256, 13, 13", "pooling", "pass"],
        ),
        (lambda: meta("vit_b_16"), None, NotImplementedError, ["looked for", "pooling", "layer=NAME"]),
        (lambda: meta("timm/vit_tiny_patch16_224"), None, NotImplementedError, ["looked for", "pooling", "layer=NAME"]),
        (lambda: nn.Sequential(nn.ReLU()), None, NotImplementedError, ["convolution or fc layer"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 9)), None, NotImplementedError, ["no layer before"]),
    ],
    ids=[
        *("unknown", "activation", "empty", "twice", "none", "further", "unpooled", "gate", "alexnet", "vit"),
        *("timm vit", "no layer", "one layer"),
    ],
)
def test_errors_say_what_was_looked_for_and_what_to_pass(make, layer, kind, words):
    with pytest.raises(kind) as caught:
        prernn.convert(make(), layer)
    missing = [word for word in words if word.lower() not in str(caught.value).lower()]
    assert not missing, str(caught.value)
    assert len(str(caught.value)) < 1200


def test_a_pooling_inside_a_gate_is_no_global_average_pooling():
    """Squeeze-and-excitation averages, but what reaches the fc layer is the whole map."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(256, 5)

        def forward(self, x):
            x = self.conv(x)
            x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
            return self.fc(F.relu(x).flatten(1))

    with pytest.raises(NotImplementedError, match=r"no global average pooling.*'conv'"):
        prernn.convert(Net(), "conv", **SMALL)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        if x.mean() > 0:
            x = -x
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Twice(FcNet):
    def forward(self, x):
        x = self.fc6(torch.flatten(self.pool(self.conv(x)), 1))
        return self.fc8(self.fc7(F.relu(self.fc7(x))))


class ManyOutputs(FcNet):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(super().forward(x))


class OddSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4 * 20 * 21, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.out(F.relu(self.fc(F.relu(self.conv(x)).flatten(1))))


@pytest.mark.parametrize("make", [prernn.convert, prernn.traditional, prernn.framewise])
def test_control_flow_that_depends_on_the_data(make):
    with pytest.raises(NotImplementedError, match=r"(?s)can't trace Branching.*control flow.*pass such a module"):
        make(Branching())


def test_a_layer_used_twice_is_passed_over_or_named():
    with pytest.raises(NotImplementedError, match="'fc7' is used 2 times"):
        prernn.convert(Twice(), "fc7", **SMALL)
    assert prernn.recurrent_parameters(prernn.convert(Twice(), **SMALL)).layers[0].name == "fc6"


@pytest.mark.parametrize("make", [lambda y: {"out": y}, lambda y: (y, y), lambda y: [y]], ids=["dict", "pair", "list"])
def test_a_cnn_with_several_outputs(make):
    with pytest.raises(NotImplementedError, match="one tensor"):
        prernn.convert(ManyOutputs(make), **SMALL)


def test_a_frame_size_that_nobody_guesses():
    with pytest.raises(NotImplementedError, match="pass image_size"):
        prernn.convert(OddSize())
    assert prernn.convert(OddSize(), image_size=(22, 23)).frame_shape == (3, 22, 23)
    with pytest.raises(NotImplementedError, match="frame shapes"):
        prernn.convert(OddSize(), image_size=(23, 22, 1))


@pytest.mark.parametrize(
    "arguments", [{"cell": "rnn"}, {"input": "both"}, {"hidden": "band:4"}, {"outputs": 0}, {"hidden": "grouped:5"}]
)
def test_words_that_make_no_sense(arguments):
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name}|at least one output") as caught:
        prernn.convert(FcNet(), **SMALL, **arguments)
    assert repr(value) in str(caught.value)


# --- the report: which architectures convert, and at which layer

CONVERT = {
    "vgg11": ("classifier.3", 4096),
    "vgg16_bn": ("classifier.3", 4096),
    "alexnet": ("classifier.4", 4096),
    "resnet18": ("layer4.1.conv2", 512),
    "resnet50": ("layer4.2.conv3", 2048),
    "resnext50_32x4d": ("layer4.2.conv3", 2048),
    "densenet121": ("features.denseblock4.denselayer16.conv2", 1024),
    "mobilenet_v2": ("features.18.0", 1280),
    "mobilenet_v3_small": ("classifier.0", 1024),
    "efficientnet_b0": ("features.8.0", 1280),
    "squeezenet1_0": ("classifier.1", 1000),
    "squeezenet1_1": ("classifier.1", 1000),
    "googlenet": ("inception5b.branch3.1.conv", 1024),
    "inception_v3": ("Mixed_7c.branch3x3dbl_3b.conv", 2048),
    "shufflenet_v2_x1_0": ("conv5.0", 1024),
    "mnasnet1_0": ("layers.14", 1280),
    "regnet_x_400mf": ("trunk_output.block4.block4-11.f.c.0", 400),
    "regnet_y_400mf": ("trunk_output.block4.block4-5.f.c.0", 440),
    "convnext_tiny": ("features.7.2.block.5", 768),
    "r3d_18": ("layer4.1.conv2.0", 512),
    "mc3_18": ("layer4.1.conv2.0", 512),
    "r2plus1d_18": ("layer4.1.conv2.0.3", 512),
    "s3d": ("features.15.branch2.1.1.0", 1024),
    "timm/tf_efficientnet_lite0": ("conv_head", 1280),
    "timm/mobilenetv2_100": ("conv_head", 1280),
    "timm/mobilenetv3_small_100": ("conv_head", 1024),
    "timm/mobilenetv4_conv_small": ("conv_head", 1280),
    "timm/mnasnet_100": ("conv_head", 1280),
    "timm/lcnet_050": ("conv_head", 1280),
    "timm/ghostnet_100": ("conv_head", 1280),
    "timm/resnet18": ("layer4.1.conv2", 512),
    "timm/seresnet50": ("layer4.2.conv3", 2048),
    "timm/legacy_seresnet18": ("layer4.1.conv2", 512),
    "timm/ecaresnet50d": ("layer4.2.conv3", 2048),
    "timm/res2net50_26w_4s": ("layer4.2.conv3", 2048),
    "timm/resnest14d": ("layer4.0.conv3", 2048),
    "timm/skresnet18": ("layer4.1.conv2.conv", 512),
    "timm/resnetv2_50": ("stages.3.blocks.2.conv3", 2048),
    "timm/regnety_002": ("s4.b7.conv3.conv", 368),
    "timm/xception41": ("blocks.12.stack.conv3.conv_pw", 2048),
    "timm/nfnet_l0": ("final_conv", 2304),
    "timm/dm_nfnet_f0": ("final_conv", 3072),
    "timm/dla34": ("level5.root.conv", 512),
    "timm/dpn68": ("features.conv5_3.c1x1_c.conv", 832),
    "timm/cspdarknet53": ("stages.4.conv_transition.conv", 1024),
    "timm/darknet53": ("stages.4.blocks.3.conv2.conv", 1024),
    "timm/repvgg_a0": ("stages.3.0.conv_kxk.conv", 1280),
    "timm/selecsls42b": ("head.3.0", 1024),
    "timm/vovnet39a": ("stages.3.blocks.1.conv_concat.conv", 1024),
    "timm/rexnet_100": ("features.16.conv", 1280),
    "timm/hgnetv2_b0": ("head.last_conv.0", 2048),
    "timm/gernet_s": ("final_conv.conv", 1920),
    "timm/tresnet_m": ("body.layer4.2.conv3.conv", 2048),
    "timm/convmixer_768_32": ("blocks.31.1", 768),
}
REFUSE = {
    "vit_b_16": "looked for",  # a class token, no pooling
    "timm/vit_tiny_patch16_224": "looked for",
    "timm/nf_resnet50": "looked for",  # timm declares its blocks untraceable
    "timm/vgg11": "looked for",  # as it does the fc layers, which are convolutions in one module
}
NOT_ON_META = ("regnet_x_400mf", "regnet_y_400mf")  # torchvision computes with their sizes as tensors
report: dict[str, str] = {}


def outcome(name: str):
    """Layer and hidden size that conversion finds, or what its error says."""
    try:
        net = prernn.convert(build(name, meta=name not in NOT_ON_META), cell="gru", input="single")
    except NotImplementedError as error:
        return str(error)
    (count,) = prernn.recurrent_parameters(net).layers
    return count.name, count.size


@pytest.mark.parametrize("name", [*CONVERT, *REFUSE])
def test_architecture(name):
    found = outcome(name)
    report[name] = found if isinstance(found, str) else f"{found[0]} ({found[1]})"
    if name in CONVERT:
        assert found == CONVERT[name]
    else:
        assert isinstance(found, str)
        assert REFUSE[name] in found


def test_report_of_architectures():
    """Printed with ``pytest -s``; over forty convert."""
    width = max(map(len, report), default=0)
    for name, found in sorted(report.items()):
        print(f"{'converts' if name in CONVERT else 'does not'}  {name:{width}}  {found[:150]}")
    assert len(CONVERT) > 40
    assert not set(CONVERT) & set(REFUSE)


# --- real architectures, at a small size

REAL = {
    # name: frame, activation between layer and pooling
    "resnet18": ((3, 64, 64), "layer4.1.relu"),
    "shufflenet_v2_x0_5": ((3, 64, 64), "conv5.2"),
    "mobilenet_v3_small": ((3, 64, 64), "classifier.1"),
    "squeezenet1_1": ((3, 64, 64), "classifier.2"),
    "regnet_x_400mf": ((3, 64, 64), "trunk_output.block4.block4-11.activation"),
    "densenet121": ((3, 64, 64), None),
    "r3d_18": ((3, 4, 32, 32), "layer4.1.relu"),
    "timm/tf_efficientnet_lite0": ((3, 64, 64), "bn2.act"),
    "timm/repvgg_a0": ((3, 64, 64), "stages.3.0.act"),
}


@functools.cache
def real(name):
    """The architecture in float64 with random weights, and PreGRU-SIH of it with a diagonal W_hh."""
    torch.manual_seed(5)
    shape = REAL[name][0]
    cnn = prepare(build(name, meta=False))
    return cnn, shake(prernn.convert(cnn, input="single", hidden="diagonal", image_size=shape[1:]))


@pytest.mark.parametrize("name", REAL)
@torch.no_grad()
def test_real_architecture_steps_as_it_runs(name):
    cnn, net = real(name)
    video = torch.randn(1, 3, *REAL[name][0], dtype=torch.float64)
    expected, last = net(video)
    state = None
    for time in range(3):
        out, state = net.step(video[:, time], state)
        close(out, expected[:, time], atol=1e-11, rtol=1e-11)
    close(state, last, atol=1e-11, rtol=1e-11)
    layer = net.recurrent_layers[0].input_to_hidden
    if layer.pool_first:
        layer.pool_first = False
        close(net(video)[0], expected, atol=1e-11, rtol=1e-11)
        layer.pool_first = True
    close(
        prernn.framewise(cnn, image_size=video.shape[3:]).step(video[:, 0])[0], cnn(video[:, 0]), atol=1e-11, rtol=1e-11
    )


@pytest.mark.parametrize("name", [name for name, (_, act) in REAL.items() if act])
@torch.no_grad()
def test_real_architecture_feeds_what_the_cnn_feeds_its_activation(name):
    """Eqs. 6 and 7: u is what the CNN hands to the activation that moves, averaged over places."""
    cnn, net = real(name)
    frame = torch.randn(2, *REAL[name][0], dtype=torch.float64)
    seen = {}
    cnn.get_submodule(REAL[name][1]).register_forward_pre_hook(lambda m, args: seen.update(cnn=args[0].clone()))
    inner = net.recurrent_layers[0].input_to_hidden
    inner.register_forward_hook(lambda m, args, u: seen.update(u=u))
    cnn(frame)
    net.step(frame)
    value = seen["cnn"]
    close(seen["u"][:, 0], value.mean(tuple(range(2, value.ndim))) if value.ndim > 2 else value, atol=1e-11, rtol=1e-11)


def test_image_size_helps_where_the_usual_sizes_do_not_fit():
    net = prernn.convert(build("timm/halonet26t"), image_size=(256, 256), input="single")
    assert prernn.recurrent_parameters(net).layers[0].name == "stages.3.1.conv3_1x1.conv"
