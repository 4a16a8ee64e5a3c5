"""Trainings that a comparison keeps: what makes them others, and results that come back as they were."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prernn.studies.comparison import kept
from prernn.studies.comparison.lineup import Budget
from prernn.studies.comparison.trainings import Known
from prernn.tasks import Action
from prernn.tasks.task import Verdict

KNOWN = Known(Action(size=32), ["conv"], Budget(), [0, 1])


def items():
    return [
        {"input": torch.arange(6.0).view(3, 2) + number, "label": number, "number": number, "path": "a"}
        for number in (0, 1)
    ]


@pytest.mark.parametrize(
    "value", [torch.tensor(1.5), torch.zeros(0, 3), torch.ones(4, 4)[:, 1], torch.tensor([True, False])]
)
def test_tensors_of_any_form_are_told_apart(value):
    """One number, none, parts of others, truth values."""
    own, other = (kept._digest_of({"x": tensor}) for tensor in (value, value.clone()))
    assert own == other != kept._digest_of({"x": torch.cat([value.reshape(-1), value.new_ones(1)])})


def changed(**values):
    first, second = items()
    return [first, {**second, **values}]


@pytest.mark.parametrize(
    "given",
    [
        (replace(KNOWN, task=Action(size=48)), items(), items()),
        (replace(KNOWN, budget=Budget(clip=2.0)), items(), items()),
        (replace(KNOWN, at=None), items(), items()),
        (replace(KNOWN, budget=Budget(seeds=(3,))), items(), items()),
        (KNOWN, changed(label=0), items()),
        (KNOWN, items(), changed(input=torch.arange(6.0).view(3, 2) + 1.001)),
        (KNOWN, items(), changed(input=torch.arange(6.0).view(2, 3) + 1)),
        (KNOWN, items()[::-1], items()),
    ],
)
def test_a_training_of_something_else_is_another(given):
    assert kept.shared_by(KNOWN, items(), items()) != kept.shared_by(*given)


@pytest.mark.parametrize(
    "given",
    [
        (replace(KNOWN, budget=Budget(rates=(0.5,), shares=(0.1,), seeds=(0, 7))), items(), items()),
        (KNOWN, changed(path="elsewhere/a"), items()),
    ],
)
def test_rates_seeds_and_places_are_no_part_of_what_is_shared(given):
    assert kept.shared_by(KNOWN, items(), items()) == kept.shared_by(*given)


def test_a_result_comes_back_as_it_was():
    points = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / 7
    verdicts = {3: Verdict("a", "b", 1.0, points), 5: Verdict("a", "a", 0.0)}
    result = {"metrics": {"x": 0.1}, "verdicts": verdicts}
    again = kept._whole(json.loads(json.dumps(kept._plain(result))))
    assert again["metrics"] == result["metrics"]
    assert set(again["verdicts"]) == {3, 5}
    assert again["verdicts"][5] == verdicts[5]
    assert again["verdicts"][3][:3] == verdicts[3][:3]
    assert np.array_equal(again["verdicts"][3].points, points)
