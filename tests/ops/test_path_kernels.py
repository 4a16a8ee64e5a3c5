"""Layers of paths: the streamed kernels against plain torch and against the talk's own loop."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equations import close
from prernn import ops
from prernn.ops import backends, paths
from prernn.ops.sobol import network_paths

native = backends.kernels("native") if backends.missing("native") is None else None
needs_native = pytest.mark.skipif(native is None, reason="built without a C compiler")
INSTRUCTIONS = [
    name for name in ("avx512", "avx2", "baseline") if native and native.library.kernels.prernn_choose(name.encode())
]
if native:
    native.library.kernels.prernn_choose(None)
INPUTS, OUTPUTS = 70, 37
"""More neurons than are turned at once, and another number of outputs."""


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    assert native.library.kernels.prernn_choose(request.param.encode())
    yield request.param
    native.library.kernels.prernn_choose(None)


def problem(rows, count, *, bias=True, dtype=torch.float64):
    """Values that float32 holds exactly, and random paths, of which some coincide."""
    x, weight, offset = (torch.randn(shape).to(dtype) for shape in ((rows, INPUTS), (count,), (OUTPUTS,)))
    source, destination = network_paths([INPUTS, OUTPUTS], count, sampler="random").int().unbind(1)
    source, destination = source.contiguous(), destination.contiguous()
    source[count // 2 :], destination[count // 2 :] = (
        side[: count - count // 2].clone() for side in (source, destination)
    )
    return x, weight, source, destination, offset if bias else None


def solve(values, relu, dtype, backend):
    """Output and the gradients of everything that has one."""
    x, weight, source, destination, bias = values
    x, weight, bias = (None if v is None else v.to(dtype).requires_grad_() for v in (x, weight, bias))
    with ops.using(backend):
        y = paths.product(x, weight, source, destination, OUTPUTS, bias, relu=relu)
    factors = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    return [y.detach(), *torch.autograd.grad((y * factors).sum(), leaves)]


def compare(values, relu):
    actual = solve(values, relu, torch.float32, "native")
    assert actual[0].dtype == torch.float32
    for got, wanted in zip(actual, solve(values, relu, torch.float64, "reference"), strict=True):
        scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 0)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=2e-6 * scale)


def by_the_talk(x, weight, source, destination, bias, relu):
    """The talk's loop over the paths, for each row."""
    y = torch.zeros(len(x), OUTPUTS, dtype=x.dtype) if bias is None else bias.expand(len(x), OUTPUTS).clone()
    for n in range(len(x)):
        a = x[n].tolist()
        for i in range(len(weight)):
            if a[source[i]] > 0 or not relu:
                y[n, destination[i]] += weight[i] * a[source[i]]
    return y


@needs_native
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 16, 17, 32, 61])
def test_native_equals_the_reference(rows, relu, bias, instructions):
    for count in (0, 1, 300):
        compare(problem(rows, count, bias=bias), relu)


@needs_native
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
def test_more_paths_than_a_task_has_and_several_threads(relu, monkeypatch):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    values = problem(101, 5000)
    compare(values, relu)
    alone = solve(values, relu, torch.float32, "native")
    torch.set_num_threads(2)
    try:
        together = solve(values, relu, torch.float32, "native")
    finally:
        torch.set_num_threads(1)
    # each sum has one order, whoever computes it
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
def test_the_product_is_the_talks_loop(relu, bias):
    values = problem(3, 200, bias=bias)
    x, weight, source, destination, offset = values
    expected = by_the_talk(*values, relu)
    close(paths.product(x, weight, source, destination, OUTPUTS, offset, relu=relu), expected)
    if native:
        floats = [None if v is None else v.float() for v in (x, weight, offset)]
        got = paths.product(*floats[:2], source, destination, OUTPUTS, floats[2], relu=relu)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-5)


def test_the_product_is_that_of_the_dense_matrix():
    x, weight, source, destination, bias = problem(5, 300)
    matrix = paths.dense(weight, source, destination, INPUTS, OUTPUTS)
    assert matrix.shape == (OUTPUTS, INPUTS)
    assert (matrix != 0).sum() < len(weight)  # some coincide
    for relu in (True, False):
        expected = F.linear(x.relu() if relu else x, matrix, bias)
        close(paths.product(x, weight, source, destination, OUTPUTS, bias, relu=relu), expected)
    leaf = weight.requires_grad_()
    (d_weight,) = torch.autograd.grad(paths.dense(leaf, source, destination, INPUTS, OUTPUTS)[3].sum(), leaf)
    close(d_weight, (destination == 3).double())


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
def test_the_reference_has_two_gradients(relu):
    x, weight, source, destination, bias = problem(3, 30)
    leaves = [value.requires_grad_() for value in (x, weight, bias)]

    def call(x, weight, bias):
        return paths.product(x, weight, source, destination, OUTPUTS, bias, relu=relu)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def second_gradients(values, relu, dtype, backend):
    """Gradients of a function of the gradients."""
    x, weight, source, destination, bias = values
    leaves = [value.to(dtype).requires_grad_() for value in (x, weight)]
    with ops.using(backend):
        y = paths.product(*leaves, source, destination, OUTPUTS, bias.to(dtype), relu=relu)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)


