"""What stands in the padding changes nothing, to the last bit: outputs, states, gradients."""

import math

import pytest
import torch

from prernn import ops
from prernn.layers.cells import CELLS, GRUCell, LinearCell, make_cell, recurrent_gates
from prernn.layers.recurrent_stack import RecurrentStack
from prernn.ops import scan
from strategies import SPECS

CELL_VARIANTS = {
    **{name: make_cell(name) for name in CELLS if recurrent_gates(make_cell(name))},  # the others: test_affine.py
    "relu": make_cell("vrnn", activation=torch.relu),
    "gru-after": GRUCell(reset="after", update="old"),
}
JUNK = (math.nan, math.inf, -math.inf, 3e38)
LENGTHS = torch.tensor([2, 5, 0, 3])


def padded(x, values, batch_first=False):
    """``x (T, B, ...)`` with one of ``values`` at each step from each row's length on: in turn, so that all occur."""
    x = x.clone()
    for row, length in enumerate(LENGTHS):
        for step in range(length, len(x)):
            x[step, row] = values[(step + row) % len(values)]
    return (x.transpose(0, 1) if batch_first else x).requires_grad_()


def outcome(layer, x, state):
    torch.manual_seed(0)  # of dropout
    out, last = layer(x, state, lengths=LENGTHS)
    last = last if isinstance(last, tuple) else (last,)
    loss = out.square().sum() + sum(tensor.square().sum() for tensor in last)
    return [out, *last, *torch.autograd.grad(loss, [x, *state, *layer.parameters()])]


def same_bits(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert bool(other.isfinite().all())
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("spec", [*SPECS, "sparse:0.1+self"])
@pytest.mark.parametrize("name", list(CELL_VARIANTS))
def test_of_a_layer(name, spec, dtype):
    """Kernels where there are any (float32 and bfloat16), the reference elsewhere; either direction, two layers."""
    layout = {"batch_first": dtype == torch.float32, "bias": dtype != torch.float64}
    cell, sizes = CELL_VARIANTS[name], {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
    layer = RecurrentStack(cell, 3, 12, hidden=spec, dtype=dtype, **sizes, **layout)
    x, state = torch.randn(5, 4, 3, dtype=dtype), [torch.randn(4, 4, 12, dtype=dtype) for _ in cell.states]
    state = [tensor.requires_grad_() for tensor in state]
    given = state if len(state) > 1 else state[:1]
    expected = outcome(layer, padded(x, [0.0], layer.batch_first), given)
    same_bits(outcome(layer, padded(x, JUNK, layer.batch_first), given), expected)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("spec", ["diagonal", "band:3", "full"])
@pytest.mark.parametrize("name", [*CELL_VARIANTS, "linear"])
def test_of_gate_inputs(name, spec, backend):
    """`prernn.ops.sequence` itself, whose padding may be of any making."""
    cell = LinearCell() if name == "linear" else CELL_VARIANTS[name]
    layer = RecurrentStack(cell, 3, 7, hidden=spec)
    weights, gates = layer.recurrent_weights("_l0"), len(cell.gates)
    state = tuple(torch.zeros(4, 1 if part == "started" else 7) for part in cell.states)
    u = torch.randn(5, 4, gates, 7)

    def run(u):
        with ops.using(backend if spec != "full" else "reference"):
            out, last = ops.sequence(cell, weights, u, state, LENGTHS)
        return [out, *last, *torch.autograd.grad(out.square().sum() + last[0].sum(), [u, layer.weight_hh_l0])]

    expected = run(padded(u, [0.0]))
    same_bits(run(padded(u, JUNK)), expected)


def test_of_a_scan():
    weight, state = torch.randn(7, requires_grad=True), (torch.randn(4, 7), torch.tensor([[1.0], [0], [1], [0]]))
    u = torch.randn(5, 4, 1, 7)

    def run(u):
        out, last = scan.sequence(0.5, weight, None, u, state, LENGTHS)
        return [out, *last, *torch.autograd.grad(out.square().sum() + last[0].sum(), [u, weight])]

    expected = run(padded(u, [0.0]))
    same_bits(run(padded(u, JUNK)), expected)
