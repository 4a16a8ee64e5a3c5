"""Integer counts drawn from weights: their sums, their mean, their error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.sparsity.quantization.counts import ORDERS, SAMPLERS, SCALES, signed_counts

ALL = pytest.mark.parametrize("sampler", SAMPLERS)
DRAWS = 1000


def draw(values, samples, seed=0, neuron=None, **options):
    if neuron is None:
        neuron = torch.arange(len(values)).view(-1, *[1] * (values.ndim - 1)).expand(values.shape)
    generator = torch.Generator().manual_seed(seed)
    return signed_counts(values, neuron, samples, generator=generator, **options)


@ALL
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", ORDERS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_magnitudes_of_the_counts_sum_to_the_samples(sampler, scale, order, data):
    neurons, inputs = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    values = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=neurons * inputs, max_size=neurons * inputs))
    weight = torch.tensor(values, dtype=torch.float64).view(neurons, inputs)
    samples = data.draw(st.integers(1, 50))
    counts, factor = draw(weight, samples, sampler=sampler, scale=scale, order=order)
    assert ((counts == 0) | (counts.sign() == weight.sign())).all()  # a weight keeps its sign, and 0 stays 0
    norms = weight.abs().sum(1)
    if scale == "layer":
        assert counts.abs().sum() == (samples if norms.any() else 0)
        assert math.isclose(float(factor), float(norms.sum()) / samples)
    else:
        each = max(1, round(samples / neurons))
        assert counts.abs().sum(1).tolist() == [each if norm else 0 for norm in norms.tolist()]
        torch.testing.assert_close(factor, norms / each)


@ALL
@pytest.mark.parametrize("scale", SCALES)
def test_counts_are_right_on_average(sampler, scale):
    torch.manual_seed(1)
    weight = torch.randn(3, 5, dtype=torch.float64)
    draws = torch.stack(
        [
            counts * (factor if scale == "layer" else factor[:, None])
            for counts, factor in (draw(weight, 9, seed, sampler=sampler, scale=scale) for seed in range(DRAWS))
        ]
    )
    error = (draws.mean(0) - weight).abs() / (draws.std(0) / DRAWS**0.5 + 1e-12)
    assert error.max() < 4.5  # standard errors


def test_error_falls_as_it_should():
    """1/sqrt(N) for random samples, 1/N for even ones."""
    torch.manual_seed(2)
    weight = torch.randn(200, dtype=torch.float64)[None]
    errors = {}
    for sampler in SAMPLERS:
        for samples in (400, 6400):
            found = [draw(weight, samples, seed, sampler=sampler) for seed in range(20)]
            squares = [float((counts * factor - weight).square().mean()) for counts, factor in found]
            errors[sampler, samples] = (sum(squares) / len(squares)) ** 0.5
    slope = {name: math.log(errors[name, 400] / errors[name, 6400]) / math.log(16) for name in SAMPLERS}
    assert slope["random"] == pytest.approx(0.5, abs=0.05)
    for name in ("systematic", "jittered"):
        assert slope[name] == pytest.approx(1.0, abs=0.05)
    assert slope["sobol"] > 0.85  # log(N) / N
    for samples in (400, 6400):
        assert errors["systematic", samples] <= errors["jittered", samples] < errors["random", samples]


def test_even_samples_round_up_or_down():
    torch.manual_seed(3)
    weight = torch.randn(4, 30, dtype=torch.float64)
    counts, factor = draw(weight, 200, sampler="systematic")
    assert ((counts - weight / factor).abs() < 1).all()


def test_order_by_sign_keeps_the_sums_of_each_neuron():
    """Even samples err by less than one in a run of neighbors: with signs apart, by less than 3 in a neuron's sum."""
    torch.manual_seed(4)
    weight = torch.randn(20, 400, dtype=torch.float64)
    worst = {}
    for order in ORDERS:
        counts, factor = draw(weight, weight.numel() / 4, order=order)
        worst[order] = float((counts.sum(1) - weight.sum(1) / factor).abs().max())
    assert worst["sign"] < 3
    assert worst["natural"] > 6


def test_no_samples_no_weights_and_single_weights():
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    for scale in SCALES:
        counts, factor = draw(weight, 0, scale=scale)
        assert not counts.any()
        assert not factor.any()
        counts, factor = draw(torch.zeros(2, 3), 7, scale=scale)
        assert not counts.any()
        assert not factor.any()
        counts, factor = draw(weight, 6, scale=scale)
        assert counts[1].tolist() == [0, 0]
    counts, factor = draw(torch.tensor([[-0.5], [0.25]]), 6, scale="neuron")
    assert counts.tolist() == [[-3], [3]]
    assert (counts[:, 0] * factor).tolist() == [-0.5, 0.25]


def test_what_is_outside_a_band_gets_nothing():
    values, neuron = torch.tensor([5.0, 1.0, 1.0, 9.0]), torch.tensor([-1, 0, 1, -1])
    for scale in SCALES:
        counts, factor = draw(values, 4, neuron=neuron, scale=scale)
        assert counts.tolist() == [0, 2, 2, 0]
        assert (factor == 0.5).all()
