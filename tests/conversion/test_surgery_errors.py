"""What the errors say where no layer is found or a CNN can not be cut."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

import prernn
from architectures import Gated, build
from equations import close
from small_cnns import FcNet, ResidualNet, film

SMALL = {"image_size": (8, 8)}


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
        (lambda: meta("vit_b_16"), None, NotImplementedError, ["197 tokens", "transformer", "prernn.traditional"]),
        (
            lambda: meta("timm/vit_tiny_patch16_224"),
            None,
            NotImplementedError,
            ["197 tokens", "transformer", "prernn.traditional"],
        ),
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


def transformers():
    """Small ones: with a class token, and with tokens that are averaged, so that there is a layer to convert."""
    vit = VisionTransformer(
        image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=5
    )
    swin = SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=5)
    return vit.double().eval(), swin.double().eval()


def test_transformers_take_layers_on_top():
    vit, swin = transformers()
    with pytest.raises(NotImplementedError) as caught:
        prernn.convert(vit, image_size=(32, 32))
    assert str(caught.value) == (
        "found no layer to make recurrent: the last ones give 5 tokens, as in a transformer, which is no CNN; "
        "prernn.traditional stacks recurrent layers on its outputs"
    )
    video = film(batch=3, size=(32, 32))
    for cnn in (vit, swin):
        expected = torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
        close(prernn.framewise(cnn, image_size=(32, 32))(video)[0], expected)
        net = prernn.traditional(cnn, image_size=(32, 32))
        out, state = net(video)
        assert out.shape == (3, 4, 5)
        close(net.step(video[:, 3], net(video[:, :3])[1]), (out[:, 3], state))
        out.sum().backward()
        assert all(p.grad is not None for p in net.parameters())
    assert prernn.convert(swin, image_size=(32, 32))(video)[0].shape == (3, 4, 5)


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
    with pytest.raises(ValueError, match=name) as caught:
        prernn.convert(FcNet(), **SMALL, **arguments)
    assert repr(value) in str(caught.value)


def test_a_wrapped_cnn_is_unwrapped():
    """torch.compile and data parallelism put names before those of the layers, which are none of the CNN's."""
    cnn = FcNet().double().eval()
    expected = list(prernn.convert(cnn, "fc7", **SMALL).state_dict())
    for wrapped in (torch.compile(cnn, backend="eager"), nn.DataParallel(cnn), torch.compile(nn.DataParallel(cnn))):
        net = prernn.convert(wrapped, "fc7", **SMALL)
        assert list(net.state_dict()) == expected
        close(prernn.framewise(wrapped, **SMALL)(film())[0].shape, torch.Size((2, 4, 5)))


def test_modules_that_have_no_graph_or_no_sizes_yet():
    with pytest.raises(NotImplementedError, match="a ScriptModule: expected the module that it was made of"):
        prernn.convert(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))))
    with pytest.raises(ValueError, match="got a lazy one: put a frame through it first"):
        prernn.convert(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5)))


def test_hooks_of_blocks_that_are_taken_apart(recwarn):
    """Layers keep their hooks, also the one that becomes recurrent; of a block no step is left that calls them."""
    seen = []
    cnn = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(144, 6), nn.Linear(6, 5))
    for name in ("0.0", "2"):
        cnn.get_submodule(name).register_forward_hook(lambda module, given, out, name=name: seen.append(name))
    net = prernn.convert(cnn, "2", **SMALL)
    assert not recwarn.list
    seen.clear()
    net(film().float())
    assert sorted(set(seen)) == ["0.0", "2"]
    cnn[0].register_forward_hook(lambda module, given, out: seen.append("0"))
    with pytest.warns(UserWarning, match=r"the hooks of '0' see no frame of the network: expected hooks of layers"):
        prernn.convert(cnn, "2", **SMALL)


@pytest.mark.parametrize("make", [prernn.convert, prernn.traditional, prernn.convert_rcn, prernn.inflate])
def test_a_name_is_no_cnn(make):
    with pytest.raises(ValueError, match=r"expected a CNN, a torch.nn.Module, got str: prernn.backbone\('resnet18'\)"):
        make("resnet18")
