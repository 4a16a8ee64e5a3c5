"""Where the GPU kernels could go wrong, in the interpreter of Triton: rows, shapes, strides, numbers."""

from functools import partial

import pytest
import torch

from interpreted_kernels import SOME, STEPS, check, draw, equations, in_interpreter, inside, kernels, started_for

pytestmark = in_interpreter


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
    assert torch.all(d_weight[inside(weight)].isnan()) or cell == "ligru"  # whose ReLU may be flat


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", STEPS)
def test_nan_spreads_as_far_as_the_matrix_lets_it(cell, columns):
    u, weight, bias, state = draw(cell, columns, steps=4, rows=2, size=9)
    u[1, 0, :, 4] = torch.nan
    out, last, kept = kernels.forward(cell, u, weight, bias, state, None, None, True)
    d_u, d_weight, _, d_state = kernels.backward(
        cell, torch.ones_like(out), torch.zeros_like(last), u, weight, bias, state, None, None, kept
    )
    # reset before the product, a neighbor's r*h is lost in the same step
    reach, first = columns // 2 * (2 if "before" in cell else 1), columns // 2 if "before" in cell else 0
    reach = 0 if cell in kernels.WITHOUT_WEIGHTS else reach
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
