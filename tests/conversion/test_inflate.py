"""Inflated CNNs and networks of whole clips: what a still video gives, what a moving one, and which frames are seen."""

import copy
import itertools
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn
from torchvision.models import get_model

import prernn
from equations import close
from prernn.conversion.clip_network import clip_outputs, is_clip_network, spread
from prernn.conversion.inflate import InflatedConv2d
from prernn.media.sampling import Sampling, sample_indices
from small_cnns import SIZE, DenseNet, FcNet, PlainNet, ResidualNet, film, prepare


class SameNet(nn.Module):
    """Convolutions of every kind of padding: TensorFlow's, torch's "same", depthwise, dilated, none at all, 1x1."""

    layer = "pointwise"

    def __init__(self):
        super().__init__()
        self.stem = Conv2dSame(3, SIZE, 3, stride=2)
        self.norm = nn.BatchNorm2d(SIZE)
        self.depthwise = nn.Conv2d(SIZE, SIZE, (3, 5), padding="same", groups=SIZE, bias=False)
        self.dilated = nn.Conv2d(SIZE, SIZE, 3, padding=(2, 1), dilation=(2, 1), groups=3)
        self.valid = nn.Conv2d(SIZE, SIZE, (2, 1), padding="valid")
        self.pointwise = nn.Conv2d(SIZE, SIZE, 1)
        self.fc = nn.Linear(SIZE, 5)

    def forward(self, x):
        x = F.silu(self.depthwise(F.relu(self.norm(self.stem(x)), inplace=True)))
        return self.fc(torch.relu(self.pointwise(torch.tanh(self.valid(self.dilated(x))))).mean((2, 3)))


class TwiceNet(nn.Module):
    """Calls one convolution twice, and ends in features."""

    layer = "conv"

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, SIZE, 3, padding=1), nn.Conv2d(SIZE, SIZE, 3, padding=1)

    def forward(self, x):
        return torch.sigmoid(self.conv(F.relu(self.conv(F.relu(self.stem(x)))))).mean((2, 3))


ALL_CNNS = {
    "fc": FcNet,
    "residual": ResidualNet,
    "dense": DenseNet,
    "plain": lambda: PlainNet(kernel=3),
    "same": SameNet,
    "twice": TwiceNet,
}
all_cnns = pytest.mark.parametrize("kind", list(ALL_CNNS))
both_starts = pytest.mark.parametrize("start", ["centre", "mean"])


def inflated(kind, **options):
    cnn = prepare(ALL_CNNS[kind]())
    return cnn, prernn.inflate(cnn, image_size=(8, 8), **options)


def clips(video):
    """A film ``(B, T, C, H, W)`` as a 3-D network takes it, ``(B, C, T, H, W)``."""
    return video.transpose(1, 2)


def still(picture, frames=5):
    return picture.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def disturb(network):
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, InflatedConv2d):
                module.weight += 0.1 * torch.randn_like(module.weight)


# --- what inflation keeps


@pytest.mark.parametrize("time", [1, 3, 5])
@both_starts
@all_cnns
@torch.no_grad()
def test_a_still_video_gives_what_its_picture_gives(kind, start, time):
    cnn, network = inflated(kind, init=start, time=time)
    for size, frames in itertools.product([(8, 8), (7, 10)], [1, 2, 6]):
        picture = film(2, 1, size)[:, 0]
        close(network(still(picture, frames)), cnn(picture))


@pytest.mark.parametrize("time", [1, 3, 5])
@all_cnns
@torch.no_grad()
def test_started_at_the_center_any_video_gives_the_mean_over_its_frames(kind, time):
    """All these networks are linear behind the vector."""
    cnn, network = inflated(kind, time=time)
    for frames in (1, 2, 7):
        video = film(2, frames)
        close(network(clips(video)), torch.stack([cnn(frame) for frame in video.unbind(1)]).mean(0))


@all_cnns
@torch.no_grad()
def test_started_at_the_mean_a_moving_video_gives_something_else(kind):
    cnn, network = inflated(kind, init="mean")
    video = film(2, 4)
    assert (network(clips(video)) - torch.stack([cnn(frame) for frame in video.unbind(1)]).mean(0)).abs().max() > 1e-4


@torch.no_grad()
def test_started_at_the_mean_a_convolution_averages_neighbors_and_repeats_the_ends():
    conv = nn.Conv2d(3, 4, 3, padding=1, stride=2, dtype=torch.float64)
    inflated_conv = InflatedConv2d(conv, 3, "mean")
    video = film(1, 4)
    maps = conv(video[0])  # (T, 4, 4, 4), by frame
    before, after = maps[[0, 0, 1, 2]], maps[[1, 2, 3, 3]]
    close(inflated_conv(video[0], 4), (before + maps + after) / 3)
    two = torch.cat([video, film(1, 4)])  # clips do not see each other's frames
    close(inflated_conv(two.flatten(0, 1), 4)[:4], (before + maps + after) / 3)


