"""NVGesture's lists: lines, names and subsets."""

from pathlib import Path

import pytest

from gesture_videos import make_list, opened
from prernn.tasks.gesture.task import Gesture


def test_a_line_of_nvgesture_is_read_for_every_sensor(tmp_path):
    line = (
        "path:./Video_data/class_01/subject13_r0 depth:sk_depth:138:218 color:sk_color:139:219 "
        "duo_left:duo_left:161:254 label:2 "
    )
    make_list(tmp_path, line)
    folder = tmp_path / "Video_data" / "class_01" / "subject13_r0"
    wanted = {"depth": ("sk_depth", 138, 218), "color": ("sk_color", 139, 219)}
    wanted |= {name: (name, 161, 254) for name in ("duo_left", "duo_right", "duo_disparity")}
    for modality, (name, begin, end) in wanted.items():
        [video] = opened(tmp_path, modality=modality).records("train")
        assert video.path == str(folder)  # the same for all sensors, whose outputs are fused
        assert video.file == str(folder / f"{name}.avi")
        assert [tuple(sign) for sign in video.signs] == [(2, begin, end, "train.lst:1")]
        twin = {"depth": "sk_color", "color": "sk_depth"}.get(modality)
        assert video.twin == (twin and str(folder / f"{twin}.avi"))


def test_lines_of_one_recording_are_its_gestures_in_order_of_time(root):
    [video] = opened(root).records("train")
    assert [tuple(sign) for sign in video.signs] == [(1, 2, 7, "train.lst:3"), (3, 13, 19, "train.lst:1")]


def test_names_come_from_classes_txt_else_from_the_labels_in_all_lists(root):
    make_list(root, "path:./a depth:sk_depth:1:2 label:5", name="test.lst")
    assert opened(root).labels == ["no gesture", *(f"gesture {k}" for k in range(1, 6))]
    (root / "classes.txt").write_text("1 one (static)\n2 tap\n3 swipe left\n4 four\n5 five\n")
    task = opened(root)
    assert task.labels == ["no gesture", "one (static)", "tap", "swipe left", "four", "five"]
    assert task.outputs == 6


def test_subsets_have_their_lists(root, tmp_path):
    make_list(root, "path:./b depth:sk_depth:1:2 label:1", name="test.lst")
    make_list(tmp_path / "elsewhere", "path:./c depth:sk_depth:1:2 label:2", name="val.lst")
    names = {name: [Path(v.path).name for v in opened(root).records(name)] for name in ("train", "test")}
    assert names == {"train": ["a"], "test": ["b"]}
    assert not opened(root).has_validation
    with pytest.raises(ValueError, match="val_list"):
        opened(root).records("val")
    task = opened(root, val_list=str(tmp_path / "elsewhere" / "val.lst"))
    assert task.has_validation
    own = task.records("val")
    assert [video.path for video in own] == [str(root / "c")]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("path:./b depth:sk_depth:1 label:1", "train.lst:2: expected 'path:.*', got 'depth:sk_depth:1'"),
        ("path:./b depth:sk_depth:1:x label:1", "train.lst:2: expected 'path:.*', got 'depth:sk_depth:1:x'"),
        ("path:./b depth:sk_depth:1:9 label:0", "train.lst:2: expected 'path:.*', got 'label:0'"),
        ("path:./b depth:sk_depth:1:9", "train.lst:2: expected 'path:.*', got 'path:./b"),
        ("depth:sk_depth:1:9 label:1", "train.lst:2: expected 'path:.*', got 'depth"),
        ("path:./b label:1", "train.lst:2: expected 'path:.*', got 'path"),
        ("path:./b depth:sk_depth:9:9 label:1", "train.lst:2: expected BEGIN below END, got 'depth:sk_depth:9:9'"),
        ("path:./b color:sk_color:1:9 label:1", r"train.lst:2: expected the sensor 'depth', got \['color'\]"),
        ("path:./b depth:sk_depth:1:9 label:4", "train.lst:2: expected a label from 1 to 3, got 4"),
        ("path:./a depth:sk_depth:6:9 label:2", "train.lst:2: .*don't overlap, got 6:9 beside 2:7 of train.lst:1"),
        ("path:./a depth:sk_depth:2:7 label:1", "train.lst:2: .*don't overlap"),
        ("path:./a depth:other:8:9 label:1", "train.lst:2: expected .*sk_depth.avi as in train.lst:1, got .*other.avi"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, line, wrong):
    make_list(tmp_path, "path:./a depth:sk_depth:2:7 label:1", line)
    (tmp_path / "classes.txt").write_text("1 a\n2 b\n3 c\n")
    with pytest.raises(ValueError, match=wrong):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["1 a\n3 b\n", "a\n", "1\n", "1 a\n2 a\n", "1 no gesture\n2 b\n", "\n"])
def test_names_that_do_not_fit_are_named(root, text):
    (root / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=r"classes.txt:?.*: expected"):
        opened(root)


def test_absent_lists_and_a_single_gesture_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a list train.lst or test.lst, found none"):
        opened(tmp_path)
    make_list(tmp_path, "path:./a depth:d:1:2 label:1")
    with pytest.raises(ValueError, match="at least 2 gestures"):
        opened(tmp_path)
    make_list(tmp_path, "path:./a depth:d:1:2 label:2")
    with pytest.raises(ValueError, match=r"test.lst: list is absent"):
        opened(tmp_path).records("test")


@pytest.mark.parametrize(
    "options", [{"window": "none"}, {"snippet": 0}, {"pad": -1}, {"tolerance": -1}, {"decoder": "viterbi"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Gesture(**options)
