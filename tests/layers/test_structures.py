"""Hidden-to-hidden structures: bad specifications, counts, storage, masks, Sobol' paths, and the module around them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import close
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.structures.irregular import SelfConnected
from prernn.layers.structures.parse import EXAMPLES, STRUCTURES, hidden_structure, self_connected
from prernn.layers.structures.regular import Band
from prernn.ops import compressed_rows
from prernn.ops.sobol import block_permutation, path_sources
from strategies import GIVEN, SPECS, fits_size, specs

BAD_ANYWHERE = [
    *("band:4", "band:0", "band:-3", "band:x", "band:", "band", "band:3.5", "band:0%", "band:101%", "band:-5%"),
    *("band:%", "band:nan%", "band:inf%", "grouped:0", "grouped:-1", "grouped:2.5", "grouped:x", "grouped"),
    *("sparse:1.5", "sparse:0", "sparse:-0.1", "sparse:nan", "sparse:inf", "sparse:x", "sparse", "sparse:10%"),
    *("paths:0", "paths:-1", "paths:1.5", "paths:x", "paths", "full:3", "diagonal:2", "", " ", "banana", "Full"),
    *("full,diagonal", ":", "band21"),
]
BAD_FOR_SIZE = [("grouped:3", 64), ("grouped:128", 64), ("paths:9", 8), ("band:17", 8), ("band:3", 1)]
ENTRY_POINTS = {
    "hidden_structure": lambda spec, size: hidden_structure(spec).check(size),
    "HiddenToHidden": lambda spec, size: HiddenToHidden(size, 1, spec),
    "LSTM": lambda spec, size: prernn.LSTM(2, size, hidden=spec),
    "weight_count": lambda spec, size: hidden_structure(spec).weight_count(size),
    "mask": lambda spec, size: hidden_structure(spec).mask(size),
}


@pytest.mark.parametrize("spec", [*BAD_ANYWHERE, None, 7, 0.1, ("band", 3)])
def test_a_bad_specification_is_an_error_that_names_it_and_what_is_allowed(spec):
    with pytest.raises(ValueError) as caught:
        prernn.hidden_structure(spec)
    message = str(caught.value)
    assert f"hidden={spec!r}" in message
    rule = message.split(f"hidden={spec!r}", 1)[1]
    assert any(word in rule for word in ("must", "expected", "takes"))


@pytest.mark.parametrize(("spec", "size"), BAD_FOR_SIZE)
@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_specification_that_does_not_fit_the_size_is_an_error_that_names_both(entry, spec, size):
    with pytest.raises(ValueError, match=f"hidden='{spec}'.*D={size}"):
        ENTRY_POINTS[entry](spec, size)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [0, -1])
def test_no_structure_fits_less_than_one_neuron(spec, size):
    with pytest.raises(ValueError, match="at least 1"):
        hidden_structure(spec).check(size)


def test_every_structure_has_an_example_in_the_error_messages():
    assert set(STRUCTURES) == set(GIVEN)
    assert all(fits_size(spec, 64) for spec in EXAMPLES)


@pytest.mark.parametrize("spec", [*SPECS, "sparse:0.123456789", "band:12.3456789%", "sparse:1e-05", "band:33.3333333%"])
def test_a_structure_writes_the_specification_that_it_was_read_from(spec):
    structure = hidden_structure(spec)
    assert hidden_structure(str(structure)) == structure
    assert hidden_structure(structure) is structure
    assert hidden_structure(f"  {spec} ") == structure


# --- counts and storage


@settings(max_examples=80)
@given(size=st.integers(1, 40), data=st.data())
def test_mask_matrix_count_and_storage_agree(size, data):
    spec = data.draw(specs(size))
    structure, gates = hidden_structure(spec), 2
    mask = structure.mask(size)
    assert mask.dtype == torch.bool
    assert mask.shape == (size, size)
    assert int(mask.sum()) == structure.weight_count(size)
    module = HiddenToHidden(size, gates, spec, dtype=torch.float64)
    assert module.weight.shape == (gates, *structure.weight_shape(size))
    assert module.weight_count() == gates * structure.weight_count(size)
    torch.nn.init.uniform_(module.weight, 1, 2)  # no entry is 0
    matrix = module.matrix()
    assert matrix.shape == (gates, size, size)
    assert torch.equal(matrix != 0, mask.expand(gates, -1, -1))
    # each weight stands in one place of the matrix, those outside it nowhere
    outside = module.weight.numel() - module.weight_count()
    values = module.weight.detach().flatten().sort().values
    used = matrix.detach()[matrix != 0].sort().values
    assert outside >= 0
    assert set(used.tolist()) <= set(values.tolist())
    assert len(set(used.tolist())) == used.numel()


@given(size=st.integers(1, 64), data=st.data())
def test_compact_storage(size, data):
    """A diagonal layer holds D numbers, a band layer C*D, and so on: never D*D."""
    groups = data.draw(st.sampled_from([g for g in range(1, size + 1) if size % g == 0]))
    columns = 2 * data.draw(st.integers(0, size - 1)) + 1
    paths = data.draw(st.integers(1, size))
    density = data.draw(st.floats(0.01, 1))
    stored = {
        "full": size * size,
        "diagonal": size,
        f"band:{columns}": columns * size,
        f"grouped:{groups}": size * size // groups,
        f"paths:{paths}": paths * size,
        f"sparse:{density}": max(1, round(density * size * size)),
    }
    for spec, numbers in stored.items():
        assert math.prod(hidden_structure(spec).weight_shape(size)) == numbers, spec


@given(size=st.integers(1, 60), data=st.data())
def test_band_count_formula_and_mask(size, data):
    columns = 2 * data.draw(st.integers(0, size - 1)) + 1
    band = hidden_structure(f"band:{columns}")
    assert band.weight_count(size) == columns * size - (columns * columns - 1) / 4
    expected = [[abs(i - j) <= columns // 2 for j in range(size)] for i in range(size)]
    assert band.mask(size).tolist() == expected


@given(size=st.integers(1, 500), percent=st.floats(0.01, 100))
def test_band_percent_is_the_nearest_odd_width(size, percent):
    columns = hidden_structure(f"band:{percent!r}%").columns(size)
    goal = percent * size / 100
    assert columns % 2 == 1
    assert 1 <= columns <= 2 * size - 1
    assert abs(columns - goal) <= min(abs(other - goal) for other in range(1, 2 * size, 2)) + 1e-9


def test_band_percent_by_hand():
    assert hidden_structure("band:5%").columns(400) == 21  # 20 lies between 19 and 21: the wider
    assert hidden_structure("band:1%").columns(1280) == 13  # 12.8
    assert hidden_structure("band:0.1%").columns(64) == 1
    assert hidden_structure("band:100%").columns(64) == 65
    assert hidden_structure("band:2.25%").columns(400) == 9


def test_the_papers_band_layer_has_14320_recurrent_weights():
    assert HiddenToHidden(400, 4, "band:9").weight_count() == 14_320
    assert prernn.LSTM(1, 400, hidden="band:9").weight_hh_l0.numel() == 4 * 400 * 9


def test_a_band_as_wide_as_possible_is_full():
    module = HiddenToHidden(6, 1, "band:11", dtype=torch.float64)
    assert bool(module.structure.mask(6).all())
    assert module.weight_count() == 36


@pytest.mark.parametrize("columns", [1, 3, 7, 13, 23])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e300])
def test_entries_outside_the_matrix_are_never_used(columns, garbage):
    size, gates = 12, 3
    clean = HiddenToHidden(size, gates, f"band:{columns}", dtype=torch.float64)
    dirty = HiddenToHidden(size, gates, f"band:{columns}", dtype=torch.float64)
    place = torch.arange(size)[:, None] + torch.arange(columns) - columns // 2
    outside = (place < 0) | (place >= size)
    with torch.no_grad():
        clean.weight[:, outside] = 0
        dirty.weight.copy_(clean.weight)
        dirty.weight[:, outside] = garbage
    h = torch.randn(5, size, dtype=torch.float64)
    assert torch.equal(clean(h), dirty(h))
    assert torch.equal(clean.matrix(), dirty.matrix())
    for module in (clean, dirty):
        (module(h).square().sum() + module.matrix().sin().sum()).backward()
    assert torch.equal(clean.weight.grad, dirty.weight.grad)
    assert bool((dirty.weight.grad[:, outside] == 0).all())
    assert bool((dirty.weight.grad[:, ~outside] != 0).all())


# --- what each structure joins


def test_grouped_joins_neighbours_in_blocks():
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


# --- the module


@pytest.mark.parametrize("spec", SPECS)
def test_start_is_uniform_at_the_scale_of_the_fan_in(spec):
    size = 240
    module = HiddenToHidden(size, 4, spec, dtype=torch.float64)
    fan_in = hidden_structure(spec).mask(size).sum(1).double().quantile(0.5).item()
    bound = 1 / math.sqrt(hidden_structure(spec).fan_in(size))
    assert abs(hidden_structure(spec).fan_in(size) - fan_in) <= 0.2 * fan_in
    assert module.weight.abs().max() <= bound
    assert module.weight.abs().max() > 0.9 * bound
    assert abs(module.weight.std() - bound / math.sqrt(3)) < 0.1 * bound
    before = module.weight.detach().clone()
    module.reset_parameters()
    assert not torch.equal(before, module.weight)
    module.zero_()
    assert not module.matrix().any()


@pytest.mark.parametrize("spec", SPECS)
def test_on_the_meta_device_shapes_and_counts_are_known_without_memory(spec):
    size = 2400
    module = HiddenToHidden(size, 3, spec, device="meta")
    assert module.weight.is_meta
    assert module.weight.shape == (3, *hidden_structure(spec).weight_shape(size))
    assert module.weight_count() == 3 * hidden_structure(spec).weight_count(size)
    with torch.device("meta"):
        assert HiddenToHidden(24, 3, spec).weight.is_meta
        assert prernn.GRU(2, 24, hidden=spec).weight_hh_l0.is_meta


@pytest.mark.parametrize("spec", SPECS)
def test_state_dict_holds_the_compact_weight_alone(spec):
    module, other = (HiddenToHidden(24, 3, spec, dtype=torch.float64) for _ in range(2))
    assert list(module.state_dict()) == ["weight"]
    other.load_state_dict(module.state_dict())
    h = torch.randn(2, 24, dtype=torch.float64)
    close(other(h), module(h))


@pytest.mark.parametrize("spec", SPECS)
def test_a_module_built_on_meta_works_once_weights_are_assigned(spec):
    """Large networks are built on meta and take their weights from a file."""
    real, empty = HiddenToHidden(24, 3, spec), HiddenToHidden(24, 3, spec, device="meta")
    empty.load_state_dict(real.state_dict(), assign=True)
    h = torch.randn(2, 24)
    close(empty(h), real(h))


def test_a_structure_of_ones_own_passes_through():
    module = HiddenToHidden(8, 2, Band(width=3), dtype=torch.float64)
    assert str(module.structure) == "band:3"
    assert "band:3" in repr(module)


# --- a connection of every neuron to itself

OWN = ["sparse:0.1+self", "paths:3+self", "sparse:1+self", "paths:1+self", "sparse:0.001+self"]


def test_the_ending_self_connects_what_might_lack_it():
    for base in ("sparse:0.1", "paths:3"):
        structure = hidden_structure(f" {base}+self ")
        assert structure == SelfConnected(hidden_structure(base)) == self_connected(hidden_structure(base))
        assert str(structure) == f"{base}+self"
        assert hidden_structure(str(structure)) == structure != hidden_structure(base)
        assert self_connected(structure) is structure
    for spec in ("full", "diagonal", "band:3", "band:5%", "grouped:2"):
        structure = hidden_structure(spec)
        assert self_connected(structure) is structure
        with pytest.raises(ValueError, match=r"\+self.*already"):
            hidden_structure(f"{spec}+self")


@pytest.mark.parametrize(
    "spec",
    ["+self", "sparse+self", "sparse:0+self", "paths:0+self", "paths:3+self+self", "paths:3 + self", "banana+self"],
)
def test_a_bad_specification_of_self_connections_is_an_error_that_names_it(spec):
    with pytest.raises(ValueError) as caught:
        hidden_structure(spec)
    assert f"hidden={spec!r}" in str(caught.value)


def test_more_paths_than_neurons_are_an_error_with_self_connections_too():
    with pytest.raises(ValueError, match="D=8"):
        HiddenToHidden(8, 1, "paths:9+self")


@given(
    size=st.integers(1, 40),
    paths=st.integers(1, 40),
    density=st.floats(0.001, 1),
    word=st.sampled_from(["sparse", "paths"]),
)
def test_self_connections_are_those_of_the_base_and_the_diagonal_each_once(size, paths, density, word):
    base = hidden_structure(f"paths:{min(paths, size)}" if word == "paths" else f"sparse:{density!r}")
    structure = self_connected(base)
    mask = base.mask(size) | torch.eye(size, dtype=torch.bool)
    assert torch.equal(structure.mask(size), mask)
    module = HiddenToHidden(size, 2, structure, dtype=torch.float64)
    count = int(mask.sum())
    assert module.weight.shape == (2, count)
    assert module.weight_count() == 2 * structure.weight_count(size) == 2 * count
    torch.nn.init.uniform_(module.weight, 1, 2)
    matrix = module.matrix()
    assert torch.equal(matrix != 0, mask.expand(2, -1, -1))
    assert torch.equal(matrix[:, mask], module.weight)  # by receiver, then sender


@pytest.mark.parametrize("gates", [1, 3])
@pytest.mark.parametrize(
    "spec", ["full", "diagonal", "band:1", "band:7", "band:50%", "grouped:4", "sparse:1", "paths:12", *OWN]
)
def test_the_identity_lies_in_a_structure_with_self_connections(spec, gates):
    size = 12
    module = HiddenToHidden(size, gates, spec, dtype=torch.float64)
    flag = module.weight.requires_grad
    module.identity_()
    assert torch.equal(module.matrix(), torch.eye(size, dtype=torch.float64).expand(gates, -1, -1))
    h = torch.randn(5, size, dtype=torch.float64)
    assert torch.equal(module(h), h.unsqueeze(1).expand(-1, gates, -1))
    assert module.weight.requires_grad is flag is True
    assert module.weight.grad is None
    assert module.weight.is_leaf
    HiddenToHidden(size, gates, spec, device="meta").identity_()  # shapes alone


@pytest.mark.parametrize("spec", ["sparse:0.1", "sparse:0.9", "paths:1", "paths:5"])
def test_the_identity_does_not_lie_in_a_structure_where_a_neuron_lacks_itself(spec):
    module = HiddenToHidden(12, 2, spec, dtype=torch.float64)
    assert not module.structure.mask(12).diagonal().all()
    before = module.weight.detach().clone()
    with pytest.raises(NotImplementedError, match=spec):
        module.identity_()
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("spec", [*OWN, "sparse:0.5+self"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_product_with_self_connections_and_its_gradients_are_those_of_the_matrix(spec, dtype, atol):
    size, gates = 48, 2
    module = HiddenToHidden(size, gates, spec, dtype=dtype)
    h = torch.randn(7, size, dtype=dtype, requires_grad=True)
    seed = torch.randn(7, gates, size, dtype=dtype)
    found = module(h)
    expected = torch.einsum("gij,nj->ngi", module.matrix(), h)
    close(found, expected, atol=atol)
    leaves = [module.weight, h]
    close(*(torch.autograd.grad((out * seed).sum(), leaves) for out in (found, expected)), atol=atol * 10)


def test_few_self_connected_weights_run_as_compressed_rows(monkeypatch):
    """In float32 on the CPU, where there are kernels; the test above sees that they are right."""
    used, product = [], compressed_rows.product
    monkeypatch.setattr(
        compressed_rows, "product", lambda h, weight, *kind: used.append(kind) or product(h, weight, *kind)
    )
    h = torch.randn(3, 48)
    for spec in ("sparse:0.1+self", "paths:3+self", "sparse:0.5+self"):
        HiddenToHidden(48, 1, spec)(h)
    native = compressed_rows.usable(torch.zeros(1, 4))
    assert used == ([("sparse+self", 0.1), ("paths+self", 3)] if native else [])
