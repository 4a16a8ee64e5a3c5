"""The laws of ARCHITECTURE.md, over every combination of cell, structure, input form and kind of layer.

The combinations come from the dictionaries CELLS, STRUCTURES and INPUTS, so a new entry is tested by being one.
Law 3 (torch.nn's layers) is in test_rnn.py.
"""

import copy
import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prernn
from equations import EQUATIONS, close, run_equations
from prernn.conversion.network import open_network
from prernn.layers.cells import ACTIVATIONS, CELLS, GRUCell, make_cell, recurrent_gates
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.input_to_hidden import INPUTS
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.recurrent_stack import RecurrentStack
from small_cnns import CNNS, SIZE, film, prepare, shake
from strategies import SPECS, all_compositions, specs

DOUBLE = {"dtype": torch.float64}
COMBINATIONS = list(itertools.product(CELLS, INPUTS, SPECS, CNNS))
all_networks = pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)


@functools.cache
def traced(kind):
    """A small CNN, and the network without recurrence that conversions begin with: it is traced once."""
    torch.manual_seed(1)
    cnn = prepare(CNNS[kind]())
    return cnn, open_network(cnn, (8, 8))


@functools.cache
def converted(combination):
    """A small CNN and the network made from it, just after conversion."""
    cell, form, hidden, kind = combination
    cnn, network = traced(kind)
    torch.manual_seed(7)  # other numbers than the CNN's; with some, the ReLUs of a ring are dead
    return cnn, prernn.convert(network, cell=cell, input=form, hidden=hidden)


@functools.cache
def shaken(combination):
    """The network with recurrent biases drawn and gates that differ, as after some training."""
    torch.manual_seed(2)
    return shake(copy.deepcopy(converted(combination)[1]))


def draw_state(net, batch):
    return tuple(tuple(torch.randn_like(t) for t in layer) for layer in net.init_state(batch))