@both_starts
@torch.no_grad()
def test_order_matters_once_kernels_have_learned(start):
    _, network = inflated("same", init=start)
    clip = clips(film(2, 6))
    backwards = clip.flip(2)
    assert (network(backwards) - network(clip)).abs().max() < 1e-12  # a kernel that is the same both ways
    disturb(network)
    assert (network(backwards) - network(clip)).abs().max() > 1e-4
    assert network(clip[:, :, :3]).shape == (2, 5)
    one, other = network(clip[:1]), network(clip[1:])
    close(network(clip), torch.cat([one, other]))  # clips of a batch do not mix


@all_cnns
def test_which_convolutions_get_a_kernel_in_time(kind):
    cnn, network = inflated(kind, time=5)
    before = {n: m for n, m in cnn.named_modules() if isinstance(m, nn.Conv2d)}
    after = {n: network.cnn.get_submodule(n) for n in before}
    for name, conv in before.items():
        if max(conv.kernel_size) == 1:
            assert type(after[name]) is nn.Conv2d
        else:
            assert after[name].weight.shape == (*conv.weight.shape[:2], 5, *conv.kernel_size)
            assert after[name].groups == conv.groups
    assert any(isinstance(m, InflatedConv2d) for m in after.values())
    for name, module in cnn.named_modules():
        if not isinstance(module, nn.Conv2d) and list(module.parameters(recurse=False)):
            for key, value in module.state_dict().items():
                assert torch.equal(network.cnn.get_submodule(name).state_dict()[key], value)


@pytest.mark.parametrize("training", [True, False])
@both_starts
def test_the_source_cnn_stays_as_it_is(start, training):
    cnn = prepare(ResidualNet()).train(training)
    before = copy.deepcopy(cnn.state_dict())
    network = prernn.inflate(cnn, init=start, image_size=(8, 8))
    assert network.training is training
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(clips(film(4, 3))).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    assert cnn.training is training
    assert not any(isinstance(module, nn.Conv3d) for module in cnn.modules())
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in cnn.parameters()}


@pytest.mark.parametrize(
    "name",
    [
        "timm/tf_efficientnet_lite0",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "densenet121", "timm/convnext_atto")),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenet_v2", "googlenet", "regnet_y_400mf")),
    ],
)
@torch.no_grad()
def test_any_cnn_inflates(name):
    library, _, key = name.rpartition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cnn = timm.create_model(key, num_classes=7) if library else get_model(key, num_classes=7)
    for module in cnn.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.normal_(module.bias, std=0.5)
    cnn.train()(torch.randn(4, 3, 64, 64))  # statistics that keep values at their scale
    cnn = cnn.double().eval()
    picture, video = film(2, 1, (64, 64))[:, 0], film(1, 3, (64, 64))
    for start in ("centre", "mean"):
        network = prernn.inflate(cnn, init=start, image_size=(64, 64))
        expected = cnn(picture)
        scale = expected.abs().max()
        assert scale > 1e-3
        close(network(still(picture, 3)) / scale, expected / scale, atol=1e-10)
        distance = (network(clips(video)) - cnn(video[0]).mean(0)).abs().max() / scale
        assert bool(distance < 1e-10) is (start == "centre")


# --- as a network


@pytest.mark.parametrize("outputs", [None, 3])
@torch.no_grad()
def test_framewise_makes_it_a_network_of_clips(outputs):
    _, inflated_cnn = inflated("same", frames=6)
    assert inflated_cnn.frame_size == (6, 8, 8)
    net = prernn.framewise(inflated_cnn, outputs=outputs)
    assert net.frame_shape == (3, 6, 8, 8)
    assert is_clip_network(net)
    assert net.init_state(2) == ()
    for frames in (6, 3, 1):
        video = film(4, frames)
        out, state = net(clips(video).unflatten(0, (2, 2)))
        assert out.shape == (2, 2, outputs or 5)
        assert state == ()
        if outputs is None:
            close(out.flatten(0, 1), inflated_cnn(clips(video)))
    assert net.drawn_anew == (set(net.output_layer.parameters()) if outputs else set())
    assert net.output_layer.weight.shape == (outputs or 5, SIZE)


def test_features_get_an_output_layer_behind_the_mean():
    net = prernn.framewise(inflated("twice")[1], outputs=3)
    assert net(film(2, 2, (4, 8, 8)))[0].shape == (2, 2, 3)


@pytest.mark.parametrize("step", [prernn.convert, prernn.traditional])
@torch.no_grad()
def test_an_inflated_cnn_becomes_recurrent_over_clips(step):
    cnn, network = inflated("fc", frames=4)
    net, video = step(network, cell="vrnn"), film(2, 3, (4, 8, 8))
    assert net.recurrent_layers[0].hidden_size == SIZE
    out, _ = net(video)
    state, steps = None, []
    for snippet in video.unbind(1):
        answer, state = net.step(snippet, state)
        steps.append(answer)
    close(torch.stack(steps, dim=1), out)
    close(torch.cat([net(video[:1])[0], net(video[1:])[0]]), out)  # rows of a batch do not mix
    assert not is_clip_network(net)
    net.recurrent_layers[0].hidden_to_hidden.zero_()
    if step is prernn.convert:  # law 4
        picture = video[:, 0, :, 0]
        close(net.step(still(picture, 4))[0], cnn(picture))


