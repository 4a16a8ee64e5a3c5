"""Calibrated gate inputs: what they are, that nothing else changes, and that every way through a network has them."""

import copy
import dataclasses

import pytest
import torch

import prernn
from equations import close
from prernn.conversion.calibration import (
    GAIN,
    Calibration,
    drop_calibration,
    gate_inputs_of,
    unmeasured,
    with_calibration,
)
from prernn.conversion.graph.trunk import split
from prernn.layers.cells import CELLS
from prernn.layers.input_to_hidden import INPUTS
from prernn.models.from_recipe import rebuild
from small_cnns import CNNS, FcNet, ResidualNet, SnippetNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}
everything = pytest.mark.parametrize("form", list(INPUTS))
each_cell = pytest.mark.parametrize("cell", list(CELLS))
each_cnn = pytest.mark.parametrize("kind", list(CNNS))


def converted(kind, cell, form, **options):
    return shake(prernn.convert(prepare(CNNS[kind]()), cell=cell, input=form, **SMALL, **options))


def read_by_gates(net, videos):
    """Inputs ``(N, G, D)`` of the first recurrent layer's gates."""
    seen = []
    hook = net.recurrent_layers[0].calibration.register_forward_hook(lambda module, inputs, u: seen.append(u))
    for video in videos:
        net(video)
    hook.remove()
    return torch.cat(seen)


@each_cell
@everything
@each_cnn
@pytest.mark.parametrize("kept", [False, True])
@torch.no_grad()
def test_gate_inputs_have_one_scale_and_the_rest_is_as_before(cell, form, kind, kept):
    net = converted(kind, cell, form, keep_activation=kept, hidden="band:3")
    videos, before = [film(3, 5), film(2, 7)], copy.deepcopy(net.state_dict())
    other = prernn.calibrate(net, videos, gain=0.25)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    layer = other.recurrent_layers[0]
    u = read_by_gates(other, videos)
    close(u.mean(0), torch.zeros_like(u[0]))
    close(u.square().mean((0, 2)).sqrt(), torch.full_like(u[0, :, 0], 0.25))
    scale = layer.calibration.scale
    assert torch.equal(scale, scale[:, :1].expand_as(scale))  # units that say less stay more quiet
    # with its affine undone it is the network that it was
    layer.calibration.scale.fill_(1)
    layer.calibration.shift.zero_()
    close(other(videos[0]), net(videos[0]))


@everything
@torch.no_grad()
def test_calibrating_again_changes_nothing(form):
    net = shake(prernn.convert(prepare(FcNet()), ["fc6", "fc7"], cell="gru", input=form, **SMALL))
    videos = [film(3, 6)]
    once = prernn.calibrate(net, videos)
    twice = prernn.calibrate(once, videos)
    assert [step.name for step in twice.recipe.steps] == ["convert", "calibrated"]
    for name, value in once.state_dict().items():
        close(value.double(), twice.state_dict()[name].double())
    rows = gate_inputs_of(once, videos)
    assert {row.layer for row in rows} == {"fc6", "fc7"}  # the second on what the first gives now
    assert all(abs(row.mean) < 1e-9 for row in rows)


@torch.no_grad()
def test_what_gates_read_before_and_after():
    cnn = prepare(FcNet())
    cnn.fc7.bias.fill_(-5)
    net = prernn.convert(cnn, cell="lstm", hidden="band:3", **SMALL)
    video = film(4, 10)
    before, after = (gate_inputs_of(each, [video]) for each in (net, prernn.calibrate(net, [video])))
    assert [row.gate for row in before] == list(net.recurrent_layers[0].cell.gates)
    assert all(row.saturated == 1 and row.mean < -4 for row in before)  # shut before anything is learned
    assert all(row.saturated == 0 and abs(row.mean) < 1e-9 for row in after)
    assert [row.deviation for row in after] == pytest.approx([GAIN] * 4)


@torch.no_grad()
def test_chunks_steps_streams_and_files_know_of_it(tmp_path):
    net = prernn.calibrate(converted("conv", "lstm", "gate", outputs=3), [film(4, 6)])
    video, state = film(), None
    expected, last = net(video)
    for time in range(4):
        out, state = net.step(video[:, time], state)
        close(out, expected[:, time])
    close(state, last)
    trunk, rest = split(net)
    out, _ = rest(trunk(video.transpose(0, 1).flatten(0, 1)), net.init_state(2))
    close(out.unflatten(0, (4, 2)).transpose(0, 1), expected)
    assert not [name for name, _ in net.named_parameters() if "calibration" in name]
    prernn.save(net, tmp_path)
    close(prernn.load(tmp_path, cnn=ResidualNet())(video.float())[0], expected.float(), atol=1e-5, rtol=1e-5)


def test_until_it_is_measured_it_changes_nothing():
    net = converted("fc", "gru", "single")
    other = with_calibration(net)
    close(other(film(1, 3))[0].shape, (1, 3, 5))
    video = film()
    close(other(video), net(video))
    assert unmeasured(other) == other.recurrent_layers
    assert not unmeasured(prernn.calibrate(net, [video]))
    recipe = dataclasses.replace(other.recipe, backbone=None)
    assert isinstance(rebuild(recipe, FcNet()).recurrent_layers[0].calibration, Calibration)


