"""The C kernels against the reference."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from kernel_problems import native, problem
from prernn import ops
from prernn.layers.cells import GRUCell, LinearCell, LSTMCell, VRNNCell, make_cell, recurrent_gates
from prernn.layers.hidden_to_hidden import RecurrentWeights, draw_index
from prernn.layers.structures.parse import hidden_structure

CELLS = {
    "vrnn-tanh": VRNNCell(),
    "vrnn-relu": VRNNCell(torch.relu),
    "lstm": LSTMCell(),
    **{f"gru-{r}-{u}": GRUCell(reset=r, update=u) for r, u in itertools.product(("before", "after"), ("new", "old"))},
    "linear-mean": LinearCell(),
    "linear-sum": LinearCell("sum"),
    **{name: make_cell(name) for name in ("ligru", "qrnn", "sru", "mingru")},
}
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 0.03, "atol": 0.06}}
"""Law 6: float32 sums and an exponential that is half a unit off; bfloat16 has 8 bits."""


def solve(cell, structure, values, lengths, backend, dtype):
    """Outputs, last state and all gradients of one sequence."""
    values = [None if v is None else v.to(dtype).clone().requires_grad_() for v in values]
    if isinstance(cell, LinearCell):
        values[-1] = values[-1].detach()
    weight, bias, u, *state = values
    weights = RecurrentWeights(structure, u.shape[3], weight, draw_index(structure, u.shape[3], weight), bias)
    with ops.using(backend):
        out, last = ops.sequence(cell, weights, u, tuple(state), lengths)
    assert out.dtype == dtype
    factors = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=factors).to(dtype)).sum() for t in (out, *last))
    wanted = [value for value in values if value is not None and value.requires_grad and value.numel()]
    # unused is h_{t-1} of cells whose gates see no state; of an empty batch without weights nothing is wanted
    found = torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else ()
    return [out, *last, *(torch.zeros_like(v) if g is None else g for v, g in zip(wanted, found, strict=True))]


def compare(cell, structure, values, lengths, dtype=torch.float32):
    actual = solve(cell, structure, values, lengths, "native", dtype)
    expected = solve(cell, structure, values, lengths, "reference", torch.float64)
    scale = max([1.0, *(float(e.detach().abs().max()) for e in expected if e.numel())])  # gradients of sums are large
    tolerance = {**TOLERANCE[dtype], "atol": TOLERANCE[dtype]["atol"] * scale}
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, **tolerance)


@pytest.mark.parametrize("shared", [False, True], ids=["gates", "shared"])
@pytest.mark.parametrize("spec", ["diagonal", "band:1", "band:3", "band:9", "band:41"])
@pytest.mark.parametrize("name", list(CELLS))
def test_6_native_equals_the_reference(name, spec, shared, instructions):
    for bias, lengths in ((True, None), (False, torch.tensor([5, 0, 3]))):
        compare(CELLS[name], *problem(CELLS[name], spec, shared=shared, bias=bias, lengths=lengths))


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
@pytest.mark.parametrize("name", list(CELLS))
def test_6_native_equals_the_reference_in_bfloat16(name, spec, instructions):
    lengths = torch.tensor([5, 0, 3])
    compare(CELLS[name], *problem(CELLS[name], spec, lengths=lengths, dtype=torch.bfloat16), dtype=torch.bfloat16)


@pytest.mark.parametrize("spec", ["band:17", "band:33", "band:47", "band:95"])
@pytest.mark.parametrize("name", list(CELLS))
def test_6_wide_bands_in_a_stream_which_are_read_as_they_are_stored(name, spec, instructions):
    cell = CELLS[name]
    for batch in (1, 5):
        structure, values, _ = problem(cell, spec, 1, batch, 48)
        neighbor = torch.arange(48).unsqueeze(1) + torch.arange(structure.width) - structure.width // 2
        values[0][:, (neighbor < 0) | (neighbor > 47)] = float("nan")
        compare(cell, structure, values, None)


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
def test_bfloat16_is_float32_inside_and_rounded_to_nearest_outside(spec, instructions):
    cell = LSTMCell()
    structure, values, _ = problem(cell, spec, batch=16, size=40, dtype=torch.bfloat16)
    weight, bias, u, h, c = (value.bfloat16() for value in values)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        weights = RecurrentWeights(structure, 40, weight.to(dtype), None, bias.to(dtype))
        results.append(ops.sequence(cell, weights, u.to(dtype), (h.to(dtype), c.to(dtype))))
    (out, last), (expected, expected_last) = results
    torch.testing.assert_close(out, expected.bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(last, tuple(t.bfloat16() for t in expected_last), rtol=0, atol=0)


@given(st.integers(1, 6), st.integers(0, 10), st.integers(1, 70), st.integers(0, 6), st.data())
def test_6_native_equals_the_reference_at_any_shape(steps, batch, size, reach, data):
    cell = CELLS[data.draw(st.sampled_from(list(CELLS)))]
    spec = f"band:{2 * min(reach, size - 1) + 1}" if reach else "diagonal"
    lengths = data.draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    lengths = None if lengths is None else torch.tensor(lengths, dtype=torch.int64)
    compare(cell, *problem(cell, spec, steps, batch, size, lengths=lengths, shared=data.draw(st.booleans())))


@pytest.mark.parametrize("spec", ["diagonal", "band:5"])
@pytest.mark.parametrize("name", list(CELLS))
def test_6_large_sizes_on_several_threads(name, spec, monkeypatch):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    cell = CELLS[name]
    for batch, size in ((13, 530), (2, 1100)):
        structure, values, _ = problem(cell, spec, 3, batch, size)
        alone = solve(cell, structure, values, None, "native", torch.float32)
        torch.set_num_threads(3)
        try:
            compare(cell, structure, values, None)
            together = solve(cell, structure, values, None, "native", torch.float32)
        finally:
            torch.set_num_threads(1)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
@pytest.mark.parametrize("name", list(CELLS))
def test_1_chunks_and_steps_are_the_sequence(name, spec):
    cell = CELLS[name]
    structure, values, _ = problem(cell, spec, 6, 5, 37)
    weight, bias, u, *state = (value.float() for value in values)
    weights = RecurrentWeights(structure, 37, weight, None, bias)
    whole, last = ops.sequence(cell, weights, u, tuple(state))
    for chunks in ([1] * 6, [2, 4], [5, 1]):
        outputs, own = [], tuple(state)
        for part in u.split(chunks):
            out, own = ops.sequence(cell, weights, part, own)
            outputs.append(out)
        torch.testing.assert_close(torch.cat(outputs), whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(own, last, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["diagonal", "band:3", "band:7"])
def test_2_the_kernels_product_is_that_of_the_matrix(spec):
    structure, (weight, _, _, state, _), _ = problem(LinearCell("sum"), spec, size=19)
    u, started = torch.zeros(1, 3, 1, 19), torch.ones(3, 1)
    with ops.using("native"):
        out, _ = ops.sequence(
            LinearCell("sum"),
            RecurrentWeights(structure, 19, weight.float(), None, None),
            u,
            (state.float(), started),
        )
    expected = state @ structure.matrix(weight, None, 19)[0].T
    torch.testing.assert_close(out[0].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if recurrent_gates(cell)])
def test_what_stands_outside_the_matrix_is_never_used_and_gets_no_gradient(name):
    cell, structure = CELLS[name], hidden_structure("band:7")
    _, values, _ = problem(cell, "band:7", size=5)
    weight = values[0].clone()
    neighbor = torch.arange(5).unsqueeze(1) + torch.arange(7) - 3
    beyond = (neighbor < 0) | (neighbor > 4)
    weight[:, beyond] = float("nan")
    actual = solve(cell, structure, [weight, *values[1:]], None, "native", torch.float32)
    expected = solve(cell, structure, values, None, "native", torch.float32)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    d_weight = actual[1 + len(cell.states)]
    assert d_weight.shape == weight.shape
    assert not d_weight[:, beyond].any()
    assert d_weight[:, ~beyond].all() or name in ("vrnn-relu", "ligru")


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
@pytest.mark.parametrize("name", list(CELLS))
def test_7_a_later_input_changes_nothing_before(name, spec):
    cell = CELLS[name]
    structure, values, _ = problem(cell, spec)
    weight, bias, u, *state = (value.float() for value in values)
    weights = RecurrentWeights(structure, 21, weight, None, bias)
    before, _ = ops.sequence(cell, weights, u, tuple(state))
    u[3:] += 1
    after, _ = ops.sequence(cell, weights, u, tuple(state))
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=0)
    assert (after[3:] != before[3:]).any()


LAYOUTS = {
    "batch first": lambda u: u.transpose(0, 1).contiguous().transpose(0, 1),
    "gates first": lambda u: u.movedim(2, 0).contiguous().movedim(0, 2),
    "units first": lambda u: u.movedim(3, 0).contiguous().movedim(0, 3),
    "every second unit": lambda u: torch.stack([u, -u], dim=-1).flatten(3)[..., ::2],
    "gates on top of each other": lambda u: u[:, :, :1].expand_as(u),
    "rows on top of each other": lambda u: u[:, :1].expand_as(u),
    "backwards": lambda u: torch.cat([u, u])[: len(u)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
def test_inputs_of_any_layout(spec, layout):
    cell = GRUCell()
    structure, (weight, bias, u, state), _ = problem(cell, spec)
    u = LAYOUTS[layout](u.float())
    expected = solve(cell, structure, [weight, bias, u.double().contiguous(), state], None, "reference", torch.float64)
    leaf = u.detach().requires_grad_()
    weights = RecurrentWeights(structure, 21, weight.float(), None, bias.float())
    out, last = ops.sequence(cell, weights, leaf, (state.float(),))
    torch.testing.assert_close(out.double(), expected[0], rtol=0, atol=1e-5)
    factors = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=factors)).sum() for t in (out, *last))
    (d_u,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(d_u.double(), expected[4], rtol=0, atol=1e-4)


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
@pytest.mark.parametrize("name", list(CELLS))
def test_nan_and_infinity_pass_as_in_the_reference(name, spec, instructions):
    cell = CELLS[name]
    structure, values, _ = problem(cell, spec, 2, 6, 40)
    weight, bias, u, *state = (value.float() for value in values)
    for place, value in enumerate((float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 100.0)):
        u[0, place, :, place::7] = value
    weights = RecurrentWeights(structure, 40, weight, None, bias)
    out, last = ops.sequence(cell, weights, u, tuple(state))
    with ops.using("reference"):
        expected, expected_last = ops.sequence(cell, weights, u, tuple(state))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(last, expected_last, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert expected.isnan().any()
    if all(bounds is not None for bounds in getattr(cell, "ranges", (None,))):
        assert expected[0, 1].isfinite().all()  # gates saturate