@pytest.mark.parametrize("kind", ["fc", "same"])
def test_a_unit_of_rcn_would_see_the_frames_of_all_clips_side_by_side(kind):
    with pytest.raises(NotImplementedError, match="parts of frames"):
        prernn.convert_rcn(inflated(kind, frames=4)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": 2}, "odd.*2"),
        ({"time": 0}, "time: .*at least 1, got 0"),
        ({"time": -1}, "time: .*at least 1, got -1"),
        ({"init": "end"}, "init.*end"),
        ({"frames": 0}, "frames: .*at least 1, got 0"),
        ({"frames": -3}, "frames: .*at least 1, got -3"),
    ],
)
def test_arguments_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        prernn.inflate(FcNet(), image_size=(8, 8), **options)


class WeighedConv(nn.Conv2d):
    """Computes its weights."""

    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    ("layers", "size", "message"),
    [
        ([nn.Conv3d(3, 4, 3)], (4, 8, 8), "Conv3d"),
        ([nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Conv1d(4, 5, 36)], (8, 8), "Conv1d"),
        ([nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")], (8, 8), "'0'.*by itself"),
        ([WeighedConv(3, 4, 3)], (8, 8), "'0'.*WeighedConv"),
    ],
    ids=["3-D", "1-D", "circular", "weighed"],
)
def test_what_can_not_be_inflated_is_an_error(layers, size, message):
    cnn = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))
    cnn(torch.randn(1, 3, *size))
    with pytest.raises(NotImplementedError, match=message):
        prernn.inflate(cnn, image_size=size)


def test_a_network_that_ends_in_a_map_can_not_be_averaged():
    with pytest.raises(NotImplementedError, match="vector"):
        prernn.inflate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), image_size=(8, 8))


# --- networks of clips


def test_which_networks_answer_once_for_a_clip():
    snippets = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5))
    assert is_clip_network(prernn.framewise(snippets, image_size=(4, 8, 8)))
    assert not is_clip_network(prernn.traditional(snippets, image_size=(4, 8, 8)))
    assert not is_clip_network(prernn.convert_rcn(snippets, image_size=(4, 8, 8)))
    assert not is_clip_network(prernn.framewise(FcNet(), image_size=(8, 8)))
    assert not is_clip_network(prernn.convert_rcn(FcNet(), image_size=(8, 8)))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), frames=st.integers(1, 20), padding=st.integers(0, 3)
)
def test_frames_are_spread_evenly_over_each_videos_own_length(lengths, frames, padding):
    total = max(lengths) + padding
    numbers = torch.arange(total, dtype=torch.float64)
    video = torch.stack([numbers + 100 * row for row in range(len(lengths))]).view(len(lengths), total, 1, 1, 1)
    seen = spread(video, torch.tensor(lengths), frames)
    assert seen.shape == (len(lengths), frames, 1, 1, 1)
    for row, length in enumerate(lengths):
        places = (seen[row].flatten() - 100 * row).long().tolist()
        assert places == sorted(places)
        assert 0 <= places[0] <= places[-1] < length
        if length >= frames:
            assert places == sample_indices(length, Sampling(frames, "uniform"))
        else:  # every frame, as evenly as can be
            assert set(places) == set(range(length))
            counts = [places.count(place) for place in range(length)]
            assert max(counts) - min(counts) <= 1


@torch.no_grad()
def test_outputs_of_clips_never_look_at_padding():
    _, network = inflated("plain", frames=4)
    disturb(network)
    video, lengths = film(3, 6), torch.tensor([6, 2, 4])
    padded = video.clone()
    for row, length in enumerate(lengths.tolist()):
        padded[row, length:] = torch.nan
    for frames in (1, 3, 9, 6):
        net = prernn.framewise(network, image_size=(frames, 8, 8))
        out = clip_outputs(net, padded, lengths)
        assert out.shape == (3, 5)
        assert torch.equal(out, clip_outputs(net, video, lengths))
        for row, length in enumerate(lengths.tolist()):  # whatever else is in the batch
            own = clip_outputs(net, video[row : row + 1, :length], lengths[row : row + 1])
            close(own[0], out[row])
    whole = clip_outputs(net, video, torch.full((3,), 6))
    close(whole, network(clips(video)))  # all frames, each once
    assert (whole - clip_outputs(net, video, lengths)).abs().max() > 1e-4


@torch.no_grad()
def test_drawn_at_random_frames_of_a_kernel_differ_and_nothing_is_of_the_cnn():
    conv = nn.Conv2d(16, 64, 3, padding=1, dtype=torch.float64)
    drawn = InflatedConv2d(conv, 3, "random")
    before, now, after = drawn.weight.unbind(2)
    assert min((before - now).abs().max(), (now - after).abs().max(), (now - conv.weight).abs().max()) > 1e-3
    assert float(drawn.weight.std()) == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.05)  # He: of the fan-out
    assert not drawn.bias.any()
