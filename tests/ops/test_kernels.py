"""The C kernels against the reference, and what stands between them and torch."""

import itertools
import os
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

import prernn
from equations import lstm_step, run_equations
from prernn import ops
from prernn.commands.main import main
from prernn.layers.cells import GRUCell, LinearCell, LSTMCell, VRNNCell
from prernn.layers.hidden_to_hidden import RecurrentWeights, draw_index
from prernn.layers.input_to_hidden import SingleInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.parse import hidden_structure
from prernn.ops import backends, linear, rows, scan

native = pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")

CELLS = {
    "vrnn-tanh": VRNNCell(),
    "vrnn-relu": VRNNCell(torch.relu),
    "lstm": LSTMCell(),
    **{f"gru-{r}-{u}": GRUCell(reset=r, update=u) for r, u in itertools.product(("before", "after"), ("new", "old"))},
    "linear-mean": LinearCell(),
    "linear-sum": LinearCell("sum"),
}
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 0.03, "atol": 0.06}}
"""Law 6: float32 sums and an exponential that is half a unit off; bfloat16 has 8 bits."""
INSTRUCTIONS = [name for name in ("avx512", "avx2", "baseline") if native._library.prernn_choose(name.encode())]
native._library.prernn_choose(None)


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    assert native._library.prernn_choose(request.param.encode())
    assert native.instructions() == request.param
    yield request.param
    native._library.prernn_choose(None)


def problem(cell, spec, steps=5, batch=3, size=21, *, shared=False, bias=True, lengths=None, dtype=torch.float32):
    """Values for one sequence, in ``dtype``'s precision but held in float64: weight, bias, u, state and lengths."""
    structure = hidden_structure(spec)
    gates = len(cell.gates)
    fan_in = structure.fan_in(size)
    shapes = [(gates, *structure.weight_shape(size)), (gates, size), (steps, batch, 1 if shared else gates, size)]
    weight, offset, u = (torch.randn(shape).to(dtype).double() for shape in shapes)
    state = [torch.randn(batch, size).to(dtype).double() for _ in cell.states]
    if isinstance(cell, LinearCell):
        state[1] = (torch.arange(batch).unsqueeze(1) % 2).double()
    return structure, [weight / fan_in**0.5, offset if bias else None, u, *state], lengths


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
    wanted = [value for value in values if value is not None and value.requires_grad]
    return [out, *last, *torch.autograd.grad(loss, wanted)]


def compare(cell, structure, values, lengths, dtype=torch.float32):
    actual = solve(cell, structure, values, lengths, "native", dtype)
    expected = solve(cell, structure, values, lengths, "reference", torch.float64)
    scale = max(1.0, *(float(e.detach().abs().max()) for e in expected if e.numel()))  # gradients of sums are large
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
        neighbour = torch.arange(48).unsqueeze(1) + torch.arange(structure.width) - structure.width // 2
        values[0][:, (neighbour < 0) | (neighbour > 47)] = float("nan")
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
    monkeypatch.setattr(native, "WORTH_THREADS", 0)
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


@pytest.mark.parametrize("name", list(CELLS))
def test_what_stands_outside_the_matrix_is_never_used_and_gets_no_gradient(name):
    cell, structure = CELLS[name], hidden_structure("band:7")
    _, values, _ = problem(cell, "band:7", size=5)
    weight = values[0].clone()
    neighbour = torch.arange(5).unsqueeze(1) + torch.arange(7) - 3
    beyond = (neighbour < 0) | (neighbour > 4)
    weight[:, beyond] = float("nan")
    actual = solve(cell, structure, [weight, *values[1:]], None, "native", torch.float32)
    expected = solve(cell, structure, values, None, "native", torch.float32)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    d_weight = actual[1 + len(cell.states)]
    assert d_weight.shape == weight.shape
    assert not d_weight[:, beyond].any()
    assert d_weight[:, ~beyond].all() or name == "vrnn-relu"


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
    if "relu" not in name and "linear" not in name:
        assert expected[0, 1].isfinite().all()  # gates saturate


