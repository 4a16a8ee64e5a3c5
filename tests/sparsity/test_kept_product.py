"""Layers of paths without gradients: rows that are kept, and follow the weights whatever changes them."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prernn
from prernn.ops.backends import missing, using
from prernn.sparsity.kept_product import KEPT_DENSE
from prernn.sparsity.path_network import PathNetwork
from prernn.sparsity.paths import PathLinear

pytestmark = pytest.mark.skipif(missing("native") is not None, reason="no C kernels")


def layer_of(inputs=24, outputs=18, paths=100, **options) -> PathLinear:
    layer = PathLinear(inputs, outputs, paths, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def expected(layer: PathLinear, x: torch.Tensor) -> torch.Tensor:
    """By the definition, in float64."""
    bias = None if layer.bias is None else layer.bias.detach().double()
    x = x.double().relu() if layer.relu else x.double()
    return nn.functional.linear(x, layer.matrix().detach().double(), bias).float()


@torch.no_grad()
def assert_right(layer: PathLinear, *, rows: int = 5) -> None:
    x = torch.randn(rows, layer.inputs)
    torch.testing.assert_close(layer(x), expected(layer, x), rtol=1e-4, atol=1e-5)
    assert layer._kept is not None


@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    share=st.floats(0, 1.5),
    rows=st.integers(0, 35),
    bias=st.booleans(),
    relu=st.booleans(),
    sampler=st.sampled_from(["sobol", "random"]),
)
@settings(max_examples=60, deadline=None)
def test_rows_that_are_kept_compute_what_paths_do(inputs, outputs, share, rows, bias, relu, sampler):
    layer = layer_of(inputs, outputs, int(share * inputs * outputs), bias=bias, relu=relu, sampler=sampler)
    for _ in range(2):  # made, and kept
        assert_right(layer, rows=rows)
    assert layer._kept.dense == (layer.paths > KEPT_DENSE * inputs * outputs)


def test_they_are_kept_until_the_weights_change():
    layer, x = layer_of(), torch.randn(3, 24)
    with torch.inference_mode():
        layer(x)
        kept = layer._kept
        layer(x)
        assert layer._kept is kept
        layer.weight[7] += 1
        layer(x)
        assert layer._kept is not kept
        assert layer._kept.order is kept.order  # nothing is sorted anew


def descend(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    with torch.enable_grad():
        layer(torch.randn(4, layer.inputs)).square().sum().backward()
    optimizer.step()
    return layer


def loaded(layer):
    other = layer_of(paths=layer.paths)
    layer.load_state_dict(other.state_dict())
    return layer


def written_past_torch(layer):
    layer.weight.data.mul_(3)  # no version is counted
    layer.weight.data.numpy()[3] = 5.0
    return layer


def replaced(layer):
    layer.weight = nn.Parameter(torch.randn(layer.paths))
    return layer


def assigned(layer):
    layer.load_state_dict(layer_of(paths=layer.paths).state_dict(), assign=True)
    return layer


def another_order(layer):
    other = layer_of(paths=layer.paths, order="gray")
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.indices, other.indices)
    return layer


CHANGES = (
    *(descend, loaded, written_past_torch, replaced, assigned, another_order, copy.deepcopy),
    lambda layer: pickle.loads(pickle.dumps(layer)),
    lambda layer: descend(copy.deepcopy(layer)),
    lambda layer: written_past_torch(copy.copy(layer)),
    lambda layer: layer.double().float(),
    lambda layer: prernn.quantize(layer, 2),
    lambda layer: layer.merged(),
)


@pytest.mark.parametrize("paths", [100, 300], ids=["rows", "dense"])
@pytest.mark.parametrize("change", CHANGES)
def test_they_follow_the_weights_whatever_changes_them(change, paths):
    layer = layer_of(paths=paths)
    assert_right(layer)
    changed = change(layer)
    assert_right(changed)
    assert_right(layer)
    assert_right(changed)


def test_other_types_and_the_reference_take_the_paths():
    layer, x = layer_of().double(), torch.randn(3, 24, dtype=torch.float64)
    with torch.no_grad():
        layer(x)
        assert layer._kept is None
        with using("reference"):
            layer.float()(x.float())
        assert layer._kept is None


def test_gradients_go_along_the_paths_and_exports_hold_them():
    net, x = PathNetwork([12, 10, 8], 40), torch.randn(3, 12)
    with torch.no_grad():
        y = net(x)
        program = torch.export.export(net, (x,))
        torch.testing.assert_close(program.module()(x), y, rtol=1e-5, atol=1e-6)
    assert net(x).requires_grad
    frozen = PathNetwork([12, 10, 8], 40).requires_grad_(False)
    frozen(x.requires_grad_()).sum().backward()  # only the input wants a gradient
    assert x.grad.abs().sum() > 0
    assert torch.equal(torch.func.vmap(frozen)(x[None].detach())[0].isfinite(), torch.ones(3, 8, dtype=torch.bool))
