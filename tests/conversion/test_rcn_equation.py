"""RCN: its equation against a CNN run frame by frame, and its laws over structures and CNNs."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from equations import close
from prernn import ops
from prernn.layers.cells import LinearCell
from prernn.layers.recurrent_layer import RecurrentLayer
from rcn_networks import (
    ALL_CNNS,
    DOUBLE,
    MIXES,
    STRUCTURES,
    converted,
    draw_state,
    in_chunks,
    in_steps,
    rows_of,
    still,
    trained,
    units,
    video_of,
    written_out,
)
from small_cnns import film
from strategies import all_compositions, specs

FITTING = ["wide", "grouped", "snippets"]  # every unit has SIZE channels

all_structures = pytest.mark.parametrize("spec", STRUCTURES)
both_mixes = pytest.mark.parametrize("mix", list(MIXES))

all_cnns = pytest.mark.parametrize("kind", list(ALL_CNNS))

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


def test_a_pixel_reaches_only_its_own_neighborhood_however_many_frames_pass():
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
