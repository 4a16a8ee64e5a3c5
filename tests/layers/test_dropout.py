"""Dropout of recurrent layers: the equations with masks, one for a sequence however it runs, none in evaluation."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prernn
from equations import EQUATIONS, close, run_equations
from prernn import ops
from prernn.conversion.graph.trunk import split
from prernn.layers.cells import CELLS, LinearCell, make_cell
from prernn.layers.dropout import Dropout, lent
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.training.frozen_trunk.features import outputs
from prernn.training.learning import Learning
from prernn.training.module import VideoModule
from small_cnns import CNNS, SIZE, film, prepare, shake
from strategies import SPECS, specs

DOUBLE = {"dtype": torch.float64}
BOTH = Dropout(inputs=0.4, states=0.5)


def layer_of(cell, spec="full", size=SIZE, dropout=BOTH):
    layer = RecurrentLayer(nn.Identity(), cell, size, spec, **DOUBLE)
    nn.init.normal_(layer.bias)
    layer.dropout = dropout
    return layer


def network(hidden="full", kind="conv", **dropout):
    torch.manual_seed(1)
    net = shake(prernn.convert(prepare(CNNS[kind]()), cell="gru", hidden=hidden, image_size=(8, 8)))
    for layer in net.recurrent_layers:
        layer.dropout = Dropout(**dropout)
        layer.train()  # the layer alone: the CNN has dropout of its own
    return net


def linear_step(u, state, w, b):
    """RCN's, behind the first step."""
    (h, started) = state
    return ((u[0] + w[0] @ h + b[0]) / 2 if started else u[0]), torch.ones_like(started)


@settings(max_examples=60)
@given(
    cell=st.sampled_from([*CELLS, "linear"]),
    size=st.integers(1, 9),
    batch=st.integers(1, 3),
    steps=st.integers(1, 4),
    shared=st.booleans(),
    data=st.data(),
)
@torch.no_grad()
def test_a_mask_takes_columns_of_w_hh_and_gate_inputs_of_units(cell, size, batch, steps, shared, data):
    """``W_hh (m * h)`` is the product with a matrix whose columns are multiplied by m: the equations as they are."""
    equation = linear_step if cell == "linear" else EQUATIONS[cell]
    layer = layer_of(LinearCell() if cell == "linear" else make_cell(cell), data.draw(specs(size)), size)
    u = torch.randn(steps, batch, 1 if shared else len(layer.cell.gates), size, **DOUBLE)
    state = tuple(torch.randn_like(t) for t in layer.init_state(batch))
    if cell == "linear":
        state = (state[0], torch.ones_like(state[1]))
    masks = layer.draw_masks(batch)
    assert set(masks.inputs.flatten().tolist()) <= {0.0, 1 / 0.6}
    assert set(masks.states.flatten().tolist()) <= {0.0, 2.0}
    with lent([layer], [masks]):
        found = layer.run(u, state)
    u = (u * masks.inputs.unsqueeze(1)).expand(-1, -1, len(layer.cell.gates), -1)
    matrix = layer.hidden_to_hidden.matrix()
    for row in range(batch):
        own = tuple(t[row : row + 1] for t in state)
        w = matrix * masks.states[row]
        close(
            (found[0][:, row : row + 1], tuple(t[row : row + 1] for t in found[1])),
            run_equations(equation, u[:, row : row + 1], own, w, layer.bias),
        )


@settings(max_examples=40)
@given(
    cell=st.sampled_from(list(CELLS)),
    size=st.integers(1, 9),
    batch=st.integers(1, 3),
    steps=st.integers(1, 4),
    data=st.data(),
)
@torch.no_grad()
def test_weights_are_dropped_for_a_whole_sequence_and_outputs_behind_the_recurrence(cell, size, batch, steps, data):
    """The equations with a matrix some of whose weights are 0, and units of what comes out."""
    layer = layer_of(make_cell(cell), data.draw(specs(size)), size, Dropout(outputs=0.4, weights=0.5))
    u = torch.randn(steps, batch, len(layer.cell.gates), size, **DOUBLE)
    state = tuple(torch.randn_like(t) for t in layer.init_state(batch))
    masks = layer.draw_masks(batch)
    assert masks.weights.shape == layer.hidden_to_hidden.weight.shape
    assert set(masks.weights.flatten().tolist()) <= {0.0, 2.0}
    with lent([layer], [masks]):
        out, following = layer.run(u, state)
    layer.hidden_to_hidden.weight *= masks.weights
    matrix = layer.hidden_to_hidden.matrix()
    for row in range(batch):
        own = tuple(t[row : row + 1] for t in state)
        whole, last = run_equations(EQUATIONS[cell], u[:, row : row + 1], own, matrix, layer.bias)
        close(out[:, row : row + 1], whole * masks.outputs[row])
        close(tuple(t[row : row + 1] for t in following), last)


def test_what_is_dropped_of_weights_does_not_learn():
    layer = layer_of(make_cell("gru"), "band:3", dropout=Dropout(weights=0.5))
    masks = layer.draw_masks(2)
    with lent([layer], [masks]):
        layer.run(torch.randn(3, 2, 3, SIZE, **DOUBLE), layer.init_state(2))[0].sum().backward()
    gradient = layer.hidden_to_hidden.weight.grad
    assert (gradient[masks.weights == 0] == 0).all()
    assert (gradient[masks.weights != 0] != 0).any()


