"""A spread is shown where there is one."""

from types import SimpleNamespace

from prernn.reports.tables import mean_text, seeds_text
from prernn.studies.comparison.compare import _table


def test_no_spread_of_one_value():
    assert mean_text(1.5, 0.25, 2) == "1.50 ± 0.25"
    assert mean_text(1.5, 0.0, 1) == "1.50"
    assert (seeds_text(1), seeds_text(3)) == ("1 seed", "3 seeds")


def test_a_comparison_of_one_seed_has_none():
    row = {"network": "PreGRU", "recurrent weights": 3, "weights": 5, "learning rate": 0.1, "train loss": 0.5}
    for spread, title, cell in (("", "one seed", "0.250"), (0.5, "mean ± standard deviation", "0.250 ±0.500")):
        table = _table([{**row, "nme": 0.25, "nme spread": spread}], SimpleNamespace(name="face"))
        assert title in table.title
        assert list(table.columns[4].cells) == [cell]
