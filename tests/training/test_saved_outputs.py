"""Outputs of a test as a file, and the fusion of several runs."""

import json

import pytest
import torch

from prernn.commands.main import main
from prernn.conversion.recipe import KeptTask, Recipe
from prernn.studies.fusion import fuse
from prernn.tasks.action.task import Action
from prernn.tasks.clips.clip_metrics import ClipMetrics
from prernn.training.batches import collate
from prernn.training.run.saved_outputs import Outputs

LABELS = ["a", "b", "c"]


def recipe(labels=LABELS):
    task = Action()
    task.labels = labels
    return task.noted(Recipe())


def items(seed, count=7):
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        steps = 2 + number % 3
        yield {"path": f"{number}.mp4", "label": number % 3, "input": torch.randn(steps, 1, generator=generator)}


def save(folder, seed, names=LABELS, count=7, scale=3.0):
    """A run whose outputs are random; gives the items as they were saved."""
    generator = torch.Generator().manual_seed(seed)
    outputs = Outputs()
    for batch in (collate(list(items(0, count))[i : i + 3]) for i in range(0, count, 3)):
        shape = (*batch["input"].shape[:2], len(names))
        outputs.add(scale * torch.randn(shape, generator=generator), batch)
    outputs.save(folder, recipe(names))
    return outputs.items


def test_what_is_saved_is_read_again(tmp_path):
    saved = save(tmp_path, 1)
    loaded, own = Outputs.load(tmp_path)
    assert own == Recipe.from_json(json.loads(json.dumps(recipe().to_json())))
    assert [item["path"] for item in loaded.items] == [f"{n}.mp4" for n in range(7)]
    for one, two, source in zip(saved, loaded.items, items(0), strict=True):
        assert torch.equal(one["out"], two["out"])
        assert len(two["out"]) == len(source["input"])  # padding is cut off
        assert two["label"] == source["label"]
        assert "input" not in two


def test_annotation_of_every_step_is_cut_too_and_other_tensors_are_kept():
    batch = collate(
        [
            {"input": torch.zeros(n, 1), "points": torch.ones(n, 4), "target": torch.ones(2), "path": f"{n}"}
            for n in (1, 3)
        ]
    )
    outputs = Outputs()
    outputs.add(torch.zeros(2, 3, 5), batch)
    assert [item["points"].shape for item in outputs.items] == [(1, 4), (3, 4)]
    assert [item["target"].tolist() for item in outputs.items] == [[1, 1], [1, 1]]


def test_parts_of_several_processes_are_put_in_order():
    a, b = Outputs([{"path": "b"}, {"path": "c"}]), Outputs([{"path": "a"}])
    assert [item["path"] for item in Outputs.joined([a, b]).items] == ["a", "b", "c"]


def test_fusion_averages_softmax_scores(tmp_path):
    one, two = save(tmp_path / "1", 1), save(tmp_path / "2", 2)
    found = fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "both", weights=[3, 1])
    metrics = ClipMetrics(3)
    for a, b in zip(one, two, strict=True):
        mean = 0.75 * a["out"].softmax(-1) + 0.25 * b["out"].softmax(-1)
        batch = {"label": torch.tensor([a["label"]]), "lengths": torch.tensor([len(mean)]), "path": [a["path"]]}
        metrics.update(mean.log()[None], batch)
    expected = metrics.compute()
    assert found["clip_accuracy"] == pytest.approx(float(expected["clip_accuracy"]))
    assert found["confusion"] == expected["confusion"].tolist()
    assert json.loads((tmp_path / "both" / "metrics.json").read_text())["weights"] == [0.75, 0.25]
    assert (tmp_path / "both" / "confusion.png").exists()
    again, _ = Outputs.load(tmp_path / "both")  # a fusion can be fused again
    assert len(again.items) == 7


def test_a_sure_network_outvotes_an_unsure_one(tmp_path):
    sure = save(tmp_path / "1", 1, scale=50.0)
    save(tmp_path / "2", 2, scale=1e-3)
    found = fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    hits = [int(item["out"].softmax(-1).mean(0).argmax()) == item["label"] for item in sure]
    assert found["clip_accuracy"] == pytest.approx(sum(hits) / 7)


def test_runs_that_do_not_fit(tmp_path, capsys):
    save(tmp_path / "1", 1)
    save(tmp_path / "labels", 2, names=["a", "b", "d"])
    save(tmp_path / "fewer", 2, count=4)
    Outputs([]).save(tmp_path / "face", Recipe(task=KeptTask("face")))
    one = str(tmp_path / "1")
    for runs, options, message in (
        ([one], [], "at least two runs"),
        ([one, str(tmp_path / "labels")], [], "expected the labels ['a', 'b', 'c']"),
        ([one, str(tmp_path / "fewer")], [], "expected the same 7 videos as in the first run, got 4"),
        ([str(tmp_path / "face")] * 2, [], "expected outputs that are classes"),
        ([one, str(tmp_path / "absent")], [], "run prernn test first"),
        ([one, one], ["--weights", "1", "-1"], "expected 2 weights of at least 0"),
        ([one, one], ["--weights", "1"], "expected 2 weights"),
    ):
        assert main(["fuse", *runs, "--out", str(tmp_path / "out"), *options]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        assert message in error[0]
    (tmp_path / "1" / "outputs.safetensors").write_text("no")
    with pytest.raises(ValueError, match="expected outputs of prernn test"):
        Outputs.load(tmp_path / "1")
