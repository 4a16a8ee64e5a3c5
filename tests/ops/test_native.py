"""What stands between the C kernels and torch: what is refused, chosen, differentiated and compiled."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import prernn
from kernel_problems import native, problem
from prernn import ops
from prernn.commands.main import main
from prernn.layers.cells import GRUCell, VRNNCell
from prernn.layers.hidden_to_hidden import RecurrentWeights
from prernn.layers.structures.parse import hidden_structure
from prernn.ops import backends


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
    with pytest.raises(ValueError, match="native is not available: no C compiler"):
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
            None,
            None,
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
