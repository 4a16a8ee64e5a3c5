"""The three applications from the command line, small: fit, test, predict, stream, fuse, analyze."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

import prernn
from footage import face
from prernn.commands.main import main
from prernn.media.encoding import write_video
from prernn.tasks.face.landmarks import write_pts
from prernn.training.run.saved_outputs import Outputs

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
}


ROWS = "--model.learning.continuity.clips 2 --model.learning.continuity.carry true"
"""Gestures and faces are learned from videos that follow each other."""


def config(folder, root, recipe, task, options):
    values = {
        "seed_everything": 0,
        "model": {"recipe": recipe, "learning": {"lr": 0.01, "pretrained_lr": 0.01}},
        "data": {
            "root": str(root),
            "task": {"class_path": task, "init_args": options},
            "batch_size": 2,
            "num_workers": 0,
        },
        "trainer": {**QUIET, "default_root_dir": str(folder / "run")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "config.yaml")


def run(folder, *arguments):
    """Fit, test and predict; gives the run's folder."""
    for command in ("fit", "test", "predict"):
        assert main([command, "--config", str(folder / "config.yaml"), *arguments]) == 0
    return folder / "run"


def rows_of(path):
    with open(path) as lines:
        return list(csv.DictReader(lines))


def noise(seed, count, size=32):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------ gestures


@pytest.fixture(scope="module")
def gestures(tmp_path_factory):
    """NVGesture's layout: two gestures, three recordings of 24 frames each."""
    root = tmp_path_factory.mktemp("gestures")
    lines = []
    for label in (1, 2):
        for number in range(3):
            folder = root / "Video_data" / f"class_{label:02d}" / f"subject{number}_r0"
            folder.mkdir(parents=True)
            write_video(folder / "sk_depth.mp4", noise([label, number], 24), 30)
            (folder / "sk_depth.mp4").rename(folder / "sk_depth.avi")
            lines.append(f"path:./{folder.relative_to(root)} depth:sk_depth:4:20 label:{label}")
    (root / "classes.txt").write_text("1 wave\n2 push\n")
    (root / "nvgesture_train_correct_cvpr2016_v2.lst").write_text("\n".join(lines[:2] + lines[3:5]) + "\n")
    (root / "nvgesture_test_correct_cvpr2016_v2.lst").write_text("\n".join([lines[2], lines[5]]) + "\n")
    return root


