"""The Triton kernels against the equations in float64: in Triton's interpreter, and on a GPU (pytest -m gpu)."""

import importlib.util
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from equations import gru_step, lstm_step, torch_gru_step, vrnn_step

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from prernn.ops import triton as compiled  # noqa: E402
from prernn.ops import triton_kernels  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy, inside the interpreter


def interpreted_copy():
    """The module once more, its kernels built for Triton's interpreter, whoever imported Triton before and how."""
    launcher, kernels = (importlib.util.find_spec(f"prernn.ops.{name}") for name in ("triton", "triton_kernels"))
    module, interpreted = importlib.util.module_from_spec(launcher), importlib.util.module_from_spec(kernels)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        kernels.loader.exec_module(interpreted)
        launcher.loader.exec_module(module)
    module.triton_kernels = interpreted
    return module


kernels = interpreted_copy()


def interpreter_fault():
    """Why Triton's interpreter can't run here, or None: older ones fail with a newer numpy."""
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        negate = triton.jit(_negate)
    x = torch.arange(4.0)
    try:
        negate[(2,)](x, 2)
    except Exception as error:
        return f"Triton {triton.__version__}: {error}"
    return None if torch.equal(x, -torch.arange(4.0)) else "wrong numbers"


def _negate(x, count):
    """A loop whose end is known when it runs, as those over time are."""
    for step in range(count):
        place = x + tl.program_id(0) * count + step
        tl.store(place, -tl.load(place))


FAULT = interpreter_fault()


@pytest.fixture(autouse=True)
def _needs_the_interpreter(request):
    if FAULT and not {"gpu", "slow"} & {mark.name for mark in request.node.iter_markers()}:
        pytest.skip(FAULT)


def late_gru_step(u, state, w, b):
    """The update of eq. 3 with the reset of torch.nn.GRU."""
    (h,) = state
    r = torch.sigmoid(u[0] + w[0] @ h + b[0])
    z = torch.sigmoid(u[1] + w[1] @ h + b[1])
    return ((1 - z) * h + z * torch.tanh(u[2] + r * (w[2] @ h + b[2])),)


def linear_step(u, state, w, b, scale):
    """Mean or sum of the input and what recurs."""
    return (scale * (u[0] + w[0] @ state[0] + b[0]),)


STEPS = {
    "vrnn:tanh": vrnn_step,
    "vrnn:relu": partial(vrnn_step, activation=torch.relu),
    "lstm": lstm_step,
    "gru:before:new": gru_step,
    "gru:before:old": partial(torch_gru_step, reset="before"),
    "gru:after:new": late_gru_step,
    "gru:after:old": torch_gru_step,
    "linear:mean": partial(linear_step, scale=0.5),
    "linear:sum": partial(linear_step, scale=1),
}
SOME = ["lstm", "gru:before:new", "gru:after:old", "linear:mean"]
"""One cell of every kind of kernel path."""