@needs_native
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
def test_the_operators_gradients_have_gradients(relu):
    values = problem(3, 60)
    actual = second_gradients(values, relu, torch.float32, "native")
    for got, wanted in zip(actual, second_gradients(values, relu, torch.float64, "reference"), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@needs_native
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
def test_the_operators_keep_torchs_rules(bias):
    x, weight, source, destination, offset = problem(3, 20, bias=bias, dtype=torch.float32)
    leaves = [None if value is None else value.requires_grad_() for value in (x, weight, offset)]
    product = (*leaves[:2], source, destination, leaves[2], OUTPUTS, True)
    torch.library.opcheck(torch.ops.prernn.path_product.default, product)
    d_y = torch.randn(3, OUTPUTS, requires_grad=True)
    torch.library.opcheck(torch.ops.prernn.path_weight.default, (d_y, leaves[0], source, destination, True))


@needs_native
def test_the_operator_is_taken_where_it_can_be(monkeypatch):
    def name(dtype):
        x, weight, source, destination, bias = problem(2, 20, dtype=dtype)
        made = paths.product(x.requires_grad_(), weight, source, destination, OUTPUTS, bias)
        return type(made.grad_fn).__name__

    assert "path_product" in name(torch.float32)
    assert "path_product" not in name(torch.float64)
    monkeypatch.setenv("PRERNN_OPS", "reference")
    assert "path_product" not in name(torch.float32)


@needs_native
@pytest.mark.parametrize("rows", [1, 3])
def test_nan_and_infinity_pass_as_in_the_reference(rows, instructions):
    x, weight, source, destination, bias = problem(rows, 300, dtype=torch.float32)
    x[:, 0], x[:, 1], x[-1, 2] = float("nan"), float("inf"), -float("inf")
    values = (x, weight, source, destination, bias)
    for relu in (True, False):
        expected = solve(values, relu, torch.float32, "reference")
        actual = solve(values, relu, torch.float32, "native")
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5, equal_nan=True)
        assert expected[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("side", "value"), [(0, -1), (0, INPUTS), (1, -1), (1, OUTPUTS)])
def test_a_path_that_leads_outside_is_an_error(side, value, rows, dtype):
    x, weight, source, destination, bias = problem(rows, 40, dtype=dtype)
    (source, destination)[side][17] = value
    # torch's index_add has another error than its index_select
    with pytest.raises((IndexError, RuntimeError)):
        paths.product(x, weight, source, destination, OUTPUTS, bias)
    if dtype == torch.float32 and native:
        with pytest.raises(IndexError, match=f"from {INPUTS} to {OUTPUTS} neurons"):
            native.path_weight(torch.randn(rows, OUTPUTS), x, source, destination, False)


@needs_native
@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("x", torch.zeros(3, INPUTS).double(), "x of torch.float32.*float64"),
        ("weight", torch.zeros(19), r"weight \(20,\).*\(19,\)"),
        ("bias", torch.zeros(OUTPUTS + 1), r"bias \(37,\).*\(38,\)"),
        ("destination", torch.zeros(20).long(), "destination of torch.int32.*int64"),
        ("source", torch.zeros(20, device="meta").int(), "source on the CPU.*meta"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
def test_what_the_kernels_would_read_wrongly_is_refused(name, wrong, message):
    names = ("x", "weight", "source", "destination", "bias")
    values = dict(zip(names, problem(3, 20, dtype=torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        native.path_product(**{**values, name: wrong}, size=OUTPUTS, relu=False)


class Touched(TorchDispatchMode):
    """Counts the elements that torch's operators read and write, views apart."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.elements += sum(tensor.numel() for tensor in tensors)
        return result


def touched(count, inputs, size, rows=2):
    """Elements that the reference's forward and backward touch."""
    source, destination = network_paths([inputs, size], count, sampler="random").int().unbind(1)
    shapes = ((rows, inputs), (count,), (size,))
    x, weight, bias = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)
    with Touched() as counter:
        paths.product(x, weight, source, destination, size, bias, relu=True).sum().backward()
    return counter.elements


def test_cost_is_linear_in_the_paths_and_never_that_of_the_matrix():
    base = touched(0, 64, 64)
    one = touched(1000, 64, 64) - base
    assert one > 0
    assert touched(2000, 64, 64) - base == 2 * one
    assert touched(4000, 64, 64) - base == 4 * one
    # the layers' sizes add to it what they themselves hold
    grown = [touched(1000, size, size) - one for size in (64, 128, 256)]
    assert grown[2] - grown[1] == 2 * (grown[1] - grown[0])
    assert touched(1000, 512, 512) < 512 * 512


@needs_native
def test_compile_and_export_pass_over_the_operator():
    x, weight, source, destination, bias = problem(3, 50, dtype=torch.float32)

    def layer(x):
        return paths.product(x, weight, source, destination, OUTPUTS, bias, relu=True)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
