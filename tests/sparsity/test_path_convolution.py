"""Convolutions of paths: by the paths, dense, and dense with kernels that are kept, they compute the same."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import prernn
from prernn.ops.backends import missing, using
from prernn.sparsity.path_convolution import PathConv2d

needs_native = pytest.mark.skipif(missing("native") is not None, reason="no C kernels")


def layer_of(inputs=32, outputs=40, kernel=3, paths=60, **options) -> PathConv2d:
    layer = PathConv2d(inputs, outputs, kernel, paths, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def solved(layer, x, dtype=torch.float32):
    """Outputs and all gradients, in float64."""
    layer, x = copy.deepcopy(layer).to(dtype), x.detach().to(dtype).requires_grad_()
    y = layer(x)
    factors = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return [v.detach().double() for v in (y, *torch.autograd.grad((y * factors).sum(), [x, *layer.parameters()]))]


class Operators(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


def takes_paths(layer, x) -> bool:
    with Operators() as called:
        layer(x.requires_grad_())
    return any("path_maps" in name for name in called.names)


@needs_native
@given(
    paths=st.sampled_from([0, 1, 30, 100, 300, 1000]),
    options=st.fixed_dictionaries(
        {
            "kernel": st.sampled_from([1, 3, (3, 5)]),
            "stride": st.integers(1, 2),
            "padding": st.integers(0, 2),
            "bias": st.booleans(),
            "sampler": st.sampled_from(["sobol", "random"]),
        }
    ),
    pictures=st.sampled_from([1, 3, 16]),
    side=st.integers(5, 18),
)
@settings(max_examples=30, deadline=None)
def test_by_paths_and_dense_the_layer_computes_the_same(paths, options, pictures, side):
    layer, x = layer_of(paths=paths, **options), torch.randn(pictures, 32, side, side)
    taken = takes_paths(layer, x)
    assert taken == layer.pays(side, side, pictures=pictures)
    actual, expected = solved(layer, x), solved(layer, x, torch.float64)
    for got, wanted in zip(actual, expected, strict=True):
        scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 0)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * scale)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), expected[0], rtol=1e-4, atol=1e-4)


@needs_native
def test_few_paths_of_large_layers_pay():
    def pays(channels, side, share, *, kernel=3, pictures=1, **options):
        layer = PathConv2d(channels, channels, kernel, int(share * channels**2), padding=kernel // 2, **options)
        return layer.pays(side, side, pictures=pictures)

    assert pays(256, 8, 0.1)
    assert not pays(256, 8, 0.25)  # many paths
    assert not pays(256, 8, 0.1, stride=2)
    assert pays(256, 8, 0.02, stride=2)
    assert not pays(512, 2, 0.06)  # small maps
    assert pays(512, 2, 0.06, pictures=64)
    assert not pays(16, 8, 0.1)  # a small layer
    assert pays(16, 8, 0.1, pictures=64)
    assert not PathConv2d(4, 4, 5, 3).pays(3, 3)


def test_other_types_the_reference_and_autocast_are_dense():
    layer, x = layer_of(), torch.randn(16, 32, 10, 10)
    assert takes_paths(layer, x) == (missing("native") is None)
    assert not takes_paths(layer_of().double(), x.detach().double())
    with using("reference"):
        assert not takes_paths(layer, x.detach())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        layer(torch.randn(1, 31, 10, 10))
    with pytest.raises(RuntimeError):
        layer(torch.randn(1, 32, 2, 2))


def descend(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.randn(1, layer.inputs, 6, 6)).square().sum().backward()
    optimizer.step()


def write_past_torch(layer):
    layer.weight.data.mul_(3)
    layer.weight.data.numpy()[3] = 5.0


def take_another_order(layer):
    layer.load_state_dict(layer_of(paths=900, order="gray").state_dict())


@needs_native
@pytest.mark.parametrize("change", [descend, write_past_torch, take_another_order])
def test_kernels_that_are_kept_follow_the_weights(change):
    layer, x = layer_of(paths=900), torch.randn(2, 32, 6, 6)

    def check():
        with torch.no_grad():
            expected = nn.functional.conv2d(x.double(), layer.matrix().double(), layer.bias.double()).float()
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-3)

    check()
    kept = layer._kept
    check()
    assert kept is not None
    assert layer._kept is kept
    change(layer)
    check()
    assert layer._kept is not kept


def test_exports_and_compiled_networks_hold_a_dense_convolution():
    layer, x = layer_of(), torch.randn(16, 32, 10, 10)
    with torch.no_grad():
        y = layer(x)
        program = torch.export.export(layer, (x,))
        torch.testing.assert_close(program.module()(x), y, rtol=1e-4, atol=1e-4)
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), y, rtol=1e-4, atol=1e-4)


def test_arguments_of_paths_that_there_are_not_are_refused():
    for build in (
        lambda **options: prernn.PathLinear(4, 4, 3, **options),
        lambda **options: PathConv2d(4, 4, 3, 3, **options),
        lambda **options: prernn.PathLinear(4, 4, 3, drawn=torch.tensor([[0, 0]]), **options),
        lambda **options: prernn.PathNetwork([4, 4, 3], 3, **options),
    ):
        with pytest.raises(TypeError, match="arguments of paths among sampler, seed, scramble"):
            build(sampel="random")