def in_chunks(net, video, splits, state):
    outputs = []
    for chunk in video.split(splits, dim=1):
        out, state = net(chunk, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state


def in_steps(net, video, state):
    outputs = []
    for frame in video.unbind(1):
        out, state = net.step(frame, state)
        outputs.append(out)
    return torch.stack(outputs, dim=1), state


# --- law 1


@torch.no_grad()
@all_networks
def test_1_steps_and_chunks_equal_the_sequence(combination):
    net, video = shaken(combination), film(batch=2, steps=3)
    state = draw_state(net, 2)
    before = copy.deepcopy(state)
    expected = net(video, state)
    assert expected[0].shape == (2, 3, 5)
    close(in_steps(net, video, state), expected)
    for splits in all_compositions(3):
        close(in_chunks(net, video, splits, state), expected)
    close(state, before)  # a state is a value
    close(in_steps(net, video, None), net(video))
    close(net(video), net(video, net.init_state(2)))


@torch.no_grad()
@all_networks
def test_1_rows_of_a_batch_do_not_mix(combination):
    net, video = shaken(combination), film(batch=3, steps=3)
    state = draw_state(net, 3)
    out, last = net(video, state)
    for row in range(3):
        own = tuple(tuple(t[row : row + 1] for t in layer) for layer in state)
        alone, own = net(video[row : row + 1], own)
        close(alone, out[row : row + 1])
        close(own, tuple(tuple(t[row : row + 1] for t in layer) for layer in last))


def map_layer(cell, spec, size=SIZE):
    layer = RecurrentLayer(nn.Identity(), make_cell(cell), size, spec, **DOUBLE)
    nn.init.normal_(layer.bias)
    return layer


@settings(max_examples=60)
@given(
    cell=st.sampled_from(list(CELLS)),
    size=st.integers(1, 9),
    batch=st.integers(1, 3),
    steps=st.integers(1, 4),
    extent=st.lists(st.integers(1, 3), max_size=3),
    shared=st.booleans(),
    data=st.data(),
)
@torch.no_grad()
def test_1_and_maps_run_as_each_place_by_itself(cell, size, batch, steps, extent, shared, data):
    """RecurrentLayer.run over vectors and over feature maps of any extent, whole and in chunks."""
    layer = map_layer(cell, data.draw(specs(size)), size)
    u = torch.randn(steps, batch, 1 if shared else len(layer.cell.gates), size, *extent, **DOUBLE)
    state = tuple(torch.randn_like(t) for t in layer.init_state(batch, *extent))
    assert all(t.shape == (batch, size, *extent) for t in state)
    out, last = layer.run(u, state)
    assert out.shape == (steps, batch, size, *extent)
    for place in itertools.product(*map(range, extent)):
        own = layer.run(u[(..., *place)], tuple(t[(..., *place)] for t in state))
        close((out[(..., *place)], tuple(t[(..., *place)] for t in last)), own)
    parts, following = [], state
    cut = data.draw(st.integers(0, steps))
    for chunk in (part for part in u.split([cut, steps - cut]) if len(part)):
        part, following = layer.run(chunk, following)
        parts.append(part)
    close((torch.cat(parts), following), (out, last))


# --- law 2


@settings(max_examples=100)
@given(size=st.integers(1, 20), gates=st.integers(1, 4), batch=st.integers(1, 3), data=st.data())
@torch.no_grad()
def test_2_product_equals_the_product_with_the_matrix(size, gates, batch, data):
    module = HiddenToHidden(size, gates, data.draw(specs(size)), **DOUBLE)
    matrix = module.matrix()
    h = torch.randn(batch, size, **DOUBLE)
    close(module(h), torch.einsum("gij,nj->ngi", matrix, h))
    maps = torch.randn(batch, size, 2, 3, **DOUBLE)
    close(module(maps), torch.einsum("gij,njhw->ngihw", matrix, maps))
    close(module(maps)[:, :, :, 1, 2], module(maps[:, :, 1, 2]))
    mask = module.structure.mask(size)
    assert bool((matrix[:, ~mask] == 0).all())
    assert module.weight_count() == gates * int(mask.sum()) == gates * module.structure.weight_count(size)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("cell", [name for name in CELLS if recurrent_gates(make_cell(name)) and name != "indrnn"])
def test_2_gradients_of_compact_weights_equal_those_through_a_dense_recurrence(cell, spec):
    """W_hh as a dense leaf: its gradient inside the mask is the compact weight's, place by place.

    Of all cells whose W_hh can be dense.
    """
    layer = map_layer(cell, spec)
    u = torch.randn(4, 2, len(layer.cell.gates), SIZE, **DOUBLE, requires_grad=True)
    state = tuple(torch.randn_like(t).requires_grad_() for t in layer.init_state(2))
    dense = map_layer(cell, "full")
    with torch.no_grad():
        dense.hidden_to_hidden.weight.copy_(layer.hidden_to_hidden.matrix())
        dense.bias.copy_(layer.bias)
    seed = torch.randn(4, 2, SIZE, **DOUBLE)
    grads = []
    for each in (layer, dense):
        out, last = each.run(u, state)
        loss = (out * seed).sum() + sum((t * t).sum() for t in last)
        leaves = [each.hidden_to_hidden.weight, each.bias, u, *state]
        grads.append(torch.autograd.grad(loss, leaves))
    (compact, *others), (full, *expected) = grads
    close(others, expected)
    mask = layer.hidden_to_hidden.structure.mask(SIZE)
    with torch.no_grad():
        layer.hidden_to_hidden.weight.copy_(compact)
        close(layer.hidden_to_hidden.matrix(), full * mask)
    close(compact.abs().sum(), (full * mask).abs().sum())  # nothing outside the matrix has a gradient


# --- law 3's kin: the paper's equations


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("cell", list(EQUATIONS))
@torch.no_grad()
def test_3_cells_equal_the_equations_written_out(cell, spec):
    """Eqs. 1-3 with the dense matrix, one row and one step at a time."""
    layer = map_layer(cell, spec)
    for gates in {1, len(layer.cell.gates)}:
        u = torch.randn(5, 2, gates, SIZE, **DOUBLE)
        state = tuple(torch.randn_like(t) for t in layer.init_state(2))
        whole = u.expand(-1, -1, len(layer.cell.gates), -1)
        expected = run_equations(EQUATIONS[cell], whole, state, layer.hidden_to_hidden.matrix(), layer.bias)
        close(layer.run(u, state), expected)


def test_3_the_papers_cells_are_there():
    assert set(EQUATIONS) <= set(CELLS)


# --- law 4


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.PReLU, nn.Tanh, nn.Identity, nn.GELU, nn.SiLU])
@pytest.mark.parametrize("layer", ["fc6", "fc7", ["fc6", "fc7"]], ids=str)
@torch.no_grad()
def test_4_with_no_recurrent_weights_prevrnn_of_an_fc_layer_is_the_cnn(act, layer):
    cnn = prepare(CNNS["fc"](act=act))
    net = prernn.convert(cnn, layer, cell="vrnn", image_size=(8, 8))
    video = film(batch=2, steps=3)
    expected = torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
    assert (net(video)[0] - expected)[:, 1:].abs().max() > 1e-6 or act is nn.ReLU6
    for each in net.recurrent_layers:
        each.hidden_to_hidden.zero_()
        assert not each.hidden_to_hidden.matrix().any()
    close(net(video)[0], expected)
    close(in_steps(net, video, None)[0], expected)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("form", list(INPUTS))