@torch.no_grad()
@pytest.mark.parametrize("each_step", [False, True])
def test_of_feature_maps_whole_channels_are_dropped(each_step):
    layer = layer_of(make_cell("vrnn"), "diagonal", dropout=Dropout(0.5, 0.5, each_step=each_step))
    u = torch.randn(3, 2, 1, SIZE, 1, 1, **DOUBLE).expand(-1, -1, -1, -1, 2, 3)  # all places alike
    out, _ = layer.run(u, layer.init_state(2, 2, 3))
    close(out, out[..., :1, :1].expand_as(out))
    assert len(out[..., 0, 0].unique()) > SIZE


@torch.no_grad()
def test_one_mask_serves_all_steps_and_ordinary_dropout_draws_anew():
    layer = layer_of(make_cell("vrnn"), "diagonal", 200)
    layer.hidden_to_hidden.zero_()
    nn.init.zeros_(layer.bias)
    u = torch.ones(5, 2, 1, 200, **DOUBLE)
    kept = layer.run(u, layer.init_state(2))[0] != 0  # (T, B, D)
    assert (kept == kept[:1]).all()
    assert 0.5 < kept[0].double().mean() < 0.7
    assert (kept[:, 0] != kept[:, 1]).any()  # each video has its own
    layer.dropout = Dropout(0.4, each_step=True)
    kept = layer.run(u, layer.init_state(2))[0] != 0
    assert all((one != two).any() for one, two in itertools.combinations(kept, 2))
    layer.dropout = Dropout(states=0.4, each_step=True)
    nn.init.ones_(layer.hidden_to_hidden.weight)
    states = torch.stack([layer.run(u[:1] * 0, (torch.ones(2, 200, **DOUBLE),))[0][0] for _ in range(2)])
    assert (states == 0).any()
    assert (states[0] != states[1]).any()


@torch.no_grad()
@pytest.mark.parametrize("hidden", ["full", "band:3", "diagonal"])
def test_evaluation_knows_nothing_of_it(hidden):
    net, video = network(hidden, inputs=0.9, states=0.9), film(steps=3)
    bare = copy.deepcopy(net)
    for layer in bare.recurrent_layers:
        layer.dropout = Dropout()
    assert (net(video)[0] != bare(video)[0]).any()
    net.eval()
    bare.eval()
    assert torch.equal(net(video)[0], bare(video)[0])
    parts, state = [], None
    for frame in video.unbind(1):
        out, state = net.step(frame, state)
        parts.append(out)
    close(torch.stack(parts, dim=1), net(video)[0])


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_every_structure_drops_whatever_kernels_there_are(backend):
    if ops.missing(backend):
        pytest.skip(ops.missing(backend))
    for spec in SPECS:
        layer = layer_of(make_cell("gru"), spec).float()
        u = torch.randn(3, 2, 3, SIZE, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        with ops.using(backend):
            out, _ = layer.run(u, layer.init_state(2))
            out.sum().backward()
        torch.manual_seed(2)
        with ops.using("reference"):
            expected, _ = copy.deepcopy(layer).double().run(u.double(), (torch.zeros(2, SIZE, **DOUBLE),))
        close(out.double(), expected, atol=1e-5)


def results(net, video, **options):
    """Outputs, last state and gradients, by one seed."""
    net.zero_grad()
    torch.manual_seed(5)
    out, state = net(video, **options)
    out.square().sum().backward()
    return out, state, [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_frames_that_are_computed_again_are_dropped_alike(frames):
    net, video = network(inputs=0.3, states=0.5), film(steps=4)
    close(results(net, video, checkpoint=frames), results(net, video))


@pytest.mark.parametrize("checkpoint", [None, 2])
def test_videos_of_several_lengths_have_one_mask_each(checkpoint):
    net, video, lengths = network(inputs=0.3, states=0.5), film(batch=3, steps=5), [2, 5, 3]
    out, state, _ = results(net, video, lengths=lengths, checkpoint=checkpoint)
    whole, _, _ = results(net, video)
    for row, length in enumerate(lengths):
        close(out[row, :length], whole[row, :length])
        close(state[0][0][row], results(net, video[:, :length])[1][0][0][row])


def test_behind_a_trunk_too():
    net, video, lengths = network(inputs=0.3, states=0.5), film(batch=3, steps=5), torch.tensor([2, 5, 3])
    trunk, rest = split(net)
    values = [v.unflatten(0, (3, 5)) for v in trunk(video.flatten(0, 1))]
    batch = {"input": values[0], **{f"input_{i}": v for i, v in enumerate(values[1:])}, "lengths": lengths}
    torch.manual_seed(5)
    out, _ = outputs(rest, net.init_state(3), batch)
    torch.manual_seed(5)
    close(out, net(video, lengths=lengths)[0])


def test_a_state_that_goes_on_meets_masks_of_its_own():
    net, video = network(states=0.5), film(steps=4)
    _, state = net(video[:, :2])
    first, second = (net(video[:, 2:], state)[0] for _ in range(2))
    assert (first != second).any()


def test_learning_says_what_is_dropped():
    net = network()
    VideoModule(None, Learning(dropout=BOTH), network=net)
    assert [layer.dropout for layer in net.recurrent_layers] == [BOTH]


@pytest.mark.parametrize("wrong", [{"inputs": 1}, {"states": -0.1}, {"inputs": float("nan")}, {"states": "x"}])
def test_a_share_is_from_0_to_below_1(wrong):
    with pytest.raises(ValueError, match="dropout"):
        Dropout(**wrong)
