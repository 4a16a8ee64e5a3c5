"""The linear cell: its reference, its kernels and the scan."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from kernel_problems import problem
from prernn import ops
from prernn.layers.cells import LinearCell
from prernn.layers.hidden_to_hidden import RecurrentWeights
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.parse import hidden_structure
from prernn.ops import scan


@pytest.mark.parametrize("mix", ["mean", "sum"])
@pytest.mark.parametrize("spec", ["full", "diagonal", "band:3"])
def test_the_linear_cell_is_rcns_recurrence(spec, mix):
    """ARCHITECTURE.md, RCN: h_1 = u_1, then (W h + u) / 2, or without the half."""
    cell, double = LinearCell(mix), {"dtype": torch.float64}
    layer = RecurrentLayer(torch.nn.Identity(), cell, 6, spec, **double)
    u = torch.randn(5, 3, 1, 6, **double)
    started = torch.tensor([[0.0], [1.0], [0.0]], **double)
    h = torch.randn(3, 6, **double)
    out, (last, begun) = layer.run(u, (h, started))
    matrix, expected = layer.hidden_to_hidden.matrix()[0], []
    for t in range(5):
        mixed = (h @ matrix.T + u[t, :, 0]) * (0.5 if mix == "mean" else 1)
        h = torch.where(started > 0, mixed, u[t, :, 0]) if t == 0 else mixed
        expected.append(h)
    torch.testing.assert_close(out, torch.stack(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(last, h, rtol=0, atol=1e-12)
    assert begun.eq(1).all()
    with pytest.raises(ValueError, match=r"mean.*'max'"):
        LinearCell("max")


@pytest.mark.parametrize("spec", ["full", "diagonal", "band:3"])
def test_6_gradients_of_the_linear_cells_reference(spec):
    structure, (weight, bias, u, h, started), _ = problem(LinearCell(), spec, 3, 2, 4)

    def run(weight, bias, u, h):
        with ops.using("reference"):
            weights = RecurrentWeights(structure, 4, weight, None, bias)
            out, last = ops.sequence(LinearCell(), weights, u, (h, started))
        return out, last[0]

    inputs = tuple(value.requires_grad_() for value in (weight, bias, u, h))
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@given(st.integers(1, 20), st.booleans(), st.sampled_from(["mean", "sum"]), st.data())
def test_the_scan_is_the_loop(steps, bias, mix, data):
    cell = LinearCell(mix)
    lengths = data.draw(st.none() | st.lists(st.integers(0, steps), min_size=3, max_size=3).map(torch.tensor))
    structure, values, _ = problem(cell, "diagonal", steps, 3, 7, bias=bias)
    results = {}
    for way in ("scan", "reference"):
        weight, offset, u, h = (None if v is None else v.clone().requires_grad_() for v in values[:4])
        state = (h, values[4])
        if way == "scan":
            out, last = scan.sequence(cell.scale, weight[0], offset, u, state, lengths)
        else:
            with ops.using("reference"):
                weights = RecurrentWeights(structure, 7, weight, None, offset)
                out, last = ops.sequence(cell, weights, u, state, lengths)
        leaves = [value for value in (weight, offset, u, h) if value is not None]
        results[way] = [out, *last, *torch.autograd.grad(out.square().sum() + last[0].sum(), leaves)]
    torch.testing.assert_close(results["scan"], results["reference"], rtol=1e-9, atol=1e-10)


def test_the_scan_runs_where_there_is_no_kernel_and_overflow_stays_nothing(monkeypatch):
    seen = []
    original = scan.sequence
    monkeypatch.setattr(scan, "sequence", lambda *arguments: seen.append(1) or original(*arguments))
    weights = RecurrentWeights(hidden_structure("diagonal"), 2, torch.full((1, 2), 2.0).double(), None, None)
    state = (torch.zeros(1, 2).double(), torch.ones(1, 1).double())
    u = torch.zeros(3000, 1, 1, 2).double()
    u[0, 0, 0, 1] = 1e-300
    out, _ = ops.sequence(LinearCell("sum"), weights, u, state)
    assert seen
    assert not out[:, 0, 0].any()
    assert out[:900, 0, 1].isfinite().all()
    assert out[-1, 0, 1].isinf()
