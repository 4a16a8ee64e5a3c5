"""RCN: its equation against a CNN run frame by frame, its laws over structures and CNNs, and what takes a network."""

import copy
import functools
import warnings
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torchvision.models import get_model

import prernn
from equations import close
from prernn import ops
from prernn.conversion.accounting import frame_cost, recurrent_parameters
from prernn.conversion.cut import split
from prernn.conversion.modes import freeze_statistics
from prernn.layers.cells import LinearCell
from prernn.layers.input_to_hidden import GateInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.parse import hidden_structure
from prernn.models.backbones import backbone
from prernn.models.network_spec import NetworkSpec
from prernn.streaming.stream import Stream
from small_cnns import CNNS, SIZE, DenseNet, FcNet, PlainNet, ResidualNet, film, prepare
from strategies import SPECS, all_compositions, specs

SMALL = {"image_size": (8, 8)}
DOUBLE = {"dtype": torch.float64}
STRUCTURES = [*SPECS, "sparse:0.5+self", "paths:2+self"]
MIXES = {"mean": 0.5, "sum": 1.0}


class WideNet(nn.Module):
    """Two convolutions of SIZE channels, which fit every structure, and a ReLU that overwrites what it reads."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, SIZE, 3, stride=2, padding=1), nn.BatchNorm2d(SIZE)
        self.conv2, self.relu = nn.Conv2d(SIZE, SIZE, 3, padding=1), nn.ReLU(inplace=True)
        self.fc = nn.Linear(SIZE, 5)

    def forward(self, x):
        return self.fc(self.relu(self.conv2(F.relu(self.bn(self.conv1(x))))).mean((2, 3)))


class GroupedNet(nn.Module):
    """A depthwise and a grouped convolution, one with a dilation, behind a 1x1."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, SIZE, 1)
        self.depthwise = nn.Conv2d(SIZE, SIZE, 3, padding=1, groups=SIZE, bias=False)
        self.grouped = nn.Conv2d(SIZE, SIZE, (3, 1), padding=(2, 0), dilation=2, groups=4)
        self.norm, self.fc = nn.BatchNorm2d(SIZE), nn.Linear(SIZE, 5)

    def forward(self, x):
        x = F.gelu(self.depthwise(F.silu(self.stem(x))))
        return self.fc(torch.tanh(self.norm(self.grouped(x))).mean((2, 3)))


