"""Trainings that a comparison keeps: what makes them others, and results that come back as they were."""

import importlib.util
import json
import sys
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prernn.models.from_config import NetworkSpec
from prernn.studies.comparison import kept
from prernn.studies.comparison.lineup import Budget
from prernn.studies.comparison.trainings import Known, Training
from prernn.tasks import Action
from prernn.tasks.task import Verdict

RESULT = {"metrics": {"x": 0.1}, "history": {"train loss": [1.0]}, "rate": 0.1, "seed": 0}

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
    result = {**RESULT, "verdicts": verdicts}
    again = kept._whole(json.loads(json.dumps(kept._plain(result))))
    assert again["metrics"] == result["metrics"]
    assert set(again["verdicts"]) == {3, 5}
    assert again["verdicts"][5] == verdicts[5]
    assert again["verdicts"][3][:3] == verdicts[3][:3]
    assert np.array_equal(again["verdicts"][3].points, points)


class Once:
    """An executor that says how often it was asked."""

    asked = 0

    def submit(self, function, training):
        self.asked += 1
        done = Future()
        done.set_result(RESULT)
        return done


def trained(folder, **spec):
    """How many of one training were begun anew."""
    executor, found = Once(), kept.KeptTrainings(folder, KNOWN, items(), items())
    found.start(executor, Training(NetworkSpec(**spec), 0.1, 0)).result()
    return executor.asked


def test_a_file_of_weights_that_has_changed_trains_anew(tmp_path):
    """The run folder, the file in it, and what the file held are one."""
    run = tmp_path / "run"
    run.mkdir()
    save_file({"a": torch.zeros(2)}, run / "model.safetensors")
    assert [trained(tmp_path, weights=str(run)) for _ in range(2)] == [1, 0]
    save_file({"a": torch.ones(2)}, run / "model.safetensors")
    assert [trained(tmp_path, weights=str(run)) for _ in range(2)] == [1, 0]


def test_code_that_has_changed_trains_anew(tmp_path):
    """A class of the user's own is code; so is what its file imports."""
    file = tmp_path / "own_cells.py"
    for text in ("A = 1", "A = 2"):
        file.write_text(text)
        spec = importlib.util.spec_from_file_location("own_cells", file)
        sys.modules["own_cells"] = importlib.util.module_from_spec(spec)
        assert [trained(tmp_path) for _ in range(2)] == [1, 0]
    del sys.modules["own_cells"]
    assert trained(tmp_path) == 1


def test_lines_that_are_no_results_are_none(tmp_path):
    """Other JSON, bytes that are no text, a result of something else, a line that a crash cut."""
    file = tmp_path / kept.FILE
    assert trained(tmp_path) == 1
    line = file.read_bytes()
    odd = [b"[1, 2]", b"7", b"\xff\xfe", b'{"key": "a"}', b'{"key": ["a"], "result": 1}', line[:-30]]
    odd.append(json.dumps({"key": "a", "result": {"metrics": {}}}).encode())
    file.write_bytes(b"\n".join([*odd, line]))
    assert trained(tmp_path) == 0
    file.write_bytes(line[:-30])
    assert [trained(tmp_path) for _ in range(2)] == [1, 0]  # what follows a cut line is a line of its own
