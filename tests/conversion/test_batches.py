"""Batches of no videos, and padded batches: networks of every kind, whole and step by step."""

import functools
import math

import pytest
import torch
from torch import nn

import prernn
from equations import close
from prernn.conversion.clip_network import clip_outputs
from rcn_networks import SnippetNet
from small_cnns import FcNet, ResidualNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}
DOUBLE = {"dtype": torch.float64}
MAKERS = {
    "gate": functools.partial(prernn.convert, cell="gru", **SMALL),
    "single": functools.partial(prernn.convert, cell="lstm", input="single", hidden="band:3", **SMALL),
    "vrnn": functools.partial(prernn.convert, cell="vrnn", hidden="diagonal", **SMALL),
    "rcn": functools.partial(prernn.convert_rcn, **SMALL),
    "rcn-diagonal": functools.partial(prernn.convert_rcn, hidden="diagonal", **SMALL),
    "traditional": functools.partial(prernn.traditional, hidden="sparse:0.2", num_layers=2, **SMALL),
    "both": lambda cnn: prernn.traditional(prernn.convert(prernn.convert_rcn(cnn, **SMALL))),
    "framewise": functools.partial(prernn.framewise, **SMALL),
}
each_network = pytest.mark.parametrize("maker", list(MAKERS))
each_mode = pytest.mark.parametrize("training", [True, False])


@functools.cache
def network(maker, kind=ResidualNet):
    return shake(MAKERS[maker](prepare(kind())))


def frozen(net, training):
    """The network in a mode, batch normalization on its statistics."""
    for module in net.train(training).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return net


def leaves(state):
    return [tensor for layer in state for tensor in layer]


# --- no videos


@each_mode
@each_network
@pytest.mark.parametrize("kind", [FcNet, ResidualNet])
def test_a_batch_of_no_videos(maker, kind, training):
    """As torch.nn: no outputs, gradients of zeros, statistics as they were."""
    net = network(maker, kind).train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    video = film().new_zeros(0, 4, 3, 8, 8).requires_grad_()
    for lengths in (None, []):
        out, state = net(video, lengths=lengths)
        assert out.shape == (0, 4, 5)
        assert [tensor.shape for tensor in leaves(state)] == [tensor.shape for tensor in leaves(net.init_state(0))]
        gradients = torch.autograd.grad(out.sum(), [video, *net.parameters()], allow_unused=True)
        used = torch.autograd.grad(net(film())[0].sum(), list(net.parameters()), allow_unused=True)
        assert [g is None for g in gradients[1:]] == [g is None for g in used]
        assert not any(g.any() for g in gradients if g is not None)
        net.load_state_dict(before)  # film() has taught it
    out, following = net.step(video[:, 0], state)
    assert out.shape == (0, 5)
    assert [tensor.shape for tensor in leaves(following)] == [tensor.shape for tensor in leaves(state)]
    assert all(value.isfinite().all() for value in net.state_dict().values())
    if net.recurrent_layers and not training:
        assert net(video, checkpoint=2)[0].shape == (0, 4, 5)


def test_no_clips_and_no_snippets():
    net = prernn.framewise(prepare(SnippetNet()), image_size=(4, 8, 8))
    assert clip_outputs(net, torch.zeros(0, 6, 3, 8, 8, **DOUBLE), torch.zeros(0, dtype=torch.int64)).shape == (0, 5)
    net = prernn.convert_rcn(prepare(SnippetNet()), image_size=(4, 8, 8))
    assert net(torch.zeros(0, 2, 3, 4, 8, 8, **DOUBLE))[0].shape == (0, 2, 5)
    flat = prernn.inflate(prepare(ResidualNet()), frames=4, **SMALL)
    assert flat(torch.zeros(0, 3, 4, 8, 8, **DOUBLE)).shape == (0, 5)


def test_no_step_of_no_videos_is_an_error():
    with pytest.raises(ValueError, match=r"at least one frame, got shape \(0, 0, 3, 8, 8\)"):
        network("gate")(torch.zeros(0, 0, 3, 8, 8, **DOUBLE))


# --- videos of different lengths

LENGTHS = [3, 1, 4, 3]


@each_network
def test_a_padded_batch_equals_each_video_alone(maker):
    net, video = network(maker).eval(), film(batch=4, steps=5)
    start = tuple(tuple(torch.rand_like(t) for t in layer) for layer in net.init_state(4))
    for lengths in (LENGTHS, torch.tensor(LENGTHS, dtype=torch.int32)):
        out, last = net(video, start, lengths)
        for row, length in enumerate(LENGTHS):
            own = tuple(tuple(t[row : row + 1] for t in layer) for layer in start)
            alone, own = net(video[row : row + 1, :length], own)
            close(out[row : row + 1, :length], alone)
            assert not out[row, length:].any()
            close([t[row : row + 1] for t in leaves(last)], leaves(own))
    close(net(video, start, [5] * 4), net(video, start))
    if net.recurrent_layers:
        close(net(video, start, LENGTHS, checkpoint=2), (out, last))


@each_mode
@each_network
def test_what_stands_in_the_padding_changes_nothing_to_the_last_bit(maker, training):
    net = frozen(network(maker), training)

    def run(junk):
        torch.manual_seed(0)  # of the film, and of dropout
        video = film(batch=4, steps=5)
        for row, length in enumerate(LENGTHS):
            video[row, length:] = junk
        out, state = net(video.requires_grad_(), lengths=LENGTHS)
        loss = out.square().sum() + sum(tensor.square().sum() for tensor in leaves(state))
        return [out, *leaves(state), *torch.autograd.grad(loss, [video, *net.parameters()])]

    expected = run(0.0)
    for junk in (math.nan, math.inf, 1e300):
        for one, other in zip(run(junk), expected, strict=True):
            assert bool(other.isfinite().all())
            assert torch.equal(one, other)


@pytest.mark.parametrize("lengths", [[1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 6], [1.0, 2.0, 2.5, 3.0], [[1, 2, 3, 4]]])
def test_lengths_that_do_not_fit(lengths):
    with pytest.raises(ValueError, match="expected 4 lengths between 1 and 5, integers"):
        network("gate")(film(batch=4, steps=5), lengths=lengths)


def test_lengths_need_frozen_statistics():
    net = prernn.convert_rcn(prepare(ResidualNet()), **SMALL).train()
    with pytest.raises(NotImplementedError, match=r"frozen statistics.*call eval"):
        net(film(), lengths=[1, 2])