class SnippetNet(nn.Module):
    """A 3-D CNN over snippets."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv3d(3, SIZE, 3, stride=2, padding=1), nn.BatchNorm3d(SIZE)
        self.conv2, self.fc = nn.Conv3d(SIZE, SIZE, (3, 1, 1), padding=(1, 0, 0)), nn.Linear(SIZE, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.bn(self.conv1(x))))).mean((2, 3, 4)))


ALL_CNNS = {
    "fc": FcNet,
    "residual": ResidualNet,
    "dense": DenseNet,
    "plain": lambda: PlainNet(kernel=3),
    "wide": WideNet,
    "grouped": GroupedNet,
    "snippets": SnippetNet,
}
FITTING = ["wide", "grouped", "snippets"]  # every unit has SIZE channels

all_structures = pytest.mark.parametrize("spec", STRUCTURES)
both_mixes = pytest.mark.parametrize("mix", list(MIXES))
both_inits = pytest.mark.parametrize("init", ["identity", "random"])
all_cnns = pytest.mark.parametrize("kind", list(ALL_CNNS))


def size_of(kind):
    return (2, 8, 8) if kind == "snippets" else (8, 8)


@functools.cache
def converted(kind, spec="full", mix="mean", init="identity"):
    """A small CNN and its RCN, just after conversion."""
    torch.manual_seed(1)
    cnn = prepare(ALL_CNNS[kind]())
    return cnn, prernn.convert_rcn(cnn, hidden=spec, mix=mix, init=init, image_size=size_of(kind))


@functools.cache
def trained(kind, spec="full", mix="mean", init="identity"):
    """The network with W_hh and biases drawn, as after some training."""
    return drawn(copy.deepcopy(converted(kind, spec, mix, init)[1]))


@torch.no_grad()
def drawn(net):
    torch.manual_seed(2)
    for layer in net.recurrent_layers:
        if isinstance(layer.cell, LinearCell):
            nn.init.normal_(layer.hidden_to_hidden.weight, std=0.3)
        nn.init.normal_(layer.bias, std=0.5)
    return net


def video_of(kind, batch=2, steps=4):
    return film(batch, steps, size_of(kind))


def still(picture, steps=4):
    return picture.unsqueeze(1).expand(-1, steps, *picture.shape[1:])


def units(net):
    """Units by the name of their convolution."""
    named = zip((count.name for count in recurrent_parameters(net).layers), net.recurrent_layers, strict=True)
    return {name: layer for name, layer in named if isinstance(layer.cell, LinearCell)}


def in_steps(net, video, state=None):
    outputs = []
    for frame in video.unbind(1):
        out, state = net.step(frame, state)
        outputs.append(out)
    return torch.stack(outputs, dim=1), state


def in_chunks(net, video, splits, state=None):
    outputs = []
    for chunk in video.split(splits, dim=1):
        out, state = net(chunk, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state


def draw_state(net, batch, size=None, started=None):
    """Random maps; rows have ``started`` where that is 1."""
    flags = torch.ones(batch, 1, **DOUBLE) if started is None else torch.tensor(started, **DOUBLE).view(batch, 1)
    state = net.init_state(batch) if size is None else net.init_state(batch, size)
    return tuple((torch.randn_like(h), flags.clone()) for h, _ in state)


def rows_of(state, rows):
    return tuple(tuple(leaf[rows] for leaf in part) for part in state)


@torch.no_grad()
def written_out(cnn, net, video):
    """The CNN run frame by frame; behind each unit's convolution stands eq. 1 with the dense matrix."""
    cnn, memory, handles = copy.deepcopy(cnn), {}, []

    def recurrence(name, unit):
        matrix, (bias,) = unit.hidden_to_hidden.matrix()[0], unit.bias

        def mix(module, args, u):
            if name in memory:
                offset = bias.view(-1, *[1] * (u.ndim - 2))
                u = (torch.einsum("ij,nj...->ni...", matrix, memory[name]) + offset + u) * MIXES[unit.cell.mix]
            memory[name] = u.clone()
            return u

        return mix

    for name, unit in units(net).items():
        handles.append(cnn.get_submodule(name).register_forward_hook(recurrence(name, unit)))
    out = torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
    for handle in handles:
        handle.remove()
    return out, memory


# --- the equation


@pytest.mark.parametrize(
    ("kind", "init", "mix"),
    [
        *(("wide", init, mix) for init in ("identity", "random") for mix in MIXES),
        ("grouped", "identity", "mean"),
        ("snippets", "random", "sum"),
    ],
)
@all_structures
def test_a_network_is_the_cnn_with_the_equation_behind_its_convolutions(kind, spec, init, mix):
    cnn, net = converted(kind, spec, mix, init)[0], trained(kind, spec, mix, init)
    video = video_of(kind)
    with torch.no_grad():
        out, state = net(video)
    expected, memory = written_out(cnn, net, video)
    close(out, expected)
    assert memory.keys() == units(net).keys()
    for (h, started), last in zip(state, memory.values(), strict=True):
        close(h, last)
        assert torch.equal(started, torch.ones(2, 1, **DOUBLE))


@all_cnns
def test_the_equation_in_every_cnn_and_at_another_size(kind):
    cnn, net = converted(kind)[0], trained(kind)
    size = (2, 6, 10) if kind == "snippets" else (6, 10)
    for video in (video_of(kind), film(1, 3, size)):
        with torch.no_grad():
            close(net(video)[0], written_out(cnn, net, video)[0])