@pytest.fixture(scope="module")
def gesture_run(gestures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gesture")
    options = {"frames": 8, "size": 32, "width": 2, "units": 8}
    recipe = {"backbone": "c3d", "backbone_options": options, "layer": "fc6", "cell": "gru", "input": "single"}
    config(folder, gestures, recipe, "prernn.tasks.Gesture", {"size": 32})
    return run(folder, *ROWS.split())


def test_gestures_are_learned_tested_and_predicted(gesture_run):
    metrics = json.loads((gesture_run / "metrics.json").read_text())
    assert {"accuracy", "edit_distance", "delay", "detected", "false_alarms"} <= set(metrics)
    assert metrics["labels"] == list(metrics["class_accuracy"]) == ["wave", "push"]  # the rows of the confusion matrix
    assert np.shape(metrics["confusion"]) == (2, 2)
    assert np.sum(metrics["confusion"]) == 2
    assert len(rows_of(gesture_run / "classes.csv")) == 2
    assert len(rows_of(gesture_run / "predictions.csv")) == 2
    assert all(item["out"].shape == (3, 3) for item in Outputs.load(gesture_run)[0].items)
    assert len(rows_of(gesture_run / "history.csv")) == 1


def test_gestures_of_a_stream_are_lines_of_json_with_commands(gestures, gesture_run, tmp_path, capsys):
    net = prernn.load(gesture_run)
    with torch.no_grad():  # sure of "wave" at every step
        net.cnn.fc8.weight.zero_()
        net.cnn.fc8.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    prernn.save(net, tmp_path)
    (tmp_path / "table.yaml").write_text("wave: play\n")
    clip = str(next(gestures.rglob("*.avi")))
    arguments = ["stream", clip, "--checkpoint", str(tmp_path), "--commands", str(tmp_path / "table.yaml")]
    capsys.readouterr()
    assert main([*arguments, "--video", str(tmp_path / "out.mp4")]) == 0
    begin, end = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (begin["event"], begin["label"], begin["command"]) == ("begin", "wave", "play")
    assert (end["event"], end["begin_frame"], end["end_frame"]) == ("end", 0, 24)
    assert (tmp_path / "out.mp4").stat().st_size > 0
    assert main([*arguments, "--task", "gesture", "--decoder", "beam", "--json", str(tmp_path / "out.jsonl")]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["label"] == "wave"
    (tmp_path / "table.yaml").write_text("jump: play\n")
    assert main(arguments) == 2
    assert "jump" in capsys.readouterr().err


def test_a_bad_list_line_is_named(gestures, gesture_run, tmp_path, capsys):
    (tmp_path / "bad.lst").write_text("path:./Video_data/class_01/subject0_r0 depth:sk_depth:4:20 label:one\n")
    file = str(gesture_run.parent / "config.yaml")
    assert main(["fit", "--config", file, "--data.task.train_list", str(tmp_path / "bad.lst")]) == 2
    assert "bad.lst:1" in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ faces


@pytest.fixture(scope="module")
def face_run(tmp_path_factory):
    """300VW's layout: five videos of 3 frames, landmarks that move."""
    folder = tmp_path_factory.mktemp("faces")
    for number in range(5):
        (folder / "data" / f"{number:03d}" / "annot").mkdir(parents=True)
        write_video(folder / "vid.mp4", noise(number, 3, 48), 25)
        (folder / "vid.mp4").rename(folder / "data" / f"{number:03d}" / "vid.avi")
        for frame in range(3):
            points = 24 + frame + 8 * face()
            write_pts(folder / "data" / f"{number:03d}" / "annot" / f"{frame + 1:06d}.pts", points)
    recipe = {"backbone": "small_vgg", "backbone_options": {"width": 2, "units": 8, "size": 16}, "layer": "fc6"}
    config(folder, folder / "data", recipe, "prernn.tasks.Face", {"size": 16})
    return run(folder, *ROWS.split())


def test_faces_are_learned_tested_and_predicted(face_run):
    metrics = json.loads((face_run / "metrics.json").read_text())
    assert {"nme", "auc", "failure_rate", "jitter", "distance"} <= set(metrics)
    assert "errors" not in metrics
    rows = rows_of(face_run / "predictions.csv")  # one of five videos is for testing
    assert [row["frame"] for row in rows] == ["1", "2", "3"]
    assert (face_run / "ced.png").read_bytes().startswith(b"\x89PNG")
    assert rows_of(face_run / "ced.csv")
    assert prernn.load(face_run).recipe.task.name == "face"


def test_a_stream_without_a_face_says_so(face_run, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", noise(9, 3, 64), 25)
    capsys.readouterr()
    assert main(["stream", str(tmp_path / "clip.mp4"), "--checkpoint", str(face_run)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["frame"] for row in rows] == [0, 1, 2]
    assert main(["stream", str(tmp_path / "clip.mp4"), "--checkpoint", str(face_run), "--csv", "out.csv"]) == 2
    assert "--csv: task face expects --json --detector --smooth alone" in capsys.readouterr().err
    assert main(["stream", str(tmp_path / "clip.mp4"), "--checkpoint", str(face_run), "--detector", "eyes"]) == 2
    assert "eyes" in capsys.readouterr().err
    assert main(["stream", str(tmp_path / "clip.mp4"), "--checkpoint", str(face_run), str(face_run)]) == 2
    assert "expected one checkpoint" in capsys.readouterr().err


def test_faces_cannot_be_fused(face_run, tmp_path, capsys):
    assert main(["fuse", str(face_run), str(face_run), "--out", str(tmp_path)]) == 2
    assert "expected outputs that are classes" in capsys.readouterr().err


def test_analysis_of_a_run(face_run, tmp_path, capsys):
    assert main(["analyze", str(face_run), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "saturation_gru.png").is_file()
    assert (tmp_path / "errors.png").is_file()


# ------------------------------------------------------------------------------------------------ two streams


def test_two_streams_are_learned_and_fused(tmp_path, capsys):
    root = tmp_path / "videos"
    for part in ("train", "test"):
        for label, name in enumerate(("left", "right")):
            (root / part / name).mkdir(parents=True)
            picture = noise([label, len(part)], 1, 40)[0]
            frames = [np.roll(picture, (1 - 2 * label) * 2 * i, 1)[:32, :32] for i in range(5)]
            for number in range(2):
                write_video(root / part / name / f"{number}.mp4", frames, 25)
    assert main(["flow", str(root), "--cache", str(tmp_path / "flow"), "--processes", "1", "--short-side", "16"]) == 0
    recipe = {"backbone": "timm/test_resnet", "cell": "gru", "input": "single", "hidden": "diagonal"}
    options = {"size": 32, "sampling": {"frames": 3}, "flip": False}
    flow = {"stream": "flow", "flow_cache": str(tmp_path / "flow"), "stack": 2, "flow": {"short_side": 16}}
    config(tmp_path / "color", root, recipe, "prernn.tasks.Action", options)
    config(tmp_path / "flows", root, {**recipe, "channels": 4}, "prernn.tasks.Action", {**options, **flow})
    runs = [str(run(tmp_path / name)) for name in ("color", "flows")]
    assert prernn.load(runs[1]).frame_shape[0] == 4
    assert main(["fuse", *runs, "--out", str(tmp_path / "both")]) == 0
    fused, scores = Outputs.load(tmp_path / "both")[0], [Outputs.load(path)[0] for path in runs]
    for item, one, two in zip(fused.items, *(outputs.items for outputs in scores), strict=True):
        mean = (one["out"].softmax(-1) + two["out"].softmax(-1)) / 2
        torch.testing.assert_close(item["out"].exp(), mean)
    clip = str(root / "test" / "left" / "0.mp4")
    capsys.readouterr()
    assert main(["stream", clip, "--checkpoint", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[1].split(",")[2] in ("left", "right")
    # other settings than the cache's, other channels than the stack's
    file = str(tmp_path / "flows" / "config.yaml")
    assert main(["test", "--config", file, "--data.task.flow.short_side", "20"]) == 2
    assert "short_side" in capsys.readouterr().err.splitlines()[-1]
    assert main(["fit", "--config", file, "--model.recipe.channels", "20"]) == 2
    assert "20" in capsys.readouterr().err.splitlines()[-1]
