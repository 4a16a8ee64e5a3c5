"""Recurrences that are affine in their state: all steps at once are one step after the other, also on the way back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import EQUATIONS, close, run_equations
from prernn import ops
from prernn.layers.cells import CELLS, make_cell, recurrent_gates
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.ops.scan import affine_scan
from small_cnns import CNNS, film, prepare

AFFINE = [name for name in CELLS if not recurrent_gates(make_cell(name))]
DOUBLE = {"dtype": torch.float64}


def loop(a, b, state):
    states = []
    for a_t, b_t in zip(a, b, strict=True):
        state = a_t * state + b_t
        states.append(state)
    return torch.stack(states)


@settings(max_examples=100)
@given(steps=st.integers(1, 90), rows=st.integers(1, 3), size=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_scan_is_the_loop(steps, rows, size, seed):
    chance = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(steps, rows, size, generator=chance, **DOUBLE).requires_grad_() for _ in range(2))
    first = torch.randn(rows, size, generator=chance, **DOUBLE).requires_grad_()
    a.data.clamp_(-1.1, 1.1)
    found, expected = affine_scan(a, b, first), loop(a, b, first)
    scale = expected.abs().max().item()
    close(found, expected, atol=1e-12 * max(1, scale))
    weight = torch.randn(found.shape, generator=chance, **DOUBLE)
    gradients = [torch.autograd.grad((values * weight).sum(), (a, b, first)) for values in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        close(one, other, atol=1e-11 * max(1, float(other.abs().max())))


def test_its_gradient_has_a_gradient():
    a, b, first = (torch.rand(shape, **DOUBLE).requires_grad_() for shape in ((7, 2, 3), (7, 2, 3), (2, 3)))
    assert torch.autograd.gradcheck(affine_scan, (a, b, first))
    assert torch.autograd.gradgradcheck(affine_scan, (a, b, first))


def test_a_factor_of_zero_forgets_whatever_was():
    """A closed gate is exact, also where products of factors underflow on the way."""
    a = torch.full((100, 1, 1), 1e-30)
    a[50] = 0
    b = torch.ones(100, 1, 1)
    close(affine_scan(a, b, torch.full((1, 1), 1e30)), loop(a, b, torch.full((1, 1), 1e30)), atol=0)


@pytest.mark.parametrize("cell", AFFINE)
@settings(max_examples=30)
@given(steps=st.integers(1, 40), batch=st.integers(1, 3), shared=st.booleans(), data=st.data())
def test_cells_are_their_equations(cell, steps, batch, shared, data):
    made, size = make_cell(cell), 4
    layer = RecurrentLayer(torch.nn.Identity(), made, size, **DOUBLE)
    u = torch.randn(steps, batch, 1 if shared else len(made.gates), size, **DOUBLE)
    state = tuple(torch.randn(batch, size, **DOUBLE) for _ in made.states)
    lengths = data.draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch).map(torch.tensor))
    weights = layer.hidden_to_hidden.weights(layer.bias)
    found = ops.sequence(made, weights, u, state, lengths)
    with ops.using("reference"):
        close(found, ops.sequence(made, weights, u, state, lengths))
    if lengths is None:
        close(found, run_equations(EQUATIONS[cell], u.expand(-1, -1, len(made.gates), -1), state, None, None))


@pytest.mark.parametrize("cell", AFFINE)
@pytest.mark.parametrize("hidden", ["full", "band:3", "grouped:2"])
def test_they_have_no_recurrent_weights(cell, hidden, tmp_path):
    cnn = prepare(CNNS["conv"]())
    net = prernn.convert(cnn, cell=cell, hidden=hidden, image_size=(8, 8))
    assert net.recurrent_layers[0].hidden_to_hidden.matrix().shape[0] == 0
    assert prernn.recurrent_parameters(net).hidden_to_hidden == 0
    video = film(steps=9)
    whole, state, outs = net(video)[0], None, []
    for frame in video.unbind(1):
        out, state = net.step(frame, state)
        outs.append(out)
    close(torch.stack(outs, 1), whole)
    whole.sum().backward()
    again = prernn.load(prernn.save(net.float(), tmp_path), cnn.float()).double()
    close(again(video)[0], whole, atol=1e-5)


def test_they_learn_to_remember():
    """Each brings a bit over ten steps, which a network without memory can't."""
    torch.manual_seed(0)
    for cell in AFFINE:
        net = prernn.traditional(prernn.backbone("features", features=2, classes=2), cell=cell, hidden_size=16)
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(150):
            bits = torch.randint(2, (32,))
            x = torch.zeros(32, 10, 2)
            x[:, 0] = torch.nn.functional.one_hot(bits, 2).float() * 3
            loss = torch.nn.functional.cross_entropy(net(x)[0][:, -1], bits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.1, cell


@pytest.mark.parametrize("cell", AFFINE)
def test_padding_changes_nothing_to_the_last_bit(cell):
    made, lengths = make_cell(cell), torch.tensor([2, 5, 0, 3])
    layer = RecurrentLayer(torch.nn.Identity(), made, 7)
    state = tuple(torch.randn(4, 7) for _ in made.states)
    u = torch.randn(5, 4, len(made.gates), 7)

    def run(value):
        x = u.clone()
        for row, length in enumerate(lengths):
            x[length:, row] = value
        x.requires_grad_()
        out, last = ops.sequence(made, layer.hidden_to_hidden.weights(layer.bias), x, state, lengths)
        return [out, *last, *torch.autograd.grad(out.square().sum() + last[-1].sum(), [x])]

    expected = run(0.0)
    for junk in (float("nan"), float("inf"), 3e38):
        assert all(torch.equal(one, other) for one, other in zip(run(junk), expected, strict=True))