@given(
    size=st.integers(1, 9),
    steps=st.integers(1, 5),
    extent=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    mix=st.sampled_from(list(MIXES)),
    started=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=3),
    data=st.data(),
)
@torch.no_grad()
def test_a_layer_runs_the_equation_at_every_place(size, steps, extent, mix, started, data):
    """h_1 = u_1 in rows that have no state yet, whatever stands in theirs."""
    spec, batch = data.draw(specs(size)), len(started)
    layer = RecurrentLayer(nn.Identity(), LinearCell(mix), size, spec, **DOUBLE)
    nn.init.normal_(layer.bias)
    matrix = layer.hidden_to_hidden.matrix()[0]
    u, first = torch.randn(steps, batch, 1, size, *extent, **DOUBLE), torch.randn(batch, size, *extent, **DOUBLE)
    flags = torch.tensor(started, **DOUBLE).unsqueeze(1)
    out, (last, after) = layer.run(u, (first, flags))
    for row in range(batch):
        for place in torch.cartesian_prod(*map(torch.arange, extent)).view(-1, len(extent)).tolist():
            h = first[(row, slice(None), *place)] if started[row] else None
            for time in range(steps):
                given_ = u[(time, row, 0, slice(None), *place)]
                h = given_ if h is None else (matrix @ h + layer.bias[0] + given_) * MIXES[mix]
                close(out[(time, row, slice(None), *place)], h)
            close(last[(row, slice(None), *place)], h)
    assert torch.equal(after, torch.ones_like(flags))


# --- a still video


@all_structures
@pytest.mark.parametrize("kind", FITTING)
@torch.no_grad()
def test_a_still_video_gives_the_cnns_output_at_every_frame(kind, spec):
    cnn, net = converted(kind, spec)
    video = video_of(kind)
    close(net(still(video[:, 0]))[0], still(cnn(video[:, 0])))
    assert (net(video)[0] - torch.stack([cnn(frame) for frame in video.unbind(1)], 1))[:, 1:].abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["fc", "residual", "dense", "plain"])
@torch.no_grad()
def test_a_still_video_in_the_other_cnns_and_at_another_size(kind):
    cnn, net = converted(kind)
    for size in ((8, 8), (10, 6)):
        picture = film(2, 1, size)[:, 0]
        close(net(still(picture))[0], still(cnn(picture)))


@pytest.mark.parametrize(("mix", "init"), [("mean", "random"), ("sum", "identity"), ("sum", "random")])
@torch.no_grad()
def test_no_other_start_does_that(mix, init):
    cnn, net = converted("wide", "full", mix, init)
    picture = film()[:, 0]
    out = net(still(picture))[0]
    close(out[:, 0], cnn(picture))  # h_1 = u_1
    assert ((out - still(cnn(picture)))[:, 1:].abs().amax((0, 2)) > 1e-3).all()


# --- steps, chunks, rows and state


@both_mixes
@all_structures
@torch.no_grad()
def test_steps_and_chunks_equal_the_sequence(spec, mix):
    net, video = trained("wide", spec, mix, "random"), film(2, 4)
    for state in (None, draw_state(net, 2), draw_state(net, 2, started=[0.0, 1.0])):
        before = copy.deepcopy(state)
        expected = net(video, state)
        close(in_steps(net, video, state), expected)
        for splits in all_compositions(4):
            close(in_chunks(net, video, splits, state), expected)
        assert state is None or all(
            torch.equal(a, b) for x, y in zip(state, before, strict=True) for a, b in zip(x, y, strict=True)
        )
    close(net(video, net.init_state(2)), net(video))


@all_cnns
@torch.no_grad()
def test_steps_and_chunks_of_every_cnn(kind):
    net, video = trained(kind), video_of(kind, steps=5)
    expected = net(video)
    close(in_steps(net, video), expected)
    close(in_chunks(net, video, [2, 3]), expected)


