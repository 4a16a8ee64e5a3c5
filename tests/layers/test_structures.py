"""Hidden-to-hidden structures: bad specifications, counts, storage, and the module around them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import close
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.structures.parse import EXAMPLES, STRUCTURES, hidden_structure
from prernn.layers.structures.regular import Band
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


@pytest.mark.parametrize("spec", ["sparse:1.5", "sparse:x"])
def test_a_density_that_is_none_says_what_it_is(spec):
    with pytest.raises(ValueError, match=r"the share of weights that (is|are) kept"):
        hidden_structure(spec)
