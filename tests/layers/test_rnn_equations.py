"""The drop-ins against the equations written out, step by step and in chunks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import close, gru_step, lstm_step, run_equations, torch_gru_step, vrnn_step
from prernn.layers.cells import GRUCell
from rnn_layers import DOUBLE, OURS, draw_state
from strategies import SPECS, compositions


def parts(layer):
    """Weights of the first layer as the equations want them: W_ih, W_hh, b_ih, b_hh, gates first."""
    gates = len(layer.cell.gates)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [getattr(layer, name).unflatten(0, (gates, -1)) for name in names]


def written_out(step, layer, x, state):
    w_ih, w_hh, b_ih, b_hh = parts(layer)
    u = torch.einsum("tbi,gdi->tbgd", x, w_ih) + b_ih
    return run_equations(step, u, state, w_hh, b_hh)


def with_biases(layer):
    torch.nn.init.normal_(layer.bias_hh_l0)
    return layer


@pytest.mark.parametrize(
    ("layer", "step"),
    [
        (lambda: prernn.VRNN(3, 4, **DOUBLE), vrnn_step),
        (lambda: prernn.VRNN(3, 4, activation="relu", **DOUBLE), lambda *a: vrnn_step(*a, activation=torch.relu)),
        (lambda: prernn.LSTM(3, 4, **DOUBLE), lstm_step),
        (lambda: prernn.GRU(3, 4, reset="after", **DOUBLE), lambda *a: torch_gru_step(*a, reset="after")),
        (lambda: prernn.GRU(3, 4, reset="before", **DOUBLE), lambda *a: torch_gru_step(*a, reset="before")),
        (lambda: prernn.GRU(3, 4, **DOUBLE), lambda *a: torch_gru_step(*a, reset="after")),
    ],
    ids=["vrnn", "relu", "lstm", "after", "before", "gru"],
)
def test_equations_written_out(layer, step):
    layer = with_biases(layer())
    x = torch.randn(5, 2, 3, **DOUBLE)
    state = tuple(torch.randn(2, 4, **DOUBLE) for _ in layer.cell.states)
    out, last = layer(x, tuple(tensor.unsqueeze(0) for tensor in state))
    expected, expected_last = written_out(step, layer, x, state)
    close(out, expected)
    close(last if isinstance(last, tuple) else (last,), tuple(tensor.unsqueeze(0) for tensor in expected_last))


def test_z_of_the_torch_names_is_one_minus_the_papers():
    """prernn.GRU with the z rows negated is eq. 3; as it stands it is not."""
    layer = with_biases(prernn.GRU(3, 4, reset="before", **DOUBLE))
    x, state = torch.randn(5, 2, 3, **DOUBLE), (torch.randn(2, 4, **DOUBLE),)
    expected, last = written_out(gru_step, layer, x, state)
    assert (layer(x, state[0].unsqueeze(0))[0] - expected).abs().max() > 0.01
    negated = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in negated.parameters():
            parameter[4:8].neg_()
    out, h = negated(x, state[0].unsqueeze(0))
    close(out, expected)
    close(h[0], last[0])


def test_the_two_resets_differ():
    before, after = prernn.GRU(3, 4, reset="before", **DOUBLE), prernn.GRU(3, 4, **DOUBLE)
    after.load_state_dict(before.state_dict())
    x = torch.randn(5, 2, 3, **DOUBLE)
    assert (before(x)[0] - after(x)[0]).abs().max() > 1e-3
    assert (before.reset, after.reset) == ("before", "after")


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize("update", ["new", "old"])
def test_gru_cell_with_either_meaning_of_z(reset, update):
    cell, size = GRUCell(reset=reset, update=update), 4
    u, h = torch.randn(3, 3, size, **DOUBLE), torch.randn(3, size, **DOUBLE)
    w, b = torch.randn(3, size, size, **DOUBLE), torch.randn(3, size, **DOUBLE)

    def product(first, last):
        return lambda rows: torch.einsum("gij,nj->ngi", w[first:last], rows) + b[first:last]

    (actual,) = cell.step(u, (h,), [product(*group) for group in cell.groups])
    for row in range(3):
        u_row = u[row].clone()
        w_row, b_row = w.clone(), b.clone()
        if update == "new":
            u_row[1], w_row[1], b_row[1] = -u_row[1], -w_row[1], -b_row[1]
        close(actual[row], torch_gru_step(u_row, (h[row],), w_row, b_row, reset=reset)[0])


@settings(max_examples=30)
@given(
    cell=st.sampled_from(list(OURS)),
    spec=st.sampled_from(SPECS),
    num_layers=st.integers(1, 3),
    bias=st.booleans(),
    splits=st.integers(1, 6).flatmap(compositions),
)
def test_step_equals_sequence_equals_chunks(cell, spec, num_layers, bias, splits):
    """Law 1 for the drop-ins."""
    layer = OURS[cell](3, 12, num_layers, hidden=spec, bias=bias, **DOUBLE)
    x = torch.randn(sum(splits), 2, 3, **DOUBLE)
    expected, last = layer(x)
    state, outputs = None, []
    for x_t in x:
        out, state = layer.step(x_t, state)
        outputs.append(out)
    close(torch.stack(outputs), expected)
    close(state, last)
    state, outputs = None, []
    for chunk in x.split(splits):
        out, state = layer(chunk, state)
        outputs.append(out)
    close(torch.cat(outputs), expected)
    close(state, last)


@torch.no_grad()
@pytest.mark.parametrize("cell", list(OURS))
def test_the_state_handed_in_is_left_as_it_was(cell):
    layer = OURS[cell](3, 4, 2, **DOUBLE)
    state = draw_state(cell, 2, 5, 4)
    before = copy.deepcopy(state)
    out, following = layer.step(torch.randn(5, 3, **DOUBLE), state)
    kept = copy.deepcopy(following)
    out.mul_(3)  # what is done to an output must not reach the state
    close(state, before)
    close(following, kept)
    out, following = layer(torch.randn(1, 5, 3, **DOUBLE), state)
    kept = copy.deepcopy(following)
    out.mul_(3)
    close(state, before)
    close(following, kept)