@both_mixes
@all_structures
@torch.no_grad()
def test_rows_of_a_batch_do_not_mix(spec, mix):
    """Nor do a stream that goes on and one that begins, whatever stands in the state of the latter."""
    net, video = trained("wide", spec, mix), film(3, 3)
    state = draw_state(net, 3, started=[1.0, 0.0, 1.0])
    out, last = net(video, state)
    for row in range(3):
        only = slice(row, row + 1)
        close(net(video[only], None if row == 1 else rows_of(state, only)), (out[only], rows_of(last, only)))
    assert (net(video, draw_state(net, 3))[0] - out)[1].abs().max() > 1e-3


@torch.no_grad()
def test_a_state_never_changes_under_a_layer_that_overwrites():
    """WideNet's ReLU works in place on what its unit puts out."""
    net, video = trained("wide"), film(2, 1)
    cnn = converted("wide")[0]
    out, state = net(video)
    kept = copy.deepcopy(state)
    assert bool((state[1][0] < 0).any())  # not what comes out of the ReLU
    close(state[1][0], written_out(cnn, net, video)[1]["conv2"])
    net(film(2, 1), state)
    net.step(film(2, 1)[:, 0], state)
    close(state, kept, atol=0)
    assert out.shape == (2, 1, 5)


@all_structures
def test_no_output_depends_on_a_later_frame_and_none_is_left_out(spec):
    net = trained("wide", spec)
    for steps in range(1, 6):
        assert net(film(2, steps))[0].shape == (2, steps, 5)
    video = film(1, 4).requires_grad_()
    out, state = net(video)
    for time in range(4):
        (grad,) = torch.autograd.grad(out[:, time].square().sum(), video, retain_graph=True)
        reached = grad.flatten(2).abs().sum((0, 2))
        assert not reached[time + 1 :].any()
        assert bool((reached[: time + 1] > 0).all())
    (grad,) = torch.autograd.grad(sum(h.square().sum() for h, _ in state), video)
    assert bool((grad.flatten(2).abs().sum((0, 2)) > 0).all())


def test_a_pixel_reaches_only_its_own_neighbourhood_however_many_frames_pass():
    """W_hh is 1x1: the recurrence spreads nothing over the picture."""
    net = trained("plain")
    inside = []
    net.recurrent_layers[0].register_forward_hook(lambda module, args, result: inside.append(result[0]))
    video = film(1, 5).requires_grad_()
    net(video)
    (stem,) = inside
    (grad,) = torch.autograd.grad(stem[-1, :, 4, 4].square().sum(), video)
    reached = grad.abs().sum((0, 1, 2)) > 0
    assert reached.nonzero().tolist() == [[i, j] for i in (3, 4, 5) for j in (3, 4, 5)]
    net.recurrent_layers[0]._forward_hooks.clear()


# --- the fast way through a diagonal


def outputs_and_gradients(net, video, state):
    out, last = net(video, state)
    loss = out.square().sum() + sum(h.sin().sum() for h, _ in last)
    return out.detach(), last, torch.autograd.grad(loss, list(net.parameters()))