@torch.no_grad()
def test_4_over_structures_and_input_forms(spec, form):
    cnn, net = converted(("vrnn", form, spec, "fc"))
    net, video = copy.deepcopy(net), film(batch=2, steps=3)
    net.recurrent_layers[0].hidden_to_hidden.zero_()
    close(net(video)[0], torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1))


# --- law 5


@torch.no_grad()
@all_networks
def test_5_just_after_conversion_all_gates_see_the_same_input(combination):
    cell, _, _, kind = combination
    cnn, net = converted(combination)
    (layer,) = net.recurrent_layers
    seen = []
    handle = layer.input_to_hidden.register_forward_hook(lambda module, args, u: seen.append(u))
    net(film(batch=2, steps=3))
    handle.remove()
    (u,) = seen
    assert u.shape[0] == 6
    assert u.shape[1] in (1, len(layer.cell.gates))
    assert u.shape[2:] == (SIZE,)
    assert torch.equal(u, u[:, :1].expand_as(u))
    (single,) = converted((cell, "single", "full", kind))[1].recurrent_layers
    assert single.input_to_hidden.introduced == 0
    assert not layer.bias.any()
    assert torch.equal(layer.input_to_hidden.layer.weight, cnn.get_submodule(cnn.layer).weight)


@pytest.mark.parametrize("kind", list(CNNS))
@pytest.mark.parametrize("form", list(INPUTS))
def test_5_the_input_is_that_of_the_single_form(form, kind):
    seen = {}
    for each in (form, "single"):
        (layer,) = converted(("lstm", each, "full", kind))[1].recurrent_layers
        handle = layer.input_to_hidden.register_forward_hook(lambda m, a, u, each=each: seen.update({each: u}))
        torch.manual_seed(3)
        converted(("lstm", each, "full", kind))[1](film())
        handle.remove()
    close(seen[form][:, :1], seen["single"])


def snapshot(cnn):
    """All that conversion might change in a CNN."""
    modules = {name: (type(m), m.training, list(m._forward_hooks), sorted(vars(m))) for name, m in cnn.named_modules()}
    tensors = {name: t.detach().clone() for name, t in cnn.state_dict().items()}
    flags = {name: (p.requires_grad, id(p)) for name, p in cnn.named_parameters()}
    return modules, tensors, flags


@pytest.mark.parametrize("combination", list(itertools.product(CELLS, INPUTS, ["full"], CNNS)), ids="-".join)
@pytest.mark.parametrize("training", [True, False])
def test_5_the_source_cnn_is_bit_identical_after_conversion_and_training(combination, training):
    cell, form, hidden, kind = combination
    cnn = prepare(CNNS[kind]()).train(training)
    cnn.fc8.weight.requires_grad_(False) if kind == "fc" else cnn.fc.weight.requires_grad_(False)
    frame = film()[:, 0]
    expected = copy.deepcopy(cnn).eval()(frame)
    modules, tensors, flags = snapshot(cnn)
    net = prernn.convert(cnn, cell=cell, input=form, hidden=hidden, outputs=3, image_size=(8, 8))
    built = prernn.traditional(cnn, cell=cell, image_size=(8, 8))
    for each in (net, built):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(film())[0].square().sum().backward()
        optimizer.step()
    after_modules, after, after_flags = snapshot(cnn)
    assert after_modules == modules
    assert after_flags == flags
    assert all(torch.equal(after[name], value) for name, value in tensors.items())
    assert torch.equal(cnn.eval()(frame), expected)
    assert not {id(p) for p in net.parameters()} & {id(p) for p in cnn.parameters()}


