"""What the commands say of a run: which weights they took, what they wrote, and that they replace another."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

from footage import class_videos
from prernn.commands.main import main
from prernn.training.lightning_cli import ProgressBar
from prernn.training.run.run_folder import slow_precision

OPTIONS = (
    "--data.root videos --backbone timm/test_resnet --data.task.size 32 --data.task.sampling.frames 2 "
    "--data.num_workers 0 --data.holdout 0 --trainer.accelerator cpu --trainer.logger false "
    "--trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --trainer.default_root_dir run"
)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The lines of each command, in one folder; and the folder."""
    root = tmp_path_factory.mktemp("said")
    lines, files = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        class_videos(root / "videos", ["go left", "go right", "stop"])
        for name, words in {
            "fit": f"fit {OPTIONS} --trainer.max_epochs 2",
            "again": f"fit {OPTIONS} --trainer.max_epochs 1",
            "tested": f"test {OPTIONS}",
            "third": f"fit {OPTIONS} --trainer.max_epochs 1",
            "resumed": f"fit {OPTIONS} --trainer.max_epochs 2 --ckpt_path last",
            "over": f"fit {OPTIONS} --trainer.max_epochs 2 --ckpt_path last",
            "test": f"test {OPTIONS}",
            "best": f"test {OPTIONS} --ckpt_path run/checkpoints/best.ckpt",
            "predict": f"predict {OPTIONS}",
            "validate": f"validate {OPTIONS}",
            "larger": f"test {OPTIONS.replace('size 32', 'size 48')}",
            "of the run": "test run",
            "early": "early run --out early",
            "quantize": "quantize run --out small --limit 2",
            "stream": "stream videos/test/stop/0.mp4 --checkpoint run --csv rows.csv --fps source",
        }.items():
            with patch.context() as inner:
                out = []
                inner.setattr("builtins.print", lambda *texts, out=out, **_: out.append(" ".join(map(str, texts))))
                assert main(words.split()) == 0
            lines[name] = "\n".join(out)
            files[name] = {path.name for path in (root / "run").iterdir()}
    return lines, root, files


def test_a_test_says_if_pictures_are_not_those_of_training(said):
    """As by the configuration that fit had, without the options that fit had."""
    lines, _, _ = said
    assert "size is 48, in training it was 32; prernn test RUN takes the run's own" in lines["larger"]
    assert not any("in training it was" in text for name, text in lines.items() if name != "larger")


def test_fit_says_what_it_wrote_and_of_which_epoch(said):
    lines, root, _ = said
    assert "model.safetensors of epoch 2, the last" in lines["fit"]
    assert "best.ckpt is of epoch " in lines["fit"]
    assert "written to run: config.yaml, curves.png, history.csv, model.safetensors" in lines["fit"]
    assert "holds a run" not in lines["fit"]
    with open(root / "run" / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_fit_says_that_it_begins_anew(said):
    assert (
        "run holds a run, which this one replaces from epoch 1 on (--ckpt_path last would continue it)"
        in said[0]["again"]
    )
    assert "holds a run" not in said[0]["resumed"]


def test_a_run_that_is_replaced_leaves_no_metrics_of_another_network(said):
    _, _, files = said
    assert {"metrics.json", "outputs.safetensors", "confusion.png"} <= files["tested"]
    assert not {"metrics.json", "outputs.safetensors", "confusion.png"} & files["third"]
    assert {"metrics.json", "predictions.csv"} <= files["stream"]


def test_a_run_without_epochs_left_says_so(said):
    assert "no epoch was left: the run has had 2 (see --trainer.max_epochs)" in said[0]["over"]


def test_mirrored_classes_are_spoken_of(said):
    assert "flip is off: mirrored, 'go left' would be 'go right'" in said[0]["fit"]


def test_other_commands_say_which_weights_they_took_and_what_they_wrote(said):
    lines, *_ = said
    for command in ("test", "predict", "validate"):
        assert "weights: run/checkpoints/last.ckpt, of epoch 2" in lines[command]
    assert "weights: run/checkpoints/best.ckpt, of epoch" in lines["best"]
    assert "written to run: classes.csv, confusion.png, metrics.json, outputs.safetensors" in lines["test"]
    assert "written to run: predictions.csv" in lines["predict"]
    assert "written to early: early.csv, early.png" in lines["early"]
    assert "written to small: layers.csv, model.safetensors, quantize.csv, quantize.png" in lines["quantize"]
    assert lines["stream"] == ("prernn: 6 frames with run/model.safetensors (epoch 2, the last); written: rows.csv")


def test_figures_in_files_have_no_tails_and_none_stands_there_twice(said):
    root = said[1] / "run"
    metrics = json.loads((root / "metrics.json").read_text())
    assert "video_accuracy" not in metrics  # with one clip a video it is the clip accuracy
    texts = [str(value) for value in metrics.values() if isinstance(value, float)]
    for name in ("history.csv", "predictions.csv"):
        with open(root / name) as file:
            texts += [value for row in csv.DictReader(file) for key, value in row.items() if not key.startswith("lr")]
    numbers = [text for text in texts if text.replace(".", "").isdigit()]
    assert len(numbers) > 20
    assert max(map(len, numbers)) <= 12  # of float32; 0.4000000059604645 has 18


def test_a_picture_is_named_after_its_network(said, monkeypatch, figures):
    monkeypatch.chdir(said[1])
    assert main(["quantize", "run", "--out", "other", "--limit", "0"]) == 0
    assert figures[-1].get_suptitle() == "PreGRU at layer4.0.conv2 of timm/test_resnet, systematic samples"


def test_nothing_is_warned_of_in_predict(said, monkeypatch, recwarn):
    monkeypatch.chdir(said[1])
    assert main(["predict", *OPTIONS.split()]) == 0
    assert not [warning for warning in recwarn if "sampler" in str(warning.message)]


def test_the_progress_bar_counts_from_one():
    class Trainer:
        max_epochs = 20

    bar = ProgressBar()
    bar._trainer = Trainer()
    assert bar._get_train_description(0) == "Epoch 1/20"
    Trainer.max_epochs = -1
    assert bar._get_train_description(4) == "Epoch 5"


@pytest.mark.parametrize(
    ("precision", "supported", "lines"), [("bf16-mixed", False, 1), ("bf16-mixed", True, 0), ("32-true", False, 0)]
)
def test_bfloat16_on_a_cpu_without_it_is_spoken_of(precision, supported, lines, monkeypatch):
    trainer = SimpleNamespace(precision=precision, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert len(list(slow_precision(trainer))) == lines