@both_mixes
@pytest.mark.parametrize("spec", ["diagonal", "band:1", "band:3"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_kernels_and_scan_equal_the_loop(spec, mix, dtype, atol):
    net = copy.deepcopy(trained("wide", spec, mix)).to(dtype)
    video = film(2, 7).to(dtype)
    given_state = tuple((h.to(dtype), flag.to(dtype)) for h, flag in draw_state(net.double(), 2, started=[0.0, 1.0]))
    net.to(dtype)
    for state in (None, given_state):
        found = outputs_and_gradients(net, video, state)
        with ops.using("reference"):
            expected = outputs_and_gradients(net, video, state)
        close(found, expected, atol=atol, rtol=1e-4 if dtype is torch.float32 else 0)


def test_a_diagonal_in_float64_is_scanned(monkeypatch):
    """The automatic choice above is not the loop itself."""
    seen, scan = [], ops.scan.sequence
    monkeypatch.setattr(ops.scan, "sequence", lambda *args: seen.append(len(args[3])) or scan(*args))
    trained("wide", "diagonal")(film(2, 7))
    assert seen == [7, 7]


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


def parameters_of(net):
    """The values of a network: the CNN's under the names that they have in the CNN, and those of units, by theirs."""
    own, new = {}, {}
    for name, value in net.cnn.state_dict().items():
        unit, _, kind = name.rpartition(".")
        if unit.removesuffix(".hidden_to_hidden") in units(net):
            new[name] = value
        else:
            own[f"{unit.removesuffix('.input_to_hidden.layer')}.{kind}"] = value
    return own, new


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


# --- PreRNN on top


@pytest.mark.parametrize(
    ("name", "layer", "below"),
    [("resnet18", "layer4.1.conv2", 16), ("resnet50", "layer4.2.conv3", 17), ("vgg11", "classifier.3", 8)],
)
def test_prernn_takes_the_layer_that_it_takes_without_rcn(name, layer, below):
    with torch.device("meta"):
        cnn = get_model(name)
    plain = prernn.convert(cnn)
    rcn = prernn.convert_rcn(cnn)
    net = prernn.convert(rcn)
    assert plain.recipe.steps[-1].arguments["layer"] == net.recipe.steps[-1].arguments["layer"] == [layer]
    assert len(units(net)) == below
    assert len(net.recurrent_layers) == below + 1
    assert len(units(rcn)) == below + (name == "resnet18")
    assert layer not in units(net)


ON_TOP = {
    "convert": lambda rcn, **options: prernn.convert(rcn, **options),
    "convert-single": lambda rcn, **options: prernn.convert(rcn, input="single", **options),
    "traditional": lambda rcn, **options: prernn.traditional(rcn, hidden_size=7, **options),
}


@pytest.mark.parametrize("kind", ["fc", "residual", "dense", "plain", "wide", "snippets"])
@pytest.mark.parametrize("top", list(ON_TOP))
@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
def test_steps_equal_the_sequence_with_another_recurrence_on_top(cell, top, kind):
    rcn = trained(kind)
    before = copy.deepcopy(rcn.state_dict())
    net = ON_TOP[top](rcn, cell=cell, outputs=4)
    nn.init.normal_(net.recurrent_layers[-1].bias)
    video = video_of(kind, steps=3)
    with torch.no_grad():
        expected = net(video)
        assert expected[0].shape == (2, 3, 4)
        close(in_steps(net, video), expected)
        close(in_chunks(net, video, [2, 1]), expected)
    assert len(net.state_names) == sum(len(layer.cell.states) for layer in net.recurrent_layers)
    assert type(net.recurrent_layers[-1].cell) is not LinearCell
    last = kind in ("dense", "plain", "wide", "snippets") and top != "traditional"  # the last convolution is a unit
    assert len(units(net)) == len(units(rcn)) - last
    assert all(torch.equal(value, before[name]) for name, value in rcn.state_dict().items())


@torch.no_grad()
def test_with_no_recurrent_weights_prevrnn_on_rcn_gives_the_cnn_on_a_still_video():
    cnn, rcn = converted("fc")
    net = prernn.convert(rcn, "fc7", cell="vrnn")
    picture = film()[:, 0]
    assert (net(still(picture))[0] - still(cnn(picture)))[:, 1:].abs().max() > 1e-6
    net.recurrent_layers[-1].hidden_to_hidden.zero_()
    close(net(still(picture))[0], still(cnn(picture)))


@torch.no_grad()
def test_the_layer_under_prernn_computes_what_it_did_without_rcn():
    """A unit that becomes the PreVRNN layer leaves nothing of its own behind."""
    cnn, rcn = converted("plain")
    net, plain = (prernn.convert(source, "conv", cell="vrnn", **SMALL) for source in (rcn, cnn))
    for each in (net, plain):
        each.recurrent_layers[-1].hidden_to_hidden.zero_()
    picture = film()[:, 0]
    close(net(still(picture))[0], plain(still(picture))[0])
    assert list(units(net)) == ["stem"]
    assert parameters_of(net)[0].keys() == parameters_of(plain)[0].keys()


@torch.no_grad()
def test_a_network_that_has_run_at_a_size_converts_like_one_that_has_not():
    """What it knows of the sizes of its maps is not what holds for the network that is made of it."""
    rcn = copy.deepcopy(converted("wide")[1])
    video = film(2, 3, (6, 10))
    rcn(video)
    net = prernn.convert(rcn, cell="gru")
    close(in_steps(net, video), net(video))


# --- files and streams


@pytest.mark.parametrize(
    "recipe",
    [
        NetworkSpec("timm/test_resnet", method="rcn", hidden="sparse:0.1", rcn={"mix": "sum"}),
        NetworkSpec("timm/test_resnet", method="rcn", layer="layer4.*", rcn={"init": "random", "pretrained": False}),
        NetworkSpec("timm/test_resnet", inflate={"frames": 4, "time": 5, "init": "mean"}, method="framewise"),
        NetworkSpec("timm/test_resnet", rcn_below=True, hidden="diagonal", cell="lstm"),
        NetworkSpec("timm/test_resnet", rcn_below=True, method="traditional", hidden_size=7),
    ],
    ids=["rcn", "some-layers", "inflated", "prernn-on-rcn", "traditional-on-rcn"],
)
@torch.no_grad()
def test_a_checkpoint_rebuilds_the_network(recipe, tmp_path):
    net = recipe.build(5).eval()
    for parameter in net.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    net.recipe = replace(net.recipe, labels=list("abcde"))
    prernn.save(net, tmp_path)
    again = prernn.load(tmp_path)
    video = torch.randn(2, 3, 3, *([4] if recipe.inflate else []), 32, 32)
    found, expected = again(video), net(video)
    assert torch.equal(found[0], expected[0])
    assert expected[0].std() > 0
    close(found[1], expected[1], atol=0)
    assert again.recipe.labels == net.recipe.labels
    assert [str(a.hidden_to_hidden.structure) for a in again.recurrent_layers] == [
        str(a.hidden_to_hidden.structure) for a in net.recurrent_layers
    ]


@torch.no_grad()
def test_a_stream_goes_frame_by_frame_and_resumes():
    net = prernn.convert(drawn(prernn.convert_rcn(converted("wide")[0], **SMALL)), cell="gru")
    for size in ((8, 8), (6, 10)):
        video = film(3, 5, size)
        expected = net(video)[0]
        alone, together = Stream(net), Stream(net, batch_size=3)
        close(torch.stack([alone(frame) for frame in video[0]]), expected[0])
        for time in range(3):
            close(together(video[:, time]), expected[:, time])
        saved = together.state_dict()
        assert set(saved) == set(net.state_names)
        assert saved["state_0_started"].tolist() == [[1], [1], [1]]
        other = Stream(net, batch_size=3)
        other.load_state_dict(saved)
        for each in (together, other):
            close(torch.stack([each(video[:, time]) for time in (3, 4)], dim=1), expected[:, 3:])
        alone.reset()
        close(alone(video[0, 0]), expected[0, 0])
        with pytest.raises(ValueError, match="state"):
            Stream(net, batch_size=2).load_state_dict(saved)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("step", "sparse:0.1"),
        ("sequence", "diagonal"),
        *(pytest.param("step", spec, marks=pytest.mark.slow) for spec in ("full", "diagonal")),
        *(pytest.param("sequence", spec, marks=pytest.mark.slow) for spec in ("full", "sparse:0.1")),
    ],
)
@torch.no_grad()
def test_an_exported_network_computes_the_same(kind, spec, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = copy.deepcopy(trained("wide", spec)).float()
    prernn.export_onnx(net, tmp_path / "net.onnx", kind, image_size=(8, 8))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = runtime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in file.get_inputs()]
    assert names[1:] == net.state_names == ["state_0_h", "state_0_started", "state_1_h", "state_1_started"]
    for batch in (2, 3, 1):
        video = film(batch, 5).float()
        expected, last = net(video)
        leaves, outputs = [leaf for part in net.init_state(batch) for leaf in part], []
        for part in video.split(2 if kind == "sequence" else 1, dim=1):
            frames = part if kind == "sequence" else part[:, 0]
            feeds = {name: value.numpy() for name, value in zip(names, [frames.contiguous(), *leaves], strict=True)}
            out, *following = map(torch.from_numpy, file.run(None, feeds))
            outputs.append(out if kind == "sequence" else out.unsqueeze(1))
            leaves = following
        close(torch.cat(outputs, dim=1), expected, atol=1e-5, rtol=1e-4)
        close(leaves, [leaf for part in last for leaf in part], atol=1e-5, rtol=1e-4)


