"""Numbers in files have the digits of their type."""

import math

import pytest
import torch

from prernn.reports.files import write_json
from prernn.reports.numbers import plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_tails(dtype):
    values = torch.tensor([0.5, 1 / 3, 1e-8, 12345.678, -2.0], dtype=dtype)
    assert torch.equal(torch.tensor(plain(values), dtype=dtype), values)
    assert len(str(plain(torch.tensor(0.4)))) == 3
    assert plain(torch.tensor([[0.4, 0.1]])) == [[0.4, 0.1]]


def test_what_is_no_fraction():
    assert plain(torch.tensor([1, 2])) == [1, 2]
    assert isinstance(plain(torch.tensor(3)), int)
    assert math.isnan(plain(torch.tensor(math.nan)))
    assert plain(torch.tensor([math.inf])) == [math.inf]
    assert plain(torch.zeros(0)) == []


def test_json_has_no_numbers_that_are_none(tmp_path):
    path = write_json(tmp_path / "a.json", {"delay": math.nan, "all": [1.0, (math.inf, 2)], "name": "nan"})
    assert path.read_text().replace(" ", "").replace("\n", "") == '{"delay":null,"all":[1.0,[null,2]],"name":"nan"}'
