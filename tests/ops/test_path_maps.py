"""Convolutions made of paths: the kernels against torch's dense convolution in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_problems import native
from prernn.ops import paths
from prernn.ops.sobol import network_paths

WITH_INSTRUCTIONS = settings(  # the same for all examples
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
PLAIN = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


def problem(x, kernel=(3, 3), *, outputs=7, count=20, bias=True):
    """Values that float32 holds exactly, and paths of which some coincide: x, weight, source, destination, bias."""
    generator = torch.Generator().manual_seed(sum(x))
    made = (torch.randn(shape, generator=generator).double() for shape in (x, (count, *kernel), (outputs,)))
    pictures, weight, offset = made
    drawn = network_paths([x[1], outputs], count, sampler="random").int()
    drawn[count // 2 :] = drawn[: count - count // 2].clone()
    source, destination = (column.contiguous() for column in drawn.unbind(1))
    return pictures, weight, source, destination, offset if bias else None


def dense(x, weight, source, destination, bias, outputs, place):
    """The definition, with torch's convolution."""
    flat = weight.new_zeros(outputs * x.shape[1], *weight.shape[1:])
    kernels = flat.index_add(0, destination.long() * x.shape[1] + source.long(), weight)
    return F.conv2d(x, kernels.unflatten(0, (outputs, -1)), bias, *place.values())


def by_paths(x, weight, source, destination, bias, outputs, place):
    return paths.convolution(x, weight, source, destination, outputs, bias, **place)


def solved(function, values, dtype, place, outputs=7):
    """Outputs and the gradients of everything that has one, in float64."""
    x, weight, source, destination, bias = values
    leaves = [None if v is None else v.to(dtype).requires_grad_() for v in (x, weight, bias)]
    y = function(leaves[0], leaves[1], source, destination, leaves[2], outputs, place)
    factors = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    given = [leaf for leaf in leaves if leaf is not None]
    return [value.detach().double() for value in (y, *torch.autograd.grad((y * factors).sum(), given))]


def compare(values, place, outputs=7):
    actual = solved(by_paths, values, torch.float32, place, outputs)
    for got, wanted in zip(actual, solved(dense, values, torch.float64, place, outputs), strict=True):
        scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 0)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * scale)


sides = st.one_of(st.integers(1, 9), st.integers(10, 40))
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@WITH_INSTRUCTIONS
@given(
    rows=st.sampled_from([0, 1, 2, 5, 16, 32]),
    inputs=st.integers(1, 5),
    height=sides,
    width=sides,
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3), (1, 4), (5, 5)]),
    stride=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=pairs,
    bias=st.booleans(),
    count=st.sampled_from([0, 1, 20]),
)
def test_outputs_and_gradients_are_those_of_a_dense_convolution(
    instructions, rows, inputs, height, width, kernel, stride, padding, dilation, bias, count
):
    place = {"stride": stride, "padding": padding, "dilation": dilation}
    values = problem((rows, inputs, height, width), kernel, bias=bias, count=count)
    if min(paths.map_sides((height, width), kernel, stride, padding, dilation)) < 1:
        with pytest.raises(ValueError, match="as large as the kernel"):
            solved(by_paths, values, torch.float32, place)
        return
    compare(values, place)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_more_outputs_and_paths_than_a_task_has_and_several_threads(rows, monkeypatch, instructions):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    values = problem((rows, 30, 9, 8), outputs=40, count=300)
    compare(values, PLAIN, 40)
    alone = solved(by_paths, values, torch.float32, PLAIN, 40)
    torch.set_num_threads(2)
    try:
        together = solved(by_paths, values, torch.float32, PLAIN, 40)
    finally:
        torch.set_num_threads(1)
    # each sum has one order, whoever computes it
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_many_pictures_are_looked_at_in_turns():
    compare(problem((48, 60, 9, 9), outputs=50, count=200), PLAIN, 50)  # more numbers than one turn takes