def test_functions_of_lanes_are_accurate_to_a_few_units():
    """tanh and sigmoid over their whole range, relative to float64: a GRU of one step without state computes them."""
    x = torch.cat([torch.linspace(-100, 100, 40001), torch.logspace(-30, 2, 2001), -torch.logspace(-30, 2, 2001)])
    zero = torch.zeros(1, len(x))
    weights = RecurrentWeights(hidden_structure("diagonal"), len(x), torch.zeros(1, len(x)), None, None)
    tanh, _ = ops.sequence(VRNNCell(), weights, x.view(1, 1, 1, -1), (zero,))
    units = torch.finfo(torch.float32).eps * x.double().tanh().abs().clamp(min=1e-38)
    assert ((tanh[0, 0].double() - x.double().tanh()).abs() / units).max() < 2
    u = torch.stack([zero, x.unsqueeze(0), torch.full_like(zero, 100.0)], dim=1).unsqueeze(0)  # n = 1
    weights = RecurrentWeights(hidden_structure("diagonal"), len(x), torch.zeros(3, len(x)), None, None)
    sigmoid, _ = ops.sequence(GRUCell(), weights, u, (zero,))  # h = z
    expected = x.double().sigmoid()
    usual = expected > 1e-37  # below, float32 has no full precision
    error = ((sigmoid[0, 0].double() - expected).abs() / expected)[usual].max()
    assert error < 3 * torch.finfo(torch.float32).eps


