"""A fused convolution computes what its parts do, in its own type, also on maps of one position."""

import pytest
import torch
from torch import nn

from prernn.engines.fused_convolutions import ACTIVATIONS, FusedConvolution
from prernn.ops.backends import has_bfloat16

TYPES = [torch.float32, *([torch.bfloat16] if has_bfloat16() else [])]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("adds", [False, True])
@torch.no_grad()
def test_it_computes_what_its_parts_do(dtype, activation, side, adds):
    conv, norm = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16).eval()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    x, other = torch.randn(2, 8, side, side), torch.randn(2, 16, side, side) if adds else None
    expected = norm(conv(x)) + (0 if other is None else other)
    expected = ACTIVATIONS[activation][1](expected) if activation else expected
    got = FusedConvolution(conv, norm, activation, dtype)(x, other)
    assert got.dtype == dtype
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(got.float(), expected, **tolerance)