@pytest.mark.parametrize("rows", [2, 16])
def test_the_operators_gradients_have_gradients(rows):
    values, place = problem((rows, 3, 6, 5), count=12), {**PLAIN, "stride": (2, 1)}

    def second(function, dtype):
        x, weight, source, destination, bias = values
        leaves = [value.to(dtype).requires_grad_() for value in (x, weight)]
        y = function(*leaves, source, destination, bias.to(dtype), 7, place)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)

    for got, wanted in zip(second(by_paths, torch.float32), second(dense, torch.float64), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
def test_the_operators_keep_torchs_rules(bias):
    x, weight, source, destination, offset = problem((2, 3, 6, 5), bias=bias)
    leaves = [None if v is None else v.float().requires_grad_() for v in (x.flatten(2), weight.flatten(1), offset)]
    shift, place = [0, 1, 2, 5, 6, 7, 10, 11, 12], [4, 3, 5]
    torch.library.opcheck(
        torch.ops.prernn.path_maps.default, (*leaves[:2], source, destination, leaves[2], 7, shift, place)
    )
    d_y = torch.randn(2, 7, 4, 3, requires_grad=True)
    torch.library.opcheck(
        torch.ops.prernn.path_maps_weight.default, (d_y, leaves[0], source, destination, shift, place[2])
    )


@pytest.mark.parametrize("rows", [1, 16])
def test_what_is_not_a_number_stays_where_a_kernel_sees_it(rows, instructions):
    x, weight, source, destination, bias = (v.float() if v.is_floating_point() else v for v in problem((rows, 3, 7, 6)))
    x[0, 0, 2, 5], x[0, 1, 0, 0], x[-1, 2, 6, 5] = torch.nan, torch.inf, -torch.inf
    expected = bias.view(1, -1, 1, 1).expand(rows, -1, 7, 6).clone()
    for path in range(len(weight)):  # a dense convolution multiplies zeros with it
        read = x[:, source[path].item()].unsqueeze(1)
        expected[:, destination[path].item()] += F.conv2d(read, weight[path][None, None], padding=1)[:, 0]
    actual = by_paths(x, weight, source, destination, bias, 7, PLAIN)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert 0 < expected.isfinite().sum() < expected.numel()


@pytest.mark.parametrize(("side", "value"), [(2, -1), (2, 3), (3, -1), (3, 7)])
def test_a_path_that_leads_outside_is_an_error(side, value):
    values = [v.float() if v.is_floating_point() else v for v in problem((2, 3, 6, 5))]
    values[side][7] = value
    with pytest.raises(IndexError, match="leads outside"):
        by_paths(*values, 7, PLAIN)
    shift = [0, 1, 2, 5, 6, 7, 10, 11, 12]
    with pytest.raises(IndexError, match="leads outside"):
        native.path_maps_weight(torch.randn(2, 7, 4, 3), values[0].flatten(2), *values[2:4], shift, 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 3, 30).double()}, "x of torch.float32"),
        ({"weight": torch.zeros(20, 8)}, r"weight \(20, 9\)"),
        ({"bias": torch.zeros(8)}, r"bias \(7,\)"),
        ({"source": torch.zeros(20).long()}, "source of torch.int32"),
        ({"shift": [0, 1, 2, 5, 6, 7, 10, 11, 13]}, "shifts inside planes of 30"),
        ({"shift": [-1, 1, 2, 5, 6, 7, 10, 11, 12]}, "shifts inside planes"),
        ({"place": (4, 6, 5)}, "shifts inside planes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_kernels_would_read_wrongly_is_refused(changed, message):
    x, weight, source, destination, bias = problem((2, 3, 6, 5))
    given = {"x": x.float().flatten(2), "weight": weight.float().flatten(1), "bias": bias.float(), "size": 7}
    given |= {"source": source, "destination": destination}
    given |= {"shift": [0, 1, 2, 5, 6, 7, 10, 11, 12], "place": (4, 3, 5)}
    assert native.path_maps(**given).shape == (2, 7, 4, 3)
    with pytest.raises(ValueError, match=message):
        native.path_maps(**{**given, **changed})
