"""Which neurons each structure joins."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.sobol import block_permutation, path_sources


def test_grouped_joins_neighbors_in_blocks():
    mask = hidden_structure("grouped:3").mask(6)
    assert mask.tolist() == [[i // 2 == j // 2 for j in range(6)] for i in range(6)]


def test_diagonal_joins_each_neuron_to_itself():
    assert hidden_structure("diagonal").mask(5).tolist() == torch.eye(5).bool().tolist()


@given(size=st.integers(1, 60), density=st.floats(0.001, 1))
def test_sparse_mask_is_fixed_and_exact(size, density):
    first, again = (hidden_structure(f"sparse:{density}").mask(size) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(first, again)
    assert torch.equal(first, hidden_structure(f"sparse:{density}").mask(size))
    assert int(first.sum()) == max(1, round(density * size * size))


def test_sparse_mask_stays_the_same_over_releases():
    """Checkpoints don't carry the mask: these positions must never change."""
    assert hidden_structure("sparse:0.1").mask(8).nonzero().tolist() == [[2, 0], [2, 2], [2, 5], [2, 7], [5, 1], [7, 6]]


@pytest.mark.parametrize("density", ["0.001", "0.01", "0.04", "0.1", "0.3", "0.97", "1"])
def test_sparse_matrix_has_the_size_of_its_module(density):
    """Several sizes can have the same number of weights."""
    sizes = [*range(1, 41), 100, 101]
    shapes = {size: tuple(HiddenToHidden(size, 1, f"sparse:{density}").matrix().shape) for size in sizes}
    assert shapes == {size: (1, size, size) for size in sizes}


def test_sparse_mask_spreads_evenly():
    mask = hidden_structure("sparse:0.1").mask(512).double()
    expected, deviation = 51.2, (512 * 0.1 * 0.9) ** 0.5
    for dim in (0, 1):
        counts = mask.sum(dim)
        assert (counts - expected).abs().max() < 5 * deviation
        assert 0.8 * deviation < counts.std() < 1.2 * deviation
    blocks = mask.unfold(0, 64, 64).unfold(1, 64, 64).sum((2, 3))
    assert (blocks - 409.6).abs().max() < 5 * (4096 * 0.1 * 0.9) ** 0.5
    assert 30 < mask.diagonal().sum() < 75  # the diagonal is like any other


def test_sparse_mask_nests_in_a_denser_one():
    thin, thick = (hidden_structure(f"sparse:{p}").mask(50) for p in (0.1, 0.3))
    assert bool((thick | ~thin).all())


WIDTHS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 30, 32, 64, 100]


@pytest.mark.parametrize("size", WIDTHS)
def test_every_neuron_sends_and_receives_as_many_paths(size):
    for paths in sorted({1, 2, 3, size // 2, size - 1, size} & set(range(1, size + 1))):
        mask = hidden_structure(f"paths:{paths}").mask(size)
        assert mask.sum(0).tolist() == [paths] * size  # sent; a repeated pair would be missing here
        assert mask.sum(1).tolist() == [paths] * size  # received
        assert path_sources(size, paths).shape == (size, paths)


@pytest.mark.parametrize("size", [2, 4, 8, 16, 64])
def test_paths_of_a_power_of_two_follow_the_sequence_itself(size):
    """Point i joins neuron floor(D*x[0]) to neuron floor(D*x[1])."""
    points = torch.quasirandom.SobolEngine(2).draw(3 * size, dtype=torch.float64)
    for block in range(min(3, size)):
        source, destination = (points[block * size : (block + 1) * size] * size).floor().long().unbind(1)
        assert torch.equal(block_permutation(size, block)[destination], source)


def test_more_paths_keep_the_first_ones():
    assert torch.equal(path_sources(12, 5)[:, :3], path_sources(12, 3))


@pytest.mark.parametrize(("size", "block"), [(0, 0), (-1, 0), (8, 8), (8, -1)])
def test_blocks_outside_the_sequence_are_errors(size, block):
    with pytest.raises(ValueError, match="expected"):
        block_permutation(size, block)


@pytest.mark.parametrize("paths", [0, -1, 9])
def test_too_many_or_no_paths_are_errors(paths):
    with pytest.raises(ValueError, match="8 neurons"):
        path_sources(8, paths)


def test_a_ring_hands_on_what_it_holds():
    """Neuron i hears i - 1, the first the last; after D steps all is where it was."""
    module = HiddenToHidden(5, 1, "ring", dtype=torch.float64)
    torch.nn.init.ones_(module.weight)
    h = torch.arange(5.0, dtype=torch.float64).unsqueeze(0)
    assert module(h).flatten().tolist() == [4, 0, 1, 2, 3]
    for _ in range(5):
        h = module(h)[:, 0]
    assert h.flatten().tolist() == [0, 1, 2, 3, 4]
    assert hidden_structure("ring").mask(1).tolist() == [[True]]
    assert not hidden_structure("ring").mask(2).diagonal().any()
