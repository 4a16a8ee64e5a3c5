"""Maximum pooling by ReLU functions against torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from prernn.sparsity.relu_pooling import ReluMaxPool2d, relu_max_pool2d

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=SIZES,
    stride=SIZES,
    halves=st.tuples(st.booleans(), st.booleans()),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ceil_mode=st.booleans(),
    factor=st.floats(1e-3, 1e3),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_it_is_maximum_pooling_and_passes_a_factor(shape, kernel, stride, halves, dilation, ceil_mode, factor, seed):
    padding = tuple(size // 2 if half else 0 for size, half in zip(kernel, halves, strict=True))
    for size, k, pad, gap in zip(shape, kernel, padding, dilation, strict=True):
        assume(size + 2 * pad >= gap * (k - 1) + 1)
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    arguments = (kernel, stride, padding, dilation, ceil_mode)
    if not expected.isfinite().all():  # a window of padding alone
        with pytest.raises(ValueError, match="expected numbers in each window"):
            relu_max_pool2d(x, *arguments)
        return
    found = relu_max_pool2d(x, *arguments)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(relu_max_pool2d(factor * x, *arguments), factor * found, rtol=1e-12, atol=1e-12)


def test_a_module_with_the_arguments_of_torchs():
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    for arguments in ((2,), (3, 2, 1), (3, 1, 0, 2), ((2, 3), (1, 2))):
        torch.testing.assert_close(ReluMaxPool2d(*arguments)(x), nn.MaxPool2d(*arguments)(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(NotImplementedError, match="return_indices"):
        ReluMaxPool2d(2, return_indices=True)(x)


def test_gradients_are_those_of_the_maximum_and_halves_where_two_are_equal():
    x = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.max_pool2d(x, 3, 2, 1).square().sum(), x)
    (found,) = torch.autograd.grad(relu_max_pool2d(x, 3, 2, 1).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    equal = torch.ones(1, 1, 2, requires_grad=True)
    relu_max_pool2d(equal, (1, 2)).sum().backward()
    assert equal.grad.tolist() == [[[0.5, 0.5]]]