@torch.no_grad()
def test_only_what_was_the_cnns_own_is_calibrated():
    rcn = prernn.convert_rcn(prepare(ResidualNet()), **SMALL)
    with pytest.raises(ValueError, match="a converted layer that does not start as the CNN, got one without"):
        prernn.calibrate(rcn, [film()])
    both = prernn.traditional(prernn.convert(rcn, "conv3", cell="gru", **SMALL), hidden_size=5, outputs=3)
    both = prernn.calibrate(both, [film(3, 5)])
    assert [isinstance(layer.calibration, Calibration) for layer in both.recurrent_layers].count(True) == 1
    snippets = prernn.convert(prepare(SnippetNet()), "fc6", image_size=(4, 8, 8))
    snippets = prernn.calibrate(snippets, [torch.randn(2, 5, 3, 4, 8, 8, dtype=torch.float64)])
    assert snippets.recurrent_layers[0].calibration.scale.shape == (3, 6)


@torch.no_grad()
def test_units_that_hardly_move_are_not_blown_up():
    cnn = prepare(FcNet())
    cnn.fc6.weight[0] = 0
    cnn.fc6.weight[1] *= 1e-4
    net = prernn.calibrate(prernn.convert(cnn, "fc6", input="single", **SMALL), [film(3, 5)])
    layer = net.recurrent_layers[0]
    assert bool(layer.calibration.scale.isfinite().all())
    u = read_by_gates(net, [film(3, 5)]).abs()
    assert float(u[..., :2].max()) < 1e-3 * float(u.max())


@pytest.mark.parametrize("gain", [0, -1.0, float("nan"), "much"])
def test_bad_arguments(gain):
    net = converted("fc", "gru", "single")
    with pytest.raises(ValueError, match="gain: expected a number above 0, got"):
        prernn.calibrate(net, [film()], gain=gain)
    with pytest.raises(ValueError, match="expected videos to calibrate layer fc7 on, got none"):
        prernn.calibrate(net, [])


@torch.no_grad()
def test_stacked_layers_where_they_are_asked_for():
    net = prernn.traditional(prepare(FcNet()), hidden_size=5, num_layers=2, outputs=3, **SMALL)
    with pytest.raises(ValueError, match="a converted layer that does not start as the CNN, got one without"):
        prernn.calibrate(net, [film()])
    video = film(3, 6)
    other = prernn.calibrate(net, [video], stacked=True)
    rows = gate_inputs_of(other, [video])
    assert len({row.layer for row in rows}) == 2  # the second on what the first gives now
    assert all(abs(row.mean) < 1e-9 for row in rows)
    assert [row.deviation for row in rows] == pytest.approx([GAIN] * len(rows))
    recipe = dataclasses.replace(other.recipe, backbone=None)
    assert not unmeasured(net)
    assert len(unmeasured(rebuild(recipe, FcNet()))) == 2


@pytest.mark.parametrize("first", [False, True])
@torch.no_grad()
def test_converted_layers_first_and_stacked_ones_later(first, tmp_path):
    """Whichever was asked for last, the file says what is calibrated."""
    net = prernn.traditional(converted("fc", "gru", "single"), hidden_size=5, outputs=3, **SMALL)
    video = film(3, 6)
    for stacked in (first, not first):
        net = prernn.calibrate(net, [video], stacked=stacked)
    assert [step.name for step in net.recipe.steps].count("calibrated") == 1
    prernn.save(net, tmp_path)
    again = prernn.load(tmp_path, cnn=FcNet())
    assert all(isinstance(layer.calibration, Calibration) for layer in again.recurrent_layers)
    close(again(video.float())[0], net(video)[0].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.rand(1, 1, 3, 8, 8), "videos that differ to calibrate layer fc7 on, got constant gate inputs"),
        (torch.rand(1, 1, 3, 8, 8).expand(2, 5, -1, -1, -1), "got constant gate inputs"),
        (torch.full((2, 5, 3, 8, 8), torch.nan), "gate inputs in layer fc7 are numbers, got NaN"),
        (torch.rand(0, 5, 3, 8, 8), "expected videos to calibrate layer fc7 on, got none"),
    ],
)
def test_videos_that_say_nothing_of_a_scale(video, message):
    with pytest.raises(ValueError, match=message):
        prernn.calibrate(converted("fc", "gru", "gate"), [video.double()])


@torch.no_grad()
def test_a_vrnn_that_begins_as_the_cnn_stays_it():
    video = film(3, 6)
    net = prernn.convert(prepare(FcNet()), cell="vrnn", start="cnn", **SMALL)
    with pytest.raises(ValueError, match="that does not start as the CNN"):
        prernn.calibrate(net, [video])
    both = prernn.traditional(net, hidden_size=5, outputs=3, **SMALL)
    both = prernn.calibrate(both, [video], stacked=True)
    assert [isinstance(layer.calibration, Calibration) for layer in both.recurrent_layers] == [False, True]


@torch.no_grad()
def test_calibration_can_be_taken_out_again():
    net = converted("fc", "gru", "single")
    video = film()
    other = prernn.calibrate(net, [video])
    drop_calibration(other)
    assert other.recipe == net.recipe
    assert other.state_dict().keys() == net.state_dict().keys()
    close(other(video), net(video))


def test_a_loader_with_labels_is_an_error():
    pairs = [(film(), torch.zeros(2))]
    with pytest.raises(ValueError, match=r"got tuple: pass \[video for video, _ in loader\]"):
        prernn.calibrate(converted("fc", "gru", "single"), pairs)