def dense(weight):
    """``(G, D, C)`` to ``(G, D, D)``, diagonal by diagonal."""
    _, size, columns = weight.shape
    above = range(-(columns // 2), columns // 2 + 1)
    return sum(torch.diag_embed(weight[:, max(0, -k) : size - max(0, k), c], offset=k) for c, k in enumerate(above))


def equations(cell, u, weight, bias, state, started=None, lengths=None):
    """Outputs and last state by the equations, row by row."""
    steps, rows, _, size = u.shape
    u, w = u.expand(-1, -1, weight.shape[0], -1), dense(weight)
    b = weight.new_zeros(weight.shape[0], size) if bias is None else bias
    outs, lasts = [], []
    for row in range(rows):
        own, out = tuple(state[:, row]), []
        for time in range(steps):
            if lengths is not None and time >= lengths[row]:
                out.append(torch.zeros_like(own[0]))
                continue
            fresh = started is not None and time == 0 and not started[row]
            own = (u[0, row, 0],) if fresh else STEPS[cell](u[time, row], own, w, b)
            out.append(own[0])
        outs.append(torch.stack(out))
        lasts.append(torch.stack(own))
    return torch.stack(outs, 1), torch.stack(lasts, 1)


def draw(cell, columns, *, steps=3, rows=2, size=6, shared=False, dtype=torch.float32, bias=True, device="cpu"):
    """Arguments ``u, weight, bias, state``."""
    gates, states = compiled.GATES[cell], 2 if cell == "lstm" else 1
    u = torch.randn(steps, rows, 1 if shared else gates, size, device=device).to(dtype)
    weight = torch.randn(gates, size, columns, device=device) / columns**0.5
    b = torch.randn(gates, size, device=device) if bias else None
    return u, weight, b, torch.randn(states, rows, size, device=device)


OUT = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Tolerance of what is rounded to the dtype of u; the interpreter cuts off where a GPU rounds to nearest."""


def check(module, cell, u, weight, bias, state, started=None, lengths=None, close=1e-5):
    """Forward and backward equal the equations and their gradient by autograd, both in float64."""
    arguments = [x for x in (u, weight, bias, state) if x is not None]
    leaves = [x.detach().double().requires_grad_() for x in arguments]
    named = [next(it) if x is not None else None for it in [iter(leaves)] for x in (u, weight, bias, state)]
    want_out, want_last = equations(cell, *named, started, lengths)
    d_out, d_last = torch.randn_like(want_out).to(u.dtype), torch.randn_like(want_last).float()
    loss = (want_out * d_out.double()).sum() + (want_last * d_last.double()).sum()
    wanted = iter(torch.autograd.grad(loss, leaves))

    out, last, kept = module.forward(cell, u, weight, bias, state, started, lengths, True)
    assert_near(out, want_out, max(OUT[u.dtype], close))
    assert_near(last, want_last, close)
    assert out.dtype == u.dtype
    assert last.dtype == kept.dtype == torch.float32
    assert kept.shape == (*u.shape[:2], state.shape[0], u.shape[3])
    if weight.shape[2] < 5:  # the interpreter takes its time
        again, last_again, nothing = module.forward(cell, u, weight, bias, state, started, lengths, False)
        assert torch.equal(again, out)
        assert torch.equal(last_again, last)
        assert nothing.numel() == 0

    got = module.backward(cell, d_out, d_last, u, weight, bias, state, started, lengths, kept)
    for given, gradient, tolerance in zip((u, weight, bias, state), got, (OUT[u.dtype], 0, 0, 0), strict=True):
        if given is None:
            assert gradient is None
        else:
            assert gradient.dtype == given.dtype
            assert_near(gradient, next(wanted), max(tolerance, 4 * close))
    assert torch.all(got[1].masked_select(~inside(weight)) == 0)


def assert_near(actual, wanted, tolerance):
    torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=tolerance)


def inside(weight):
    """Which entries ``(G, D, C)`` stand inside the matrix."""
    _, size, columns = weight.shape
    reads = torch.arange(size)[:, None] + torch.arange(columns)[None, :] - columns // 2
    return ((reads >= 0) & (reads < size)).expand_as(weight).to(weight.device)


def started_for(cell, rows, device="cpu"):
    """Every second row has started; None for cells that do not ask."""
    return torch.arange(rows, device=device) % 2 == 0 if cell.startswith("linear") else None


INPUTS = [(cell, shared) for cell, gates in compiled.GATES.items() for shared in (False, True)[: min(gates, 2)]]


@pytest.mark.parametrize("columns", [1, 3, 5, 9])
@pytest.mark.parametrize(("cell", "shared"), INPUTS)
def test_they_equal_the_equations(cell, shared, columns):
    rows = 2 if columns < 5 else 1
    check(kernels, cell, *draw(cell, columns, rows=rows, size=5, shared=shared), started_for(cell, rows))


@pytest.mark.parametrize(("cell", "columns"), [(cell, 1) for cell in STEPS] + [(cell, 3) for cell in SOME])
def test_rows_end_at_their_lengths(cell, columns):
    lengths = torch.tensor([2, 9, 0, 9, 3])[::2]
    u, weight, bias, state = draw(cell, columns, rows=3)
    started = started_for(cell, 3)
    check(kernels, cell, u, weight, bias, state, started, lengths)
    # what lies past a row's length is never read
    ended = torch.arange(3)[:, None] >= lengths
    noise = u.masked_fill(ended[:, :, None, None], torch.nan)
    results = []
    for x in (u, noise):
        out, last, kept = kernels.forward(cell, x, weight, bias, state, started, lengths, True)
        kept[ended] = torch.nan
        d_out = torch.ones_like(out).masked_fill_(ended[:, :, None], torch.nan if x is noise else 1)
        results.append(
            (out, last, *kernels.backward(cell, d_out, last, x, weight, bias, state, started, lengths, kept))
        )
    for plain, noisy in zip(*results, strict=True):
        assert torch.equal(plain, noisy)
    assert torch.all(results[0][2][ended] == 0)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", ["linear:mean", "linear:sum"])
def test_a_row_that_has_not_started_never_reads_its_state(cell, columns):
    u, weight, bias, state = draw(cell, columns)
    started, results = torch.tensor([True, False]), []
    for fill in (0, torch.nan):
        state[:, 1] = fill
        out, last, kept = kernels.forward(cell, u, weight, bias, state, started, None, True)
        results.append((out, last, *kernels.backward(cell, out, last, u, weight, bias, state, started, None, kept)))
    for plain, noisy in zip(*results, strict=True):
        assert torch.equal(plain, noisy)
    assert torch.all(results[0][-1][:, 1] == 0)


SHAPES = {
    "without a bias": {"bias": False},
    "one step": {"steps": 1},
    "one row": {"rows": 1},
    "two neurons": {"size": 2},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", SOME)
def test_small_shapes(cell, columns, shape):
    check(kernels, cell, *draw(cell, columns, **SHAPES[shape]))


@pytest.mark.parametrize("cell", STEPS)
def test_one_neuron(cell):
    check(kernels, cell, *draw(cell, 1, size=1))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", ["gru:before:old", "linear:sum"])
def test_more_neurons_than_a_block(cell, columns):
    check(kernels, cell, *draw(cell, columns, size=150, steps=2), close=2e-5)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", SOME)
def test_several_rows_a_program(cell, columns, monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 3)
    check(kernels, cell, *draw(cell, columns, rows=5, steps=2, size=3), started_for(cell, 5))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "linear:sum"])
def test_any_strides(cell, columns):
    u, weight, bias, state = draw(cell, columns)
    wanted = kernels.forward(cell, u, weight, bias, state, None, None, True)
    d_out, d_last = torch.randn_like(wanted[0]), torch.randn_like(wanted[1])
    gradients = kernels.backward(cell, d_out, d_last, u, weight, bias, state, None, None, wanted[2])
    wide = torch.full((*u.shape[:3], 9), torch.nan)
    wide[..., 2:8] = u
    layouts = [
        (wide[..., 2:8], d_out),
        (swapped(u, 0, 1), swapped(d_out, 0, 1)),
        (swapped(u, 2, 3), swapped(d_out, 0, 2)),  # neurons not next to each other: this one is copied
    ]
    for x, d_x in layouts:
        out, last, kept = kernels.forward(cell, x, weight, bias, state, None, None, True)
        got = kernels.backward(cell, d_x, d_last, x, weight, bias, state, None, None, kept)
        for one, other in zip((out, last, kept, *got), (*wanted, *gradients), strict=True):
            assert torch.equal(one, other)


def swapped(tensor, first, second):
    """The same values, laid out in memory with two dimensions in each other's place."""
    return tensor.transpose(first, second).contiguous().transpose(first, second)


@pytest.mark.parametrize(("dtype", "columns"), [(torch.bfloat16, 1), (torch.bfloat16, 3), (torch.float16, 3)])
@pytest.mark.parametrize("cell", SOME)
def test_half_precision_inputs_keep_a_float32_state(cell, columns, dtype):
    check(kernels, cell, *draw(cell, columns, dtype=dtype))


@pytest.mark.parametrize("cell", STEPS)
def test_an_empty_batch(cell):
    u, weight, bias, state = draw(cell, 3, rows=0)
    out, last, kept = kernels.forward(cell, u, weight, bias, state, None, None, True)
    assert out.shape == (3, 0, 6)
    assert last.shape == state.shape
    d_u, d_weight, d_bias, d_state = kernels.backward(cell, out, last, u, weight, bias, state, None, None, kept)
    assert d_u.shape == u.shape
    assert d_state.shape == state.shape
    assert torch.equal(d_weight, torch.zeros_like(weight))
    assert torch.equal(d_bias, torch.zeros_like(bias))


@pytest.mark.parametrize("columns", [3, 5])
@pytest.mark.parametrize("cell", SOME)
def test_entries_outside_the_matrix_count_for_nothing(cell, columns):
    u, weight, bias, state = draw(cell, columns, rows=1, size=3, steps=2)
    noise = weight.masked_fill(~inside(weight), torch.nan)
    out, last, kept = kernels.forward(cell, u, weight, bias, state, None, None, True)
    for got, want in zip(
        kernels.forward(cell, u, noise, bias, state, None, None, True), (out, last, kept), strict=True
    ):
        assert torch.equal(got, want)
    d_out = torch.randn_like(out)
    wanted = kernels.backward(cell, d_out, last, u, weight, bias, state, None, None, kept)
    for got, want in zip(
        kernels.backward(cell, d_out, last, u, noise, bias, state, None, None, kept), wanted, strict=True
    ):
        assert torch.equal(got, want)
    d_out[:] = torch.nan  # nothing but zero there, whatever the gradient is
    d_weight = kernels.backward(cell, d_out, last, u, weight, bias, state, None, None, kept)[1]
    assert torch.all(d_weight[~inside(weight)] == 0)
    assert torch.all(d_weight[inside(weight)].isnan())


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", STEPS)
def test_nan_spreads_as_far_as_the_matrix_lets_it(cell, columns):
    u, weight, bias, state = draw(cell, columns, steps=4, rows=2, size=9)
    u[1, 0, :, 4] = torch.nan
    out, last, kept = kernels.forward(cell, u, weight, bias, state, None, None, True)
    d_u, d_weight, _, d_state = kernels.backward(
        cell, torch.ones_like(out), torch.zeros_like(last), u, weight, bias, state, None, None, kept
    )
    # reset before the product, a neighbour's r*h is lost in the same step
    reach, first = columns // 2 * (2 if "before" in cell else 1), columns // 2 if "before" in cell else 0
    for time in range(4):
        lost = (torch.arange(9) - 4).abs() <= first + reach * (time - 1)
        assert torch.equal(out[time, 0].isnan(), lost & (time >= 1))
    assert not out[:, 1].isnan().any()
    assert not d_state[:, 1].isnan().any()
    if cell in ("vrnn:tanh", "lstm") or cell.startswith("gru"):  # the others' slopes do not depend on the value
        assert d_u[1, 0, :, 4].isnan().all()
        assert d_weight[:, 4, columns // 2].isnan().all()
        assert d_state[0, 0, 4].isnan()


@pytest.mark.parametrize("cell", STEPS)
def test_infinite_and_huge_inputs(cell):
    u, weight, bias, state = draw(cell, 1, size=8, steps=2)
    u[0, 0] = torch.tensor([torch.inf, -torch.inf, 1e30, -1e30, 90, -90, 0, 1])
    wanted = []
    for i in range(8):  # neuron by neuron: a dense product would spread 0 * inf
        one = (u[..., i : i + 1], weight[:, i : i + 1], bias[..., i : i + 1], state[..., i : i + 1])
        wanted.append(equations(cell, *(x.double() for x in one))[0])
    out = kernels.forward(cell, u, weight, bias, state, None, None, False)[0]
    torch.testing.assert_close(out.double(), torch.cat(wanted, 2), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_tanh_is_exact_to_a_few_units_in_the_last_place():
    size = torch.cat([torch.logspace(-37, 2, 4000), torch.linspace(0.5, 0.7, 1000)])
    u = torch.cat([size, -size, torch.tensor([0.0, torch.inf, -torch.inf])]).view(1, 1, 1, -1)
    zero = torch.zeros(1, 1, u.shape[-1])
    out = kernels.forward("vrnn:tanh", u, zero.transpose(1, 2), None, zero, None, None, False)[0]
    torch.testing.assert_close(out[0].double(), u[0, 0].double().tanh(), rtol=3e-7, atol=0)


def test_arguments_that_do_not_fit_are_named():
    u, weight, bias, state = draw("lstm", 3)
    run = partial(kernels.forward, "lstm", keep=True)
    with pytest.raises(ValueError, match=r"expected u in .*float32.*, got torch\.float64"):
        run(u.double(), weight, bias, state, None, None)
    with pytest.raises(ValueError, match=r"expected weight in torch\.float32, got torch\.float64"):
        run(u, weight.double(), bias, state, None, None)
    with pytest.raises(ValueError, match=r"expected bias in torch\.float32, got torch\.bfloat16"):
        run(u, weight, bias.bfloat16(), state, None, None)
    with pytest.raises(ValueError, match=r"expected state on cpu like u, got meta"):
        run(u, weight, bias, state.to("meta"), None, None)
    with pytest.raises(ValueError, match=r"expected state of shape \(2, 2, 6\), got \(1, 2, 6\)"):
        run(u, weight, bias, state[:1], None, None)
    with pytest.raises(ValueError, match=r"expected lengths in torch\.int64, got torch\.int32"):
        run(u, weight, bias, state, None, torch.ones(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="odd C, got"):
        run(u, weight[:, :, :2], bias, state, None, None)
    with pytest.raises(ValueError, match=r"expected cell to be one of vrnn:tanh, .*, got 'elman'"):
        kernels.forward("elman", u, weight, bias, state, None, None, True)
    out, last, kept = run(u, weight, bias, state, None, None)
    with pytest.raises(ValueError, match=r"expected kept of shape \(3, 2, 2, 6\), got \(0,\)"):
        kernels.backward("lstm", out, last, u, weight, bias, state, None, None, kept.new_empty(0))
    with pytest.raises(ValueError, match=r"expected d_last in torch\.float32, got torch\.float64"):
        kernels.backward("lstm", out, last.double(), u, weight, bias, state, None, None, kept)


POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.bool: "*i1"}


class Compiles:
    """Stands in for a kernel: compiles it for a GPU that need not be there, and keeps the code."""

    def __init__(self, kernel, code):
        self.kernel, self.code = kernel, code

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *given, num_warps, num_stages, enable_fp_fusion, **constants):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature = dict.fromkeys(self.kernel.arg_names, "constexpr")
        for name, value in zip(signature, given, strict=False):
            if value is None:
                constants[name] = None
            else:
                signature[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        places = {(self.kernel.arg_names.index(name),): value for name, value in constants.items()}
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": enable_fp_fusion}
        source = ASTSource(self.kernel, signature, places)
        code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        self.code.append((self.kernel.__name__, code.asm["ptx"]))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", STEPS)
def test_they_compile_for_a_gpu(cell, columns, monkeypatch):
    code = []
    for name in ("forward_kernel", "backward_kernel", "band_weight_kernel"):
        monkeypatch.setattr(triton_kernels, name, Compiles(getattr(triton_kernels, name), code))
    u, weight, bias, state = draw(cell, columns, size=96, dtype=torch.bfloat16)
    lengths, started = torch.ones(2, dtype=torch.int64), started_for(cell, 2)
    out, last, kept = compiled.forward(cell, u, weight, bias, state, started, lengths, True)
    compiled.forward(cell, u, weight, bias, state, None, None, False)
    compiled.backward(cell, out, last, u, weight, bias, state, started, lengths, kept)
    exchanges = {"forward_kernel": 2, "backward_kernel": 3} if "before" in cell else {}
    exchanges = {"forward_kernel": 1, "backward_kernel": 1, "band_weight_kernel": 0, **exchanges}
    for name, ptx in code:
        assert ptx.count("bar.sync") >= (exchanges[name] if columns > 1 else 0)  # neighbours wait for each other
        assert "ld.global.nc" not in ptx  # nothing is read past the coherent cache


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_gpu(test):
    for mark in gpu:
        test = mark(test)
    return test


WIDE = [(torch.float32, columns) for columns in (1, 3, 21, 599)]


@on_gpu
@pytest.mark.parametrize(("dtype", "columns"), [*WIDE, (torch.bfloat16, 1), (torch.bfloat16, 21), (torch.float16, 3)])
@pytest.mark.parametrize(("cell", "shared"), INPUTS)
def test_gpu_equals_the_equations(cell, shared, columns, dtype):
    drawn = draw(cell, columns, steps=7, rows=9, size=300, shared=shared, dtype=dtype, device="cuda")
    lengths = torch.tensor([7, 0, 1, 5, 7, 7, 2, 6, 7], device="cuda")
    # wide sums of random terms round more
    check(compiled, cell, *drawn, started_for(cell, 9, "cuda"), lengths, close=1e-4)


@on_gpu
@pytest.mark.parametrize("size", [1, 33, 1500, 2048, 16384])
@pytest.mark.parametrize("columns", [1, 21])
@pytest.mark.parametrize("cell", SOME)
def test_gpu_gives_equal_bits_and_neighbours_wait_for_each_other(cell, columns, size):
    """Against the interpreter on the same numbers, which has no threads to race."""
    columns = min(columns, 2 * size - 1)
    u, weight, bias, state = draw(cell, columns, steps=4, rows=2, size=size)
    started = started_for(cell, 2)
    d_out, d_last = torch.randn(4, 2, size), torch.randn_like(state)

    def run(module, device):
        x, w, b, s, begun, d_o, d_l = (
            None if y is None else y.to(device) for y in (u, weight, bias, state, started, d_out, d_last)
        )
        out, last, kept = module.forward(cell, x, w, b, s, begun, None, True)
        again = module.forward(cell, x, w, b, s, begun, None, False)
        assert torch.equal(again[0], out)
        assert torch.equal(again[1], last)
        return (out, last, *module.backward(cell, d_o, d_l, x, w, b, s, begun, None, kept))

    wanted, first = run(kernels, "cpu"), run(compiled, "cuda")
    for got, want in zip(first, wanted, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=2e-4, atol=2e-4)
    for _ in range(10):
        for got, want in zip(run(compiled, "cuda"), first, strict=True):
            assert torch.equal(got, want)


@on_gpu
@pytest.mark.parametrize("columns", [1, 3])
def test_gpu_many_rows_share_programs(columns):
    drawn = draw("gru:before:old", columns, steps=3, rows=20000, size=40, device="cuda")
    u, weight, bias, state = drawn
    out, last, kept = compiled.forward("gru:before:old", *drawn, None, None, True)
    d_u, d_weight, d_bias, d_state = compiled.backward("gru:before:old", out, last, *drawn, None, None, kept)
    sums = 0, 0
    for part in range(0, 20000, 2000):
        cut = slice(part, part + 2000)
        some = (u[:, cut], weight, bias, state[:, cut].contiguous())
        of, ol, ok = compiled.forward("gru:before:old", *some, None, None, True)
        du, dw, db, ds = compiled.backward("gru:before:old", of, ol, *some, None, None, ok)
        assert torch.equal(of, out[:, cut])
        assert torch.equal(du, d_u[:, cut])
        assert torch.equal(ds, d_state[:, cut])
        sums = sums[0] + dw.double(), sums[1] + db.double()
    torch.testing.assert_close(d_weight.double(), sums[0], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(d_bias.double(), sums[1], rtol=1e-4, atol=1e-2)


@on_gpu
@pytest.mark.parametrize("columns", [1, 3])
def test_gpu_more_elements_than_32_bits_count(columns):
    if torch.cuda.mem_get_info()[0] < 80e9:
        pytest.skip("needs 80 GB of free memory")
    rows, size = 1_100_000, 2048
    u = torch.empty(2, rows, 1, size, device="cuda", dtype=torch.bfloat16).normal_()  # 4.5e9 elements
    weight, state = torch.randn(1, size, columns, device="cuda"), torch.zeros(1, rows, size, device="cuda")
    out = compiled.forward("vrnn:tanh", u, weight, None, state, None, None, False)[0]
    few = compiled.forward("vrnn:tanh", u[:, -5:], weight, None, state[:, -5:].contiguous(), None, None, False)[0]
    assert torch.equal(out[:, -5:], few)


@on_gpu
def test_gpu_autograd_layouts_and_streams():
    """Expanded gradients, as a sum's, and a stream of its own."""
    drawn = draw("lstm", 3, steps=4, rows=5, size=64, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out, last, kept = compiled.forward("lstm", *drawn, None, None, True)
        ones = torch.ones((), device="cuda").expand_as(out)
        got = compiled.backward("lstm", ones, last, *drawn, None, None, kept)
        want = compiled.backward("lstm", ones.contiguous(), last, *drawn, None, None, kept)
    stream.synchronize()
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


def test_the_whole_way_runs_through_them(tmp_path):
    """PRERNN_OPS=triton in the interpreter: a layer forward and backward as by the reference."""
    script = tmp_path / "whole.py"
    script.write_text(
        "import torch, prernn\n"
        "from prernn import ops\n"
        "layer, x = prernn.GRU(3, 10, hidden='band:3'), torch.randn(3, 2, 3)\n"
        "results = []\n"
        "for name in ('triton', 'reference'):\n"
        "    with ops.using(name):\n"
        "        out, state = layer(x)\n"
        "        results.append([out, state, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])\n"
        "torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)\n"
        "assert 'prernn.ops.triton' in __import__('sys').modules\n"
    )
    subprocess.run([sys.executable, str(script)], env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