def call(**changes):
    """native.forward of a small LSTM, with arguments changed."""
    arguments = {
        "cell": "lstm",
        "u": torch.randn(2, 3, 4, 5),
        "weight": torch.randn(4, 5, 1),
        "bias": torch.randn(4, 5),
        "state": torch.randn(2, 3, 5),
        "started": None,
        "lengths": None,
        "keep": False,
    }
    return native.forward(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": torch.zeros(2, 3, 4, 5).double()}, "float32 or bfloat16.*float64"),
        ({"u": torch.zeros(2, 3, 4, 5).half()}, "float32 or bfloat16.*float16"),
        ({"u": torch.zeros(2, 3, 4, 5, device="meta")}, "u on the CPU.*meta"),
        ({"weight": torch.zeros(4, 5, 1).double()}, "weight of torch.float32.*float64"),
        ({"weight": torch.zeros(3, 5, 1)}, r"weight \(4, 5, 1\).*\(3, 5, 1\)"),
        ({"weight": torch.zeros(4, 5, 2)}, "odd band.*2"),
        ({"bias": torch.zeros(4, 5).bfloat16()}, "bias of torch.float32.*bfloat16"),
        ({"state": torch.zeros(1, 3, 5)}, r"state \(2, 3, 5\).*\(1, 3, 5\)"),
        ({"state": torch.zeros(2, 4, 5)}, r"state \(2, 3, 5\).*\(2, 4, 5\)"),
        ({"lengths": torch.tensor([1, 2, 2], dtype=torch.int32)}, "lengths of torch.int64.*int32"),
        ({"lengths": torch.tensor([1, 2, 3])}, r"lengths between 0 and 2.*\[1, 2, 3\]"),
        ({"lengths": torch.tensor([1, -1, 2])}, "lengths between 0 and 2"),
        ({"started": torch.zeros(3)}, "started of torch.bool.*float32"),
        ({"u": torch.zeros(2, 3, 2, 5)}, "4 gates or 1"),
        ({"cell": "banana"}, "vrnn.*'banana'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_the_kernels_would_read_wrongly_is_refused(changes, message):
    call()
    with pytest.raises(ValueError, match=message):
        call(**changes)


@pytest.mark.parametrize(
    ("given", "own"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_gate_inputs_of_another_type_give_the_common_type_as_in_the_reference(given, own):
    structure, values, _ = problem(GRUCell(), "diagonal", dtype=torch.bfloat16)
    weight, bias, u, h = (value.to(own) for value in values)
    results = []
    for backend in ("native", "reference"):
        with ops.using(backend):
            weights = RecurrentWeights(structure, 21, weight, None, bias)
            results.append(ops.sequence(GRUCell(), weights, u.to(given), (h,)))
    (out, (last,)), (expected, (expected_last,)) = results
    assert (out.dtype, last.dtype) == (expected.dtype, expected_last.dtype)
    torch.testing.assert_close((out, last), (expected, expected_last), rtol=0.03, atol=0.06)
    other = h.to(torch.bfloat16 if own == torch.float32 else torch.float32)
    with pytest.raises(ValueError, match="bfloat16 on cpu, float32 on cpu"), ops.using("native"):
        ops.sequence(GRUCell(), weights, u.to(given), (other,))


def test_a_drop_in_under_autocast_runs_the_kernels(monkeypatch):
    layer, x = prernn.LSTM(4, 8, hidden="band:3"), torch.randn(5, 2, 4)
    expected, seen = layer(x)[0], []
    forward = native.forward
    monkeypatch.setattr(native, "forward", lambda *a: seen.append(a[1].dtype) or forward(*a))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)[0]
    assert seen == [torch.float32]
    torch.testing.assert_close(out, expected, rtol=0.03, atol=0.03)


def test_other_types_and_cells_run_the_reference():
    layer = prernn.LSTM(4, 8, hidden="diagonal").double()
    assert layer(torch.randn(3, 2, 4).double())[0].dtype == torch.float64
    out, state = prernn.GRU(4, 8, hidden="band:3").half()(torch.randn(3, 2, 4).half())
    assert out.dtype == state.dtype == torch.float16
    cell = VRNNCell(torch.nn.GELU())
    assert cell.kernel is None
    weights = RecurrentWeights(hidden_structure("diagonal"), 8, torch.ones(1, 8), None, None)
    ops.sequence(cell, weights, torch.randn(2, 2, 1, 8), (torch.zeros(2, 8),))


def test_a_forced_backend_that_does_not_fit_is_an_error(monkeypatch):
    layer = prernn.LSTM(4, 8, hidden="diagonal")
    monkeypatch.setenv("PRERNN_OPS", "native")
    layer(torch.randn(3, 2, 4))
    prernn.LSTM(4, 8, hidden="full").double()(torch.randn(3, 2, 4).double())  # has no kernels: the reference runs
    with pytest.raises(ValueError, match=r"native: expected all of float32 or bfloat16 on cpu, got float64 on cpu"):
        layer.double()(torch.randn(3, 2, 4).double())
    monkeypatch.setenv("PRERNN_OPS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="PRERNN_OPS=triton"):
        layer.float()(torch.randn(3, 2, 4))


def test_without_the_library_everything_runs_and_info_says_so(monkeypatch, capsys):
    layer, x = prernn.GRU(4, 8, hidden="band:3"), torch.randn(3, 2, 4)
    expected = layer(x)
    monkeypatch.setitem(backends._reasons, "native", "no C compiler")
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    assert prernn.VRNN(4, 8, hidden="sparse:0.2")(x)[0].shape == (3, 2, 8)
    assert main(["info"]) == 0
    assert "no C compiler" in capsys.readouterr().out
    monkeypatch.setenv("PRERNN_OPS", "native")
    with pytest.raises(ValueError, match="native can't be had: no C compiler"):
        layer(x)


def test_instructions_can_be_chosen_and_a_wrong_word_is_an_error():
    code = "from prernn import ops; print(ops.missing('native') or ops.backends.kernels('native').instructions())"
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PRERNN_INSTRUCTIONS": name},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("baseline", "mmx")
    ]
    assert said[0] == "baseline"
    assert "PRERNN_INSTRUCTIONS" in said[1]
    assert "'mmx'" in said[1]


def test_a_second_derivative_is_refused_not_wrong():
    layer, x = prernn.GRU(4, 8, hidden="diagonal"), torch.randn(3, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="PRERNN_OPS=reference"):
        gradient.square().sum().backward()
    layer = prernn.GRU(4, 8, hidden="paths:2")
    (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="PRERNN_OPS=reference"):
        gradient.square().sum().backward()


OPERATORS = {
    "recurrence": lambda: (
        torch.ops.prernn.recurrence.default,
        (
            torch.randn(3, 2, 4, 5, requires_grad=True),
            torch.randn(4, 5, 3, requires_grad=True),
            torch.randn(4, 5, requires_grad=True),
            torch.randn(2, 2, 5, requires_grad=True),
            None,
            torch.tensor([3, 1]),
            "lstm",
            True,
        ),
    ),
    "rows_product": lambda: (
        torch.ops.prernn.rows_product.default,
        (
            torch.randn(3, 8, requires_grad=True),
            torch.randn(2, 16, requires_grad=True),
            "paths",
            2.0,
        ),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_keep_torchs_rules(name):
    torch.library.opcheck(*OPERATORS[name]())


@pytest.mark.parametrize("hidden", ["diagonal", "band:3", "paths:2"])
def test_compile_and_export_pass_over_the_operators(hidden):
    layer, x = prernn.LSTM(4, 8, hidden=hidden), torch.randn(3, 2, 4)
    expected = layer(x)[0]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    out = compiled(x)[0]
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    program = torch.export.export(layer.eval(), (x,))
    torch.testing.assert_close(program.module()(x)[0], expected)
    assert any("prernn" in str(node.target) for node in program.graph.nodes)


def test_outputs_can_be_changed_in_place_without_changing_state_or_gradients():
    layer, x = prernn.VRNN(4, 8, hidden="diagonal"), torch.randn(1, 2, 4, requires_grad=True)
    out, state = layer(x)
    kept = state.clone()
    F.relu_(out).sum().backward()
    torch.testing.assert_close(state, kept)
    assert x.grad.isfinite().all()


# --- the linear cell


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


# --- compressed rows


@pytest.mark.parametrize("spec", ["sparse:0.05", "sparse:0.19", "paths:3", "paths:40"])
@pytest.mark.parametrize("batch", [0, 1, 2, 19])
def test_2_and_6_the_compressed_product_is_that_of_the_matrix(spec, batch, instructions):
    structure, size, gates = hidden_structure(spec), 40, 3
    h = torch.randn(batch, size, requires_grad=True)
    weight = torch.randn(gates, *structure.weight_shape(size), requires_grad=True)
    index, factors = structure.index(size), torch.randn(batch, gates, size)
    y = structure.product(weight, index, size)(h)
    assert "RowsProduct" in type(y.grad_fn).__name__ or "rows_product" in type(y.grad_fn).__name__
    expected = torch.einsum("gij,nj->ngi", structure.matrix(weight, index, size), h)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    actual = torch.autograd.grad((y * factors).sum(), (h, weight))
    wanted = torch.autograd.grad((expected * factors).sum(), (h, weight))
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_compressed_rows_on_several_threads(monkeypatch):
    monkeypatch.setattr(native, "WORTH_THREADS", 0)
    structure, size = hidden_structure("paths:4"), 700
    h, weight = torch.randn(35, size, requires_grad=True), torch.randn(2, size, 4, requires_grad=True)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y = structure.product(weight, structure.index(size), size)(h)
        results.append([y, *torch.autograd.grad(y.square().sum(), (h, weight))])
    torch.set_num_threads(1)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_compressed_rows_refuse_other_types():
    with pytest.raises(ValueError, match=r"h of torch.float32.*float64"):
        rows.product(torch.randn(2, 8).double(), torch.randn(1, 16), "paths", 2)


@pytest.mark.parametrize("spec", ["sparse:0.1", "paths:3"])
def test_a_whole_layer_over_compressed_rows_equals_the_dense_one(spec):
    layer, x = prernn.LSTM(5, 40, hidden=spec), torch.randn(4, 3, 5)
    results = []
    for backend in ("native", "reference"):
        with ops.using(backend):
            out, _ = layer(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


# --- the input projection


def test_the_projection_equals_torchs_and_follows_its_weight(monkeypatch):
    used, operator = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: used.append(1) or operator(*a))
    monkeypatch.setattr(linear, "LEAST", 1)
    linear._works.cache_clear()
    x, layer = torch.randn(6, 3, 33), torch.nn.Linear(33, 50)
    with torch.no_grad():
        for change in (lambda: None, lambda: layer.weight.mul_(2), lambda: layer.weight.data.zero_()):
            change()
            expected = F.linear(x, layer.weight, layer.bias)
            torch.testing.assert_close(linear.linear(x, layer.weight, layer.bias), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(linear.linear(x, layer.weight), expected - layer.bias, rtol=0, atol=1e-5)
    assert len(used) == 1 + 2 * 3  # tried once
    assert linear.linear(x, layer.weight, layer.bias).grad_fn is not None
    assert len(used) == 7
    assert linear.linear(x[:0], layer.weight).shape == (0, 3, 50)


def test_the_projection_stays_torchs_where_onednn_fails(monkeypatch):
    x, weight = torch.randn(4, 8), torch.randn(6, 8)

    def broken(x, weight, bias, *rest):
        return F.linear(x, weight, bias) + 1

    monkeypatch.setattr(linear, "LEAST", 1)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", broken)
    linear._works.cache_clear()
    try:
        assert not linear._works()
        with torch.no_grad():
            torch.testing.assert_close(linear.linear(x, weight), F.linear(x, weight))
    finally:
        linear._works.cache_clear()


def test_one_input_for_all_gates_is_not_copied():
    layer = RecurrentLayer(SingleInput(torch.nn.Linear(4, 8)), LSTMCell(), 8, "diagonal")
    x = torch.randn(6, 4)
    out, _ = layer((x,), layer.init_state(2))
    u = layer.input_to_hidden(x).double().view(3, 2, 1, 8).expand(-1, -1, 4, -1)
    matrix, bias = layer.hidden_to_hidden.matrix().double(), layer.bias.double()
    expected, _ = run_equations(lstm_step, u, tuple(torch.zeros(2, 8).double() for _ in "hc"), matrix, bias)
    torch.testing.assert_close(out.view(3, 2, 8).double(), expected, rtol=0, atol=1e-6)