# --- law 7


@all_networks
def test_7_no_output_depends_on_a_later_frame(combination):
    net = shaken(combination)
    video = film(batch=1, steps=4).requires_grad_()
    out, state = net(video)
    for time in range(4):
        (grad,) = torch.autograd.grad(out[:, time].square().sum(), video, retain_graph=True)
        reached = grad.flatten(2).abs().sum((0, 2))
        assert not reached[time + 1 :].any()
        assert bool((reached[: time + 1] > 0).all())  # but on every earlier one
    (grad,) = torch.autograd.grad(sum(t.square().sum() for layer in state for t in layer), video)
    assert bool((grad.flatten(2).abs().sum((0, 2)) > 0).all())
    changed = video.detach().clone()
    changed[:, 2:] = torch.randn_like(changed[:, 2:])
    close(net(changed)[0][:, :2], out[:, :2])


# --- the reference kernel


CELL_VARIANTS = {
    **{name: make_cell(name) for name in CELLS},
    "gru-after-old": GRUCell(reset="after", update="old"),
    "gru-before-old": GRUCell(reset="before", update="old"),
}
FEW = ["full", "diagonal", "band:3", "grouped:2", "sparse:0.5", "paths:2"]


def free_function(cell, spec, lengths=None, size=4):
    """A layer as a function of all that it computes with, and values for that."""
    layer = RecurrentStack(cell, 3, size, hidden=spec, **DOUBLE)
    parameters = dict(layer.named_parameters())

    def run(x, *values):
        weights = dict(zip(parameters, values, strict=False))
        state = values[len(parameters) :]
        state = state if len(state) > 1 else state[0]
        out, last = torch.func.functional_call(layer, weights, (x, state, lengths))
        return (out, *last) if isinstance(last, tuple) else (out, last)

    shapes = [(3, 2, 3), *(p.shape for p in parameters.values()), *[(1, 2, size)] * len(cell.states)]
    return run, tuple(torch.randn(shape, **DOUBLE, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("spec", FEW)
@pytest.mark.parametrize("name", list(CELL_VARIANTS))
def test_6_gradients_of_the_reference(name, spec):
    run, inputs = free_function(CELL_VARIANTS[name], spec)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", list(CELL_VARIANTS))
def test_6_gradients_of_the_reference_with_lengths_and_without_short_cuts(name):
    run, inputs = free_function(CELL_VARIANTS[name], "band:3", lengths=torch.tensor([3, 1]), size=3)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_6_gradients_of_the_activations(name):
    run, inputs = free_function(make_cell("vrnn", activation=ACTIVATIONS[name]), "full")
    assert torch.autograd.gradcheck(run, inputs)


# --- what the recurrence keeps besides


@pytest.mark.parametrize("cell", list(CELLS))
def test_state_and_recurrence_keep_their_precision_under_autocast(cell):
    cnn = CNNS["fc"]().eval()
    net = prernn.convert(cnn, cell=cell, image_size=(8, 8))
    video = film().float()
    with torch.autocast("cpu", torch.bfloat16):
        out, state = net(video)
        stepped, _ = in_steps(net, video, None)
    assert all(t.dtype == torch.float32 for layer in state for t in layer)
    close(stepped.float(), out.float(), atol=0.05)


@pytest.mark.parametrize("cell", list(CELLS))
def test_init_state_is_zero_with_the_batch_first(cell):
    net = converted((cell, "single", "full", "fc"))[1]
    state = net.init_state(7)
    assert [t.shape for layer in state for t in layer] == [(7, SIZE)] * len(make_cell(cell).states)
    assert not any(t.any() for layer in state for t in layer)
    assert all(t.dtype == torch.float64 for layer in state for t in layer)
    leaves, tree = torch.utils._pytree.tree_flatten(state)
    close(torch.utils._pytree.tree_unflatten(leaves, tree), state)
    assert math.prod(leaves[0].shape) == 7 * SIZE
