"""Training never mirrors classes that a mirror swaps, and says so."""

import pytest

import prernn
from footage import class_videos
from prernn.tasks import Action, Gesture
from prernn.tasks.clips.mirroring import mirrored_pairs
from prernn.training.continuity import SINGLE_CLIPS
from prernn.training.run.run_folder import RunFolder
from small_cnns import ResidualNet


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        (["swipe left", "swipe right", "tap"], [("swipe left", "swipe right")]),
        (["TurnLeft", "TurnRight"], [("TurnLeft", "TurnRight")]),
        (["hand_l", "hand_r"], [("hand_l", "hand_r")]),
        (["circle clockwise", "circle counter-clockwise"], [("circle clockwise", "circle counter-clockwise")]),
        (["right_to_left", "left_to_right"], [("left_to_right", "right_to_left")]),
        (["turn left", "straight on"], []),
        (["all", "arr", "bright", "cleft"], []),
        (["swipe up", "swipe down"], []),
        (["left", "left hand"], []),
    ],
)
def test_pairs_that_a_mirror_swaps(labels, pairs):
    assert mirrored_pairs(labels) == pairs


SPEC = {"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(("labels", "flip"), [(["left", "right"], False), (["in", "out"], True)])
def test_actions_are_mirrored_only_where_that_does_no_harm(labels, flip, tmp_path):
    class_videos(tmp_path, labels)
    task = Action()
    task.open(tmp_path, SPEC)
    assert task.spec.flip is flip
    assert task.remarks == (() if flip else ("flip is off: mirrored, 'left' would be 'right'",))


def test_gestures_are_not_mirrored_into_others_either(tmp_path):
    (tmp_path / "Video_data" / "a").mkdir(parents=True)
    (tmp_path / "Video_data" / "a" / "sk_depth.avi").touch()
    (tmp_path / "classes.txt").write_text("1 swipe left\n2 swipe right\n")
    line = "path:./Video_data/a depth:sk_depth:0:8 label:1\n"
    (tmp_path / "nvgesture_train_correct_cvpr2016_v2.lst").write_text(line)
    task = Gesture(flip=True)
    task.open(tmp_path, SPEC)
    assert not task.spec.flip
    assert len(task.remarks) == 1


def test_a_training_says_so(capsys, tmp_path):
    class Anything:
        is_global_zero, datamodule, ckpt_path, default_root_dir = True, None, None, tmp_path
        precision = "32-true"
        task = Action()
        network = prernn.convert(ResidualNet(), cell="gru")
        continuity = SINGLE_CLIPS

    Anything.task.remarks = ("flip is off",)
    for p in Anything.network.cnn.parameters():
        p.requires_grad_(False)
    next(Anything.network.cnn.parameters()).requires_grad_(True)
    RunFolder().on_fit_start(Anything, Anything)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "flip is off"
    total, new = (
        sum(p.numel() for p in part) for part in (Anything.network.parameters(), Anything.network.new_parameters())
    )
    trained = next(Anything.network.cnn.parameters()).numel()
    assert second == f"network: {total:,} parameters, {trained:,} are trained, {new:,} of them new"
    assert third == "training: single clips, each from a zero state"
