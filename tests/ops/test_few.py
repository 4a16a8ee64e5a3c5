"""Samples, products and convolutions of inputs of which few are not zero, against torch in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_problems import native
from prernn import ops
from prernn.sparsity.online import VALUES, sample

WITH_INSTRUCTIONS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the same for all examples


def few(*shape, share=0.3, seed=0):
    """Numbers of which so many are not zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < share)


# samples


@pytest.mark.parametrize("values", VALUES)
@WITH_INSTRUCTIONS
@given(
    rows=st.integers(0, 4),
    size=st.one_of(st.integers(1, 70), st.integers(250, 520)),
    share=st.floats(0, 1),
    rate=st.floats(0.01, 1.5),
    offset=st.floats(0, 1, exclude_max=True),
)
def test_samples_are_those_of_torch_to_the_last_bit(instructions, values, rows, size, share, rate, offset):
    a, samples = few(rows, size, share=share, seed=size), max(1, round(rate * size))
    with ops.using("reference"):
        expected = sample(a, samples, offset, values)
    assert torch.equal(native.sample(a, samples, offset, values), expected)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_samples_of_what_is_not_finite_are_those_of_torch(instructions, values, wrong):
    a = few(4, 300, share=0.6)
    a[1, 0], a[2, 130], a[3, 299] = wrong, wrong, wrong
    with ops.using("reference"):
        expected = sample(a, 40, 0.3, values)
    torch.testing.assert_close(native.sample(a, 40, 0.3, values), expected, rtol=0, atol=0, equal_nan=True)


def test_samples_of_rows_that_lie_apart():
    a = few(300, 3, share=0.6).t()
    assert not a.is_contiguous()
    assert torch.equal(native.sample(a, 40, 0.3), native.sample(a.contiguous(), 40, 0.3))
    assert native.sample(a[:, :0], 3, 0.3).shape == (3, 0)
    with pytest.raises(ValueError, match=r"expected a of torch\.float32"):
        native.sample(a.double(), 3, 0.3)


# products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@WITH_INSTRUCTIONS
@given(
    rows=st.integers(0, 9),
    outputs=st.one_of(st.integers(0, 70), st.integers(1020, 1030)),
    inputs=st.integers(0, 150),
    share=st.sampled_from([0, 0.05, 0.3, 1]),
    bias=st.booleans(),
)
def test_a_product_is_that_of_the_numbers(instructions, dtype, rows, outputs, inputs, share, bias):
    x, weight = few(rows, inputs, share=share), torch.randn(inputs, outputs).to(dtype)
    b = torch.randn(outputs) if bias else None
    y = native.few_product(x, weight, b)
    expected = x.double() @ weight.double() + (b.double() if bias else 0)
    size = x.double().abs() @ weight.double().abs() + 3  # a sum of n products is n roundings off at most, one by one
    assert bool(((y.double() - expected).abs() <= 2 * (inputs + 1) * torch.finfo(torch.float32).eps * size).all())
    single = [native.few_product(row.unsqueeze(0), weight, b) for row in x]
    assert torch.equal(y, torch.cat([y[:0], *single]))  # a row's sums are its own


def test_weights_of_zeros_are_not_read_and_other_numbers_pass(instructions):
    x, weight = torch.zeros(4, 6), torch.ones(6, 40)
    weight[0], weight[1, 3] = torch.nan, torch.inf
    x[1, 2], x[2, 1], x[3, 4] = 2, 1, torch.nan
    y = native.few_product(x, weight)
    assert not y[0].any()
    assert (y[1] == 2).all()
    assert y[2, 3] == torch.inf
    assert (y[2].isfinite()).sum() == 39
    assert y[3].isnan().all()


def test_threads_change_no_product(monkeypatch, instructions):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    x, weight, maps, kernel = few(5, 300), torch.randn(300, 3000), few(2, 9, 12, 7), torch.randn(70, 9, 3, 3)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        convolved = native.few_convolution(maps, native.packed(kernel), None, 70)
        results.append((native.few_product(x, weight), convolved, native.sample(x, 50, 0.4)))
    torch.set_num_threads(1)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_what_the_kernels_do_not_take_is_refused():
    x, weight = torch.randn(2, 6), torch.zeros(6, 3)
    for arguments, words in (
        ((x.double(), weight), r"x of torch\.float32"),
        ((x, weight.double()), "float32 or bfloat16"),
        ((x, weight[:5]), "expected weight"),
        ((x, weight, torch.ones(2)), "expected bias"),
    ):
        with pytest.raises(ValueError, match=words):
            native.few_product(*arguments)
    maps, kernel = torch.randn(1, 6, 4, 4), native.packed(torch.zeros(3, 6, 3, 3))
    for arguments, words in (
        ((maps.double(), kernel, None, 3), r"x of torch\.float32"),
        ((maps, kernel[:, :5], None, 3), "expected weight"),
        ((maps, kernel, None, 40), "expected weight"),
        ((maps, native.packed(torch.zeros(3, 6, 5, 5)), None, 3), "1x1 or 3x3"),
    ):
        with pytest.raises(ValueError, match=words):
            native.few_convolution(*arguments)


# convolutions


@pytest.mark.parametrize("side", [1, 3])
@WITH_INSTRUCTIONS
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 12), st.integers(1, 40)),
    outputs=st.integers(1, 70),
    share=st.sampled_from([0, 0.1, 0.4, 1]),
    bias=st.booleans(),
)
def test_a_convolution_is_that_of_the_numbers(instructions, side, shape, outputs, share, bias):
    x, weight = few(*shape, share=share), torch.randn(outputs, shape[1], side, side)
    b = torch.randn(outputs) if bias else None
    y = native.few_convolution(x, native.packed(weight), b, outputs)
    expected = F.conv2d(x.double(), weight.double(), None if b is None else b.double(), padding=side // 2)
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-4)
    single = [native.few_convolution(picture.unsqueeze(0), native.packed(weight), b, outputs) for picture in x]
    assert torch.equal(y, torch.cat([y[:0], *single]))


def test_a_convolution_of_maps_that_lie_apart_and_are_larger_than_the_cache(instructions):
    x, weight = few(2, 3, 70, 65, share=0.2), torch.randn(40, 3, 3, 3)
    y = native.few_convolution(x.to(memory_format=torch.channels_last), native.packed(weight), None, 40)
    expected = F.conv2d(x.double(), weight.double(), padding=1).float()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)


def test_what_is_not_finite_spreads_to_its_places(instructions):
    x, weight = torch.zeros(1, 2, 5, 5), torch.ones(3, 2, 3, 3)
    x[0, 1, 2, 2] = torch.nan
    y = native.few_convolution(x, native.packed(weight), None, 3)
    assert bool(y[0, :, 1:4, 1:4].isnan().all())
    assert int(y.isnan().sum()) == 27
