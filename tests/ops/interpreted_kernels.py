"""What the tests of the Triton kernels share: kernels in the interpreter, and the equations they are held against."""

import importlib.util
from functools import partial

import pytest
import torch

from equations import EQUATIONS, gru_step, lstm_step, torch_gru_step, vrnn_step

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from prernn.ops import triton as compiled  # noqa: E402


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


in_interpreter = [
    pytest.mark.skipif(FAULT is not None, reason=str(FAULT)),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # numpy, inside the interpreter
]
"""Marks of tests whose kernels run there."""


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
    **{name: EQUATIONS[name] for name in ("ligru", "qrnn", "sru", "mingru")},
}
SOME = ["lstm", "gru:before:new", "gru:after:old", "linear:mean", "ligru"]
"""One cell of every kind of kernel path."""


def dense(weight):
    """``(G, D, C)`` to ``(G, D, D)``, diagonal by diagonal."""
    _, size, columns = weight.shape
    above = range(-(columns // 2), columns // 2 + 1)
    return sum(torch.diag_embed(weight[:, max(0, -k) : size - max(0, k), c], offset=k) for c, k in enumerate(above))


def equations(cell, u, weight, bias, state, started=None, lengths=None):
    """Outputs and last state by the equations, row by row."""
    steps, rows, _, size = u.shape
    u, w = u.expand(-1, -1, compiled.GATES[cell], -1), dense(weight)
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
    gates, states = compiled.GATES[cell], 2 if cell in compiled.TWO_STATES else 1
    products, columns = (0, 1) if cell in compiled.WITHOUT_WEIGHTS else (gates, columns)
    u = torch.randn(steps, rows, 1 if shared else gates, size, device=device).to(dtype)
    weight = torch.randn(products, size, columns, device=device) / columns**0.5
    b = torch.randn(products, size, device=device) if bias else None
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
    found = torch.autograd.grad(loss, leaves, allow_unused=True)  # weights where there are none, an h that none sees
    wanted = iter(torch.zeros_like(v) if g is None else g for v, g in zip(leaves, found, strict=True))

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
