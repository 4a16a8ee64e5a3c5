"""Structures of ``W_ih``: rectangular masks, matrices, counts and products, in every structure."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equations import close
from prernn import ops
from prernn.layers.structures.input_weights import checked, start_bound
from prernn.layers.structures.parse import STRUCTURES, input_structure
from prernn.ops.connections import ENTRIES
from prernn.ops.sobol import path_sources
from rnn_layers import DOUBLE

RECTANGULAR = ["full", "band:1", "band:5", "band:30%", "grouped:1", "grouped:4", "sparse:0.1", "sparse:0.7", "paths:3"]
SQUARE = ["diagonal", "ring", "ring+self", "sparse:0.1+self", "paths:2+self"]
SHAPES = [(12, 4), (12, 8), (12, 12), (12, 40), (8, 96), (4, 4), (20, 4)]
"""``(D, I)``."""
CASES = [*itertools.product(RECTANGULAR, SHAPES), *itertools.product(SQUARE, [(12, 12), (4, 4)])]


def drawn(spec, size, inputs, gates=3, **options):
    """A structure, its weight, index and bias."""
    structure = checked(spec, size, inputs)
    weight = torch.empty(gates, *structure.weight_shape(size, inputs), **options).uniform_(1, 2).requires_grad_()
    return structure, weight, structure.index(size, inputs), torch.randn(gates * size, **options, requires_grad=True)


def test_every_structure_is_among_the_cases():
    assert {spec.partition(":")[0].removesuffix("+self") for spec in (*RECTANGULAR, *SQUARE)} == set(STRUCTURES)


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
def test_mask_matrix_count_and_product_agree(spec, shape):
    """Law 2 over rectangles, with gradients."""
    size, inputs = shape
    structure, weight, index, bias = drawn(spec, size, inputs, **DOUBLE)
    mask, matrix = structure.mask(size, inputs), structure.matrix(weight, index, size, inputs)
    assert mask.shape == shape
    assert matrix.shape == (3, *shape)
    assert torch.equal(matrix != 0, mask.expand(3, -1, -1))
    assert int(mask.sum()) == structure.weight_count(size, inputs)
    used = matrix[matrix != 0].tolist()
    assert len(set(used)) == len(used)
    assert set(used) <= set(weight.flatten().tolist())
    assert abs(structure.fan_in(size, inputs) - mask.sum(1).double().quantile(0.5)) <= 1.5
    x = torch.randn(5, inputs, **DOUBLE, requires_grad=True)
    seed = torch.randn(5, 3, size, **DOUBLE)
    found = structure.project(x, weight, index, size, bias)
    expected = torch.einsum("gij,nj->ngi", matrix, x) + bias.view(3, size)
    close(found, expected)
    leaves = [x, weight, bias]
    close(*(torch.autograd.grad((u * seed).sum(), leaves, retain_graph=True) for u in (found, expected)))
    close(structure.project(x, weight, index, size), expected - bias.view(3, size))


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 2, 19, 270])
def test_the_kernels_products_are_those_of_the_matrix(spec, shape, rows):
    """Law 6: in float32, where compressed rows may compute them; 270 rows go back in two blocks."""
    size, inputs = shape
    structure, weight, index, bias = drawn(spec, size, inputs)
    x = torch.randn(rows, inputs, requires_grad=True)
    seed, leaves, results = torch.randn(rows, 3, size), [x, weight, bias], []
    for backend in ("native", "reference") if ops.missing("native") is None else ("reference",):
        with ops.using(backend):
            u = structure.project(x, weight, index, size, bias)
            results.append((u, *torch.autograd.grad((u * seed).sum(), leaves)))
    torch.testing.assert_close(results[0], results[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
def test_products_have_second_derivatives(spec, shape):
    structure, weight, index, bias = drawn(spec, *shape, gates=2, **DOUBLE)
    x = torch.randn(2, shape[1], **DOUBLE, requires_grad=True)

    def product(*leaves):
        x, weight, bias = leaves
        return structure.project(x, weight, index, shape[0], bias)

    fast = {"fast_mode": True}
    assert torch.autograd.gradcheck(product, (x, weight, bias), **fast)
    assert torch.autograd.gradgradcheck(product, (x, weight, bias), **fast)


@settings(max_examples=60)
@given(size=st.integers(1, 30), inputs=st.integers(1, 30), half=st.integers(0, 29))
def test_a_band_lies_around_the_stretched_diagonal(size, inputs, half):
    """By its definition: in whole numbers, so that no rounding of floats can move it."""
    columns = 2 * min(half, inputs - 1) + 1
    band = input_structure(f"band:{columns}")
    middles = [math.floor((i + 0.5) * inputs / size + 1e-9) for i in range(size)]
    expected = [[abs(middle - j) <= columns // 2 for j in range(inputs)] for middle in middles]
    assert band.mask(size, inputs).tolist() == expected
    if columns < 2 * size:
        assert torch.equal(band.mask(size, size), band.mask(size))
    receiver, sender = ENTRIES["band"](size, inputs, columns)
    assert torch.equal(receiver, torch.arange(size).repeat_interleave(columns))
    assert sender.view(size, columns)[:, columns // 2].tolist() == middles


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_band_holds_outside_the_matrix_is_never_used(garbage, dtype):
    size, inputs, columns = 30, 60, 7  # a first neuron around input 1, a last one around 59
    structure, weight, _, _ = drawn(f"band:{columns}", size, inputs, dtype=dtype)
    place = torch.tensor([(2 * i + 1) * inputs // (2 * size) for i in range(size)])[:, None] + torch.arange(7) - 3
    lost = (place < 0) | (place >= inputs)
    assert bool(lost.any())
    with torch.no_grad():
        weight[:, lost] = garbage
    u = structure.project(torch.randn(4, inputs, dtype=dtype), weight, None, size)
    assert bool(u.isfinite().all())
    u.sum().backward()
    assert bool((weight.grad[:, lost] == 0).all())
    assert bool((weight.grad[:, ~lost] != 0).all())


@settings(max_examples=60)
@given(size=st.integers(1, 40), inputs=st.integers(1, 40), data=st.data())
def test_paths_hear_different_inputs_and_all_about_as_often(size, inputs, data):
    paths = data.draw(st.integers(1, inputs))
    sources = path_sources(size, paths, inputs)
    assert sources.shape == (size, paths)
    assert all(len(set(row)) == paths for row in sources.tolist())
    assert 0 <= int(sources.min()) <= int(sources.max()) < inputs
    assert torch.equal(path_sources(size, 1, inputs), sources[:, :1])  # more paths contain the fewer


def test_paths_from_powers_of_two_are_spread_evenly():
    for size, inputs, paths in ((64, 16, 4), (16, 64, 4), (16, 64, 8), (64, 256, 2), (8, 256, 32)):
        heard = torch.bincount(path_sources(size, paths, inputs).flatten(), minlength=inputs)
        assert int(heard.max() - heard.min()) <= max(1, size * paths // inputs), (size, inputs, paths)
        assert int(heard.max()) <= -(-2 * size * paths // inputs), (size, inputs, paths)


MISFITS = [
    ("grouped:3", 12, 8, "both sizes must be multiples of the groups"),
    ("grouped:4", 10, 8, "both sizes must be multiples of the groups"),
    ("diagonal", 12, 8, "as many inputs as units"),
    ("ring", 8, 12, "as many inputs as units"),
    ("paths:2+self", 8, 12, "as many inputs as units"),
    ("paths:9", 12, 8, "at most I different sources"),
    ("band:17", 12, 8, r"at most 2\*I-1"),
]


@pytest.mark.parametrize(("spec", "size", "inputs", "rule"), MISFITS)
def test_a_structure_that_does_not_fit_says_which_sizes(spec, size, inputs, rule):
    structure = input_structure(spec)
    for method in (structure.check, structure.mask, structure.weight_count):
        with pytest.raises(ValueError, match=rf"inputs='{spec.replace('+', '.')}': .*{rule}.*I={inputs} and D={size}"):
            method(size, inputs)


@pytest.mark.parametrize("spec", ["banana", "band:4", "grouped:0", "sparse:2", 7, None, "diagonal+self"])
def test_a_bad_specification_is_named(spec):
    with pytest.raises(ValueError, match="inputs="):
        input_structure(spec)


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
def test_the_start_keeps_the_scale_of_the_full_product(spec, shape):
    size, inputs = shape
    structure = input_structure(spec)
    bound = start_bound(structure, size, inputs)
    assert bound**2 * structure.fan_in(size, inputs) == pytest.approx(inputs / size)
    assert start_bound(input_structure("full"), size, inputs) == pytest.approx(size**-0.5)