# --- activation checkpointing


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ["wide", "fc", "snippets"])
def test_checkpoints_change_neither_outputs_nor_gradients(kind, frames):
    net = prernn.convert(trained(kind), cell="gru", outputs=3)
    video = video_of(kind, steps=5).requires_grad_()
    leaves = [video, *net.parameters()]
    results = []
    for options in ({}, {"checkpoint": frames}):
        out, state = net(video, **options)
        loss = out.square().sum() + sum(leaf.sin().sum() for part in state for leaf in part)
        results.append((out, state, torch.autograd.grad(loss, leaves)))
    close(results[1], results[0], atol=1e-10)
    assert all(bool(grad.any()) for grad in results[0][2][:1])


def test_checkpoints_go_on_from_a_state_and_hand_gradients_to_it():
    net, video = trained("wide"), film(2, 5)
    first = draw_state(net, 2, started=[0.0, 1.0])
    results = []
    for options in ({}, {"checkpoint": 2}):
        maps = [h.clone().requires_grad_() for h, _ in first]
        out, _ = net(video, tuple((h, flag) for h, (_, flag) in zip(maps, first, strict=True)), **options)
        results.append((out, torch.autograd.grad(out.square().sum(), maps)))
    close(results[1], results[0], atol=1e-11)
    assert not results[0][1][0][0].any()  # of a stream that begins
    assert results[0][1][0][1].any()


