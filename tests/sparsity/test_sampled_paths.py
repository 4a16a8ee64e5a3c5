"""Paths sampled backwards from the outputs of trained networks."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prernn
from prernn.sparsity import sampled_paths as module
from prernn.sparsity.path_network import PathNetwork
from small_cnns import FcNet


def network(seed: int = 0, widths=(20, 16, 12, 5)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers[:-2]).double()


def linear(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def used(net: nn.Module) -> int:
    return sum(int((layer.weight != 0).sum()) for layer in linear(net))


@given(
    share=st.floats(0, 1),
    sampler=st.sampled_from(module.SAMPLERS),
    values=st.sampled_from(module.VALUES),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_weights_on_paths_stay_and_are_no_more_than_the_share(share, sampler, values, seed):
    net = network()
    small = prernn.sample_paths(net, share, sampler=sampler, values=values, seed=seed)
    total = sum(layer.weight.numel() for layer in linear(net))
    assert used(small) <= share * total
    if 0.02 < share < 0.5:  # and it is made use of: one neuron's paths more or less
        assert used(small) > 0.6 * share * total
    for before, after in zip(linear(net), linear(small), strict=True):
        kept = after.weight != 0
        assert torch.equal(before.bias, after.bias)
        assert ((after.weight * before.weight) >= 0).all()
        if values == "keep":
            assert torch.equal(after.weight[kept], before.weight[kept])


@pytest.mark.parametrize("sampler", module.SAMPLERS)
def test_every_weight_lies_on_a_path_from_an_output_to_an_input(sampler):
    first, second, third = linear(prernn.sample_paths(network(), 0.15, sampler=sampler))
    for behind, before in ((third, second), (second, first)):
        goes_on = (behind.weight != 0).any(0)  # neurons that a path of the layer behind passes
        assert torch.equal((before.weight != 0).any(1), goes_on)
    assert (third.weight != 0).any(1).all()  # each output has one


def test_paths_are_drawn_by_importance():
    """Far from all weights: their counts over many draws are as the products of the densities along the paths."""
    net, draws = network(widths=(4, 3, 2)), 1500
    chain = module._chain(net)
    rows = {layer: module._rows(layer) for layer, _ in chain}
    first, second = (layer for layer, _ in chain)
    density = {layer: row.abs() / row.abs().sum(1, keepdim=True) for layer, row in rows.items()}
    arriving = density[second].mean(0)  # of the paths, half from each output
    expected = {second: density[second] / 2, first: density[first] * arriving.unsqueeze(1)}
    for sampler in module.SAMPLERS:
        total = {layer: torch.zeros_like(row) for layer, row in rows.items()}
        for seed in range(draws):
            for layer, counts in module._counts(chain, rows, 2, sampler, seed).items():
                total[layer] += counts
        for layer in total:
            torch.testing.assert_close(total[layer] / (2 * draws), expected[layer], rtol=0, atol=0.03)


def test_systematic_paths_are_spread_evenly():
    """A neuron's paths and its weights differ by less than one path."""
    net = network()
    chain = module._chain(net)
    rows = {layer: module._rows(layer) for layer, _ in chain}
    counts = module._counts(chain, rows, 1000, "systematic", 3)
    for layer, count in counts.items():
        density = rows[layer].abs() / rows[layer].abs().sum(1, keepdim=True)
        assert (count - density * count.sum(1, keepdim=True)).abs().max() < 1
    last, *_ = (layer for layer, readers in chain if not readers)
    assert counts[last].sum(1).tolist() == [200] * 5
    for layer, readers in chain:
        if readers:
            assert torch.equal(counts[layer].sum(1), counts[readers[0]].sum(0))  # none is lost on the way


@pytest.mark.parametrize("sampler", module.SAMPLERS)
def test_counts_are_the_weights_in_expectation(sampler):
    chain = module._chain(network(widths=(12, 6)))
    rows = {layer: module._rows(layer) for layer, _ in chain}
    ((layer, row),) = rows.items()
    drawn = [module._kept(row, module._counts(chain, rows, 32, sampler, seed)[layer], "counts") for seed in range(800)]
    torch.testing.assert_close(torch.stack(drawn).mean(0), row, rtol=0, atol=0.08)


def test_more_paths_compute_more_alike():
    net, x = network().eval(), torch.rand(50, 20, dtype=torch.float64)
    errors = [(prernn.sample_paths(net, share)(x) - net(x)).norm() for share in (0.05, 0.3, 0.8, 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    assert used(net) == 20 * 16 + 16 * 12 + 12 * 5  # it is left as it is


def test_convolutions_stay_and_paths_go_through_the_dense_layers():
    torch.manual_seed(0)
    net = FcNet().eval()
    small = prernn.sample_paths(net, 0.1)
    assert type(small) is type(net)
    dense = linear(net)
    assert used(small) <= 0.1 * sum(layer.weight.numel() for layer in dense)
    for before, after in zip(net.modules(), small.modules(), strict=True):
        if isinstance(before, nn.Conv2d):
            assert torch.equal(before.weight, after.weight)


def test_paths_of_a_path_network_are_taken_out():
    net = PathNetwork([20, 16, 12, 5], 200).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    small = prernn.sample_paths(net, 0.5)
    paths = sum(layer.paths for layer in small.layers)
    assert 200 < paths <= 300
    assert small(torch.rand(3, 20, dtype=torch.float64)).shape == (3, 5)
    for before, after in zip(net.layers, small.layers, strict=True):
        kept = after.matrix() != 0
        torch.testing.assert_close(after.matrix()[kept], before.matrix()[kept], rtol=1e-12, atol=0)
    with pytest.raises(NotImplementedError, match="merged"):
        small.grown(400)
    with pytest.raises(NotImplementedError, match="residual"):
        prernn.sample_paths(PathNetwork([9, 4, 4, 4, 3], 20, step=0.5), 0.5)


def test_what_is_used_is_told():
    table = module.used_weights(prernn.sample_paths(network(), 0.25)).splitlines()
    assert [line.split()[0] for line in table] == ["layer", "0", "3", "6", "all"]
    assert float(table[-1].split()[-1].rstrip("%")) <= 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.5}, "share"),
        ({"share": 0.5, "sampler": "sobol"}, "systematic, random"),
        ({"share": 0.5, "values": "signs"}, "keep, counts"),
        ({"share": 0.5, "seed": 0.5}, "seed"),
    ],
)
def test_wrong_arguments_of_sampling_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        prernn.sample_paths(network(), **arguments)


def test_networks_without_dense_layers_or_with_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="fully connected"):
        prernn.sample_paths(nn.Sequential(nn.ReLU()), 0.5)
    net = network()
    net[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        prernn.sample_paths(net, 0.5)
