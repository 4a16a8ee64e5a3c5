"""Which videos validate: the data set's own, else some of the training's, and what is said of it."""

import json
import shutil

import pytest

from prernn.commands.main import main
from prernn.media.sampling import Sampling
from prernn.tasks.action.lists import Clip, source_of
from prernn.tasks.action.task import Action
from prernn.training.data_module import VideoData, held_out
from small_runs import CLASSES, config, render, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve videos of one class, three of the other; none to test on."""
    root = tmp_path_factory.mktemp("uneven")
    for label, (name, count) in enumerate(zip(CLASSES, (12, 3), strict=True)):
        for number in range(count):
            render(root / "train" / name, label, number)
    return root


def data(root, **options):
    return VideoData(str(root), Action(sampling=Sampling(2), size=32), batch_size=2, num_workers=0, **options)


def paths(dataset):
    return {record.path for record in dataset.records}


def test_without_validation_videos_some_of_the_training_are_held_out(folder):
    first = data(folder, holdout=0.25, seed=3)
    everything = paths(first.datasets["train"])
    first.setup("fit")
    trained, validated = (paths(first.datasets[name]) for name in ("train", "val"))
    assert trained | validated == everything
    assert not trained & validated
    assert [sum(name in path for path in validated) for name in CLASSES] == [3, 1]
    assert first.validation == "4 of 15 training videos, held out (holdout 0.25, seed 3)"
    again, other = data(folder, holdout=0.25, seed=3), data(folder, holdout=0.25, seed=4)
    for each in (again, other):
        each.setup("validate")
    assert paths(again.datasets["val"]) == validated
    assert paths(other.datasets["val"]) != validated


def test_own_validation_videos_are_taken_and_with_holdout_0_those_of_the_test(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    shutil.copytree(folder / "train", tmp_path / "test")
    without = data(tmp_path, holdout=0)
    without.setup("fit")
    assert without.validation == "the test videos"
    assert paths(without.datasets["val"]) == {
        path.replace("/train/", "/test/") for path in paths(data(tmp_path).datasets["train"])
    }
    shutil.copytree(folder / "train", tmp_path / "val")
    own = data(tmp_path)
    own.setup("fit")
    assert own.validation == "the data set's validation videos"
    assert paths(own.datasets["val"]) == {path.replace("/train/", "/val/") for path in paths(own.datasets["train"])}


def test_what_was_cut_from_one_recording_stays_together():
    ucf = [f"UCF-101/Jump/v_Jump_g{group:02d}_c{clip:02d}.avi" for group in range(5) for clip in range(4)]
    assert len({source_of(path) for path in ucf}) == 5
    assert source_of("wave/April_09_x_wave_u_cm_np1_fr_med_2.avi") == source_of("wave/April_09_x_wave_f_cm_np1_0.avi")
    task = Action(layout="ucf101")
    held = held_out([task.recording(Clip(path, 0)) for path in ucf], 0.3, 0)
    assert sum(held) == 2 * 4
    groups = {source_of(path) for path, out in zip(ucf, held, strict=True) if out}
    assert len(groups) == 2


def test_a_class_of_one_recording_keeps_it():
    assert held_out([(0, "a"), (1, "b"), (1, "c")], 0.9, 0)[0] is False
    assert sum(held_out([(0, "a"), (1, "b"), (1, "c")], 0.9, 0)) == 1
    assert not any(held_out([(0, "a"), (0, "b")], 0.0, 0))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(folder, share):
    with pytest.raises(ValueError, match="holdout"):
        data(folder, holdout=share)


def test_a_run_says_what_chose_its_checkpoint_and_where_classes_are_uneven(folder, tmp_path, capsys):
    shutil.copytree(folder / "train", tmp_path / "train")
    shutil.copytree(folder / "train", tmp_path / "test")
    values = config(tmp_path, tmp_path / "run", max_epochs=1)
    values["data"]["holdout"] = 0.1
    file = write(tmp_path / "config.yaml", values)
    assert main(["fit", "--config", file]) == 0
    printed = capsys.readouterr().out
    assert "2 of 15 training videos, held out" in printed
    assert "training examples a class: 2 (darker) to 11 (brighter)" in printed
    assert main(["test", "--config", file, "--ckpt_path", "best"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    chosen = "2 of 15 training videos, held out (holdout 0.1, seed 0)"
    assert metrics["best_checkpoint_chosen_on"] == chosen
    assert metrics["weights"].endswith(f"best.ckpt, of epoch 1, chosen on {chosen}")
    accuracy = metrics["class_accuracy"]
    assert metrics["mean_class_accuracy"] == pytest.approx(sum(accuracy.values()) / 2)
    printed = capsys.readouterr().out
    assert "mean_class_accuracy" in printed
    assert f"weights: {metrics['weights']}" in printed


def test_a_video_that_cannot_be_opened_validates_nothing(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    for number in range(40):
        (tmp_path / "train" / CLASSES[1] / f"bad{number}.mp4").write_text("no video")
    bad = data(tmp_path, holdout=0.1, on_error="skip")
    with pytest.warns(RuntimeWarning, match="skipped"):
        bad.setup("fit")
    validated = paths(bad.datasets["val"])
    assert sum(CLASSES[1] in path for path in validated) >= 1
    assert not any("bad" in path for path in validated)
    assert bad.datasets["train"].skipped
    with pytest.raises(ValueError, match="not a video"):
        data(tmp_path, holdout=0.1).setup("fit")