def kept_bytes(net, video, **options):
    """Memory that a forward pass takes and keeps."""
    net(video, **options)  # what is allocated once
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept_alive = net(video, **options)
    assert kept_alive[0].requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_checkpoints_keep_less_than_half():
    net, video = trained("wide"), film(2, 16, (32, 32))
    whole, parts = kept_bytes(net, video), kept_bytes(net, video, checkpoint=4)
    maps = 2 * 16 * SIZE * 16 * 16 * 8
    assert whole > 4 * maps  # each unit's output, and what stands behind it
    assert 0 < parts < whole / 2


def test_checkpoints_need_frozen_statistics_and_a_frame():
    net = copy.deepcopy(trained("wide"))
    for frames in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            net(film(), checkpoint=frames)
    with pytest.raises(NotImplementedError, match="batch normalization"):
        net.train()(film(), checkpoint=2)
    freeze_statistics(net)
    assert net(film(), checkpoint=2)[0].shape == (2, 4, 5)


# --- several steps


@settings(max_examples=10)
@given(spec=st.sampled_from(STRUCTURES), steps=st.integers(1, 6), batch=st.integers(1, 3))
@torch.no_grad()
def test_a_network_in_two_parts_is_the_whole(spec, steps, batch):
    """`split` cuts before the first unit."""
    net, video = trained("grouped", spec), film(batch, steps)
    trunk, rest = split(net)
    frames = video.transpose(0, 1).flatten(0, 1)
    out, state = rest(trunk(frames), net.init_state(batch))
    expected, last = net(video)
    close(out.unflatten(0, (steps, batch)).transpose(0, 1), expected)
    close(state, last)


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
    with pytest.raises(NotImplementedError, match=r"can't draw .*gamma.* anew"):
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
