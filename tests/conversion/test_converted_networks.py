"""Converted networks as modules: outputs, copies, files, modes, and what they are given."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prernn
from equations import close
from prernn.conversion.graph.trunk import split
from prernn.layers.cells import CELLS
from prernn.layers.input_to_hidden import INPUTS
from small_cnns import CNNS, SIZE, FcNet, PlainNet, ResidualNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}

everything = pytest.mark.parametrize("form", list(INPUTS))
each_cell = pytest.mark.parametrize("cell", list(CELLS))

# --- outputs


@pytest.mark.parametrize("make", [prernn.convert, prernn.traditional, prernn.framewise])
@pytest.mark.parametrize("kind", list(CNNS))
def test_outputs_replaces_the_output_layer(make, kind):
    cnn = prepare(CNNS[kind]())
    net = make(cnn, outputs=3, **SMALL)
    assert net(film())[0].shape == (2, 4, 3)
    assert net.step(film()[:, 0])[0].shape == (2, 3)
    assert net.output_layer.weight.shape == (3, SIZE)
    assert net.output_layer.weight.dtype == torch.float64
    assert make(cnn, **SMALL)(film())[0].shape == (2, 4, 5)
    again = make(net, outputs=2) if make is not prernn.convert else prernn.framewise(net, outputs=2)
    assert again(film())[0].shape == (2, 4, 2)
    assert net.output_layer.weight.shape == (3, SIZE)


class Softmax(FcNet):
    def forward(self, x):
        return F.softmax(super().forward(x), dim=1)


class ConvOutput(nn.Module):
    """The output layer is a 1x1 convolution of one place, or of a map that is pooled afterwards."""

    def __init__(self, pooled):
        super().__init__()
        self.stem, self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 1)
        self.pooled = pooled

    def forward(self, x):
        x = F.relu(self.conv(F.relu(self.stem(x))))
        if self.pooled:
            return self.out(x.mean((2, 3), keepdim=True)).flatten(1)
        return F.adaptive_avg_pool2d(self.out(x), 1).flatten(1)


class Features(PlainNet):
    def forward(self, x):
        return self.act(self.bn(self.conv(F.relu(self.stem(x))))).mean((2, 3))


@pytest.mark.parametrize(
    ("cnn", "layer", "head"),
    [
        (Softmax, "fc7", nn.Linear),
        (lambda: ConvOutput(pooled=True), "conv", nn.Linear),
        (lambda: ConvOutput(pooled=False), "out", type(None)),
        (Features, "conv", type(None)),
    ],
    ids=["softmax", "conv-output", "pooled-output", "features"],
)
@torch.no_grad()
def test_output_layers_of_other_kinds(cnn, layer, head):
    cnn = prepare(cnn())
    kept, new = prernn.convert(cnn, **SMALL), prernn.convert(cnn, outputs=3, **SMALL)
    assert prernn.recurrent_parameters(kept).layers[0].name == layer
    assert type(kept.output_layer) is head
    assert isinstance(new.output_layer, nn.Linear)
    video = film()
    assert new(video)[0].shape == (2, 4, 3)
    expected = torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
    close(prernn.framewise(cnn, **SMALL)(video)[0], expected)
    assert kept(video)[0].shape == expected.shape
    assert prernn.traditional(cnn, hidden_size=9, outputs=3, **SMALL)(video)[0].shape == (2, 4, 3)


def test_outputs_must_be_positive():
    for make in (prernn.convert, prernn.traditional, prernn.framewise):
        with pytest.raises(ValueError, match="outputs: expected a whole number of at least 1, got 0"):
            make(FcNet(), outputs=0, **SMALL)


# --- a network as a module


@each_cell
@everything
@pytest.mark.parametrize("kind", list(CNNS))
@torch.no_grad()
def test_copies_and_state_dicts(cell, form, kind):
    net = shake(prernn.convert(prepare(CNNS[kind]()), cell=cell, input=form, hidden="sparse:0.3", **SMALL))
    video = film()
    expected = net(video)
    other = prernn.convert(prepare(CNNS[kind]()), cell=cell, input=form, hidden="sparse:0.3", **SMALL)
    assert not torch.equal(other(video)[0], expected[0])
    assert list(other.state_dict()) == list(net.state_dict())
    other.load_state_dict(net.state_dict())
    close(other(video), expected)
    twin = copy.deepcopy(net)
    close(twin(video), expected)
    for parameter in net.parameters():
        parameter.zero_()
    close(twin(video), expected)
    assert twin.recurrent_layers[0] is not net.recurrent_layers[0]


@pytest.mark.parametrize("kind", list(CNNS))
@torch.no_grad()
def test_pickled_and_saved_whole(kind):
    net = shake(prernn.convert(prepare(CNNS[kind]()), cell="lstm", outputs=3, **SMALL))
    video, buffer = film(), io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for other in (pickle.loads(pickle.dumps(net)), torch.load(buffer, weights_only=False)):
        close(other(video), net(video))
        assert other.output_layer.weight.shape == (3, SIZE)
        assert len(other.recurrent_layers) == 1
        assert prernn.traditional(other, outputs=2)(video)[0].shape == (2, 4, 2)


@everything
@pytest.mark.parametrize("kind", list(CNNS))
@torch.no_grad()
def test_split_equals_the_network(form, kind):
    net = shake(prernn.convert(prepare(CNNS[kind]()), cell="lstm", input=form, outputs=3, **SMALL))
    trunk, rest = split(net)
    video = film()
    expected = net(video)
    frames = video.transpose(0, 1).flatten(0, 1)
    out, state = rest(trunk(frames), net.init_state(2))
    close((out.unflatten(0, (4, 2)).transpose(0, 1), state), expected)
    own = {id(p) for p in net.parameters()}
    parts = [{id(p) for p in part.parameters()} for part in (trunk, rest)]
    assert parts[0] | parts[1] == own  # the weights are shared, and every one is in a part
    assert not parts[0] & parts[1]
    assert {id(p) for p in net.recurrent_layers[0].parameters()} <= parts[1]


def test_split_of_other_networks():
    cnn = prepare(FcNet())
    with pytest.raises(ValueError, match="without"):
        split(prernn.framewise(cnn, **SMALL))
    net = prernn.traditional(prernn.convert(cnn, ["fc6", "fc7"], **SMALL), hidden_size=7)
    trunk, rest = split(net)
    frame = film()[:, 0]
    close(rest(trunk(frame), net.init_state(2)), net.step(frame))

    class Bypass(FcNet):
        def forward(self, x):
            x = torch.flatten(self.pool(self.conv(x)), 1)
            return self.fc8(self.fc7(self.fc6(x)).tanh()) + x.mean(1, keepdim=True)

    with pytest.raises(NotImplementedError, match="bypasses"):
        split(prernn.convert(prepare(Bypass()), "fc7", **SMALL))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", list(CNNS))
def test_the_training_mode_is_kept(kind, training):
    cnn = prepare(CNNS[kind]()).train(training)
    nets = [prernn.convert(cnn, **SMALL), prernn.traditional(cnn, **SMALL), prernn.framewise(cnn, **SMALL)]
    nets.append(prernn.traditional(nets[0]))
    for net in nets:
        assert net.training is training
        for name, module in net.named_modules():
            frozen = "input_to_hidden.tail" in name and isinstance(module, nn.BatchNorm2d)
            assert module.training is (training and not frozen), name
    assert cnn.training is training


def test_functional_dropout_follows_the_mode():
    class Net(FcNet):
        def forward(self, x):
            x = self.fc6(torch.flatten(self.pool(self.conv(x)), 1))
            x = F.dropout(F.relu(x), 0.5, self.training)
            return self.fc8(F.dropout(F.relu(self.fc7(x)), training=self.training))

    net = prernn.convert(prepare(Net()), **SMALL)
    video = film()
    assert torch.equal(net(video)[0], net(video)[0])
    net.train()
    assert not torch.equal(net(video)[0], net(video)[0])
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout) and m.training][-2:] == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_new_parts_have_the_cnns_type(dtype):
    cnn = FcNet().to(dtype).eval()
    nets = [prernn.convert(cnn, outputs=3, **SMALL), prernn.traditional(cnn, hidden_size=7, outputs=3, **SMALL)]
    for net in nets:
        assert {p.dtype for p in net.parameters()} == {dtype}
        out, state = net(film().to(dtype))
        assert out.dtype == dtype
        assert {t.dtype for layer in state for t in layer} == {dtype}


def test_everything_converts_on_the_meta_device():
    with torch.device("meta"):
        cnn = ResidualNet()
    for spec in ("full", "sparse:0.1", "paths:3"):
        net = prernn.convert(cnn, hidden=spec, outputs=3, **SMALL)
        assert all(p.is_meta for p in net.parameters())
        assert all(p.is_meta for p in prernn.traditional(net, outputs=2).parameters())


# --- what a network is given


@pytest.fixture(scope="module")
def net():
    return prernn.convert(prepare(FcNet()), cell="lstm", **SMALL)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 0, 3, 8, 8), (2, 4, 3, 2, 8, 8), (3, 8, 8)])
def test_a_video_of_another_rank_or_without_frames(net, shape):
    with pytest.raises(ValueError, match=r"\(B, T, C, H, W\).*at least one frame") as caught:
        net(torch.zeros(shape, dtype=torch.float64))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 4, 3, 8, 8), (3, 8, 8)])
def test_a_frame_of_another_rank(net, shape):
    with pytest.raises(ValueError, match=r"frame \(B, C, H, W\)") as caught:
        net.step(torch.zeros(shape, dtype=torch.float64))
    assert str(shape) in str(caught.value)


def test_snippets():
    cnn = prepare(nn.Sequential(nn.Conv3d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 4)))
    net = prernn.convert(cnn, image_size=(4, 8, 8))
    assert net.frame_shape == (3, 4, 8, 8)
    video = torch.randn(2, 3, 3, 4, 8, 8, dtype=torch.float64)
    assert net(video)[0].shape == (2, 3, 4)
    with pytest.raises(ValueError, match=r"\(B, T, C, D, H, W\)"):
        net(video[:, 0])
    with pytest.raises(ValueError, match=r"\(B, C, D, H, W\)"):
        net.step(video)


def test_a_state_of_another_batch_or_network_is_an_error(net):
    """A state of 2 streams for 4 frames must not be taken for 2 steps of 2 streams."""
    frames = film(batch=4)
    for state in (net.init_state(2), net.init_state(1), net.init_state(8), net.init_state(3)):
        with pytest.raises(ValueError, match="state"):
            net.step(frames[:, 0], state)
        with pytest.raises(ValueError, match="state"):
            net(frames, state)
    good = net.init_state(4)
    for state in ((), good + good, (good[0][:1],), ((good[0][0][:, :-1], good[0][1]),)):
        with pytest.raises(ValueError, match="state"):
            net.step(frames[:, 0], state)


def test_frames_of_other_sizes_than_the_one_traced():
    """Global average pooling takes any size; nothing of the traced one may be left in the graph."""
    cnn = prepare(ResidualNet())
    net = prernn.convert(cnn, **SMALL)
    for size in ((8, 8), (11, 7), (16, 24)):
        video = film(batch=3, steps=2, size=size)
        out, _ = net(video)
        close(out[:, 0], net.step(video[:, 0])[0])
        close(prernn.framewise(cnn, **SMALL).step(video[:, 0])[0], cnn(video[:, 0]))


def test_framewise_has_no_recurrence():
    cnn = prepare(FcNet())
    net = prernn.framewise(cnn, **SMALL)
    assert net.recurrent_layers == []
    assert net.init_state(3) == ()
    video = film()
    out, state = net(video)
    assert state == ()
    close(out, torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1))
    close(net.step(video[:, 1]), (out[:, 1], ()))


def test_the_contract_of_recurrent_layers():
    """Names that code outside the project relies on."""
    for cell, gates in (("vrnn", 1), ("lstm", 4), ("gru", 3)):
        net = prernn.convert(prepare(FcNet()), cell=cell, hidden="band:3", **SMALL)
        (layer,) = net.recurrent_layers
        assert layer.hidden_to_hidden.matrix().shape == (gates, SIZE, SIZE)
        assert layer.hidden_to_hidden.weight.shape == (gates, SIZE, 3)
        assert isinstance(layer.hidden_to_hidden.weight, nn.Parameter)
        layer.hidden_to_hidden.zero_()
        assert not layer.hidden_to_hidden.matrix().any()


@pytest.mark.parametrize("wrong", [lambda s: s[0][0], lambda s: s[0], lambda s: [None]])
def test_a_state_of_another_kind_is_told_in_words(wrong):
    net = prernn.convert(prepare(FcNet()), **SMALL).eval()
    _, state = net(film())
    for run in (lambda s: net(film(), s), lambda s: net.step(film()[:, 0], s)):
        with pytest.raises(ValueError, match="a tuple with a tuple of tensors for each recurrent layer") as told:
            run(wrong(state))
        assert len(str(told.value)) < 200


def test_pictures_of_whole_numbers_are_an_error():
    net = prernn.convert(prepare(FcNet()), **SMALL).eval()
    video = (255 * film()).byte()
    for run in (lambda: net(video), lambda: net.step(video[:, 0])):
        with pytest.raises(ValueError, match=r"expected frames of torch.float\d+, scaled to 0..1 .* got torch.uint8"):
            run()
