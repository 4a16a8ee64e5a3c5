"""Lists of labeled videos on disk: folders, UCF101, HMDB51."""

from pathlib import Path

import pytest
from PIL import Image

from footage import SHARED
from prernn.tasks.action.lists import Clip, class_folder, hmdb51, ucf101


def test_class_folder_lists_classes_and_videos_in_order(tmp_path):
    for name in ("walk/b.mp4", "walk/a.AVI", "run/c.mkv", "run/notes.txt", "run/.hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "frames").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "run" / "frames" / "0.png")
    (tmp_path / "run" / "other").mkdir()
    (tmp_path / ".cache").mkdir()
    classes, records = class_folder(str(tmp_path))
    assert classes == ["run", "walk"]
    found = [(Path(path).relative_to(tmp_path).as_posix(), label) for path, label, _ in records]
    assert found == [("run/c.mkv", 0), ("run/frames", 0), ("walk/a.AVI", 1), ("walk/b.mp4", 1)]


def test_class_folder_splits_share_their_labels(tmp_path):
    for name in ("train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4", "test/b/4.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert class_folder(tmp_path, "test") == (
        ["a", "b"],
        [Clip(str(tmp_path / "test/a/3.mp4"), 0), Clip(str(tmp_path / "test/b/4.mp4"), 1)],
    )
    with pytest.raises(ValueError, match=r"holds the splits .* expected split"):
        class_folder(tmp_path)
    with pytest.raises(ValueError, match="found no folder val but the folders test, train"):
        class_folder(tmp_path, "val")
    (tmp_path / "test/a/3.mp4").unlink()
    (tmp_path / "test/a").rmdir()
    with pytest.raises(ValueError, match="class 'a' has no videos"):
        class_folder(tmp_path, "test")


def test_class_folder_errors(tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        class_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected <class>/<video>, found nothing in"):
        class_folder(tmp_path)
    (tmp_path / "jump").mkdir()
    with pytest.raises(ValueError, match="class 'jump' has no videos"):
        class_folder(tmp_path)


@pytest.fixture
def ucf(tmp_path):
    """UCF101's layout: train lists have labels, test lists have none."""
    lists = {
        "classInd.txt": "1 Run\r\n2 ApplyLipstick\r\n",  # not in alphabetical order
        "trainlist01.txt": "Run/v_Run_g01_c01.avi 1\nApplyLipstick/v_x.avi 2\n\n",
        "testlist01.txt": "ApplyLipstick/v_y.avi\nRun/v_Run_g02_c01.avi\n",
    }
    (tmp_path / "ucfTrainTestlist").mkdir()
    for name, text in lists.items():
        (tmp_path / "ucfTrainTestlist" / name).write_text(text)
    for name in ("Run/v_Run_g01_c01.avi", "Run/v_Run_g02_c01.avi", "ApplyLipstick/v_x.avi", "ApplyLipstick/v_y.avi"):
        (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / name).touch()
    return tmp_path


def test_ucf101_lists(ucf):
    classes, train = ucf101(ucf, 1, "train")
    assert classes == ["Run", "ApplyLipstick"]
    assert train == [
        Clip(str(ucf / "UCF-101/Run/v_Run_g01_c01.avi"), 0),
        Clip(str(ucf / "UCF-101/ApplyLipstick/v_x.avi"), 1),
    ]
    assert [clip.label for clip in ucf101(str(ucf), 1, "test")[1]] == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "subset", "message"),
    [
        (
            "testlist01.txt",
            "Run/v_Run_g02_c01.avi\nRun/v_z.avi\n",
            "test",
            "testlist01.txt:2: file UCF-101/Run/v_z.avi is absent",
        ),
        ("testlist01.txt", "\nv_z.avi\n", "test", "testlist01.txt:2: expected '<Class>/<file>', got 'v_z.avi'"),
        ("testlist01.txt", "../Run/v_z.avi\n", "test", "testlist01.txt:1: expected '<Class>/<file>'"),
        ("testlist01.txt", "Fly/v_z.avi\n", "test", "testlist01.txt:1: class Fly is not in classInd.txt"),
        (
            "testlist01.txt",
            "Run/v_Run_g01_c01.avi\n" * 2,
            "test",
            "testlist01.txt:2: Run/v_Run_g01_c01.avi is listed twice",
        ),
        (
            "testlist01.txt",
            "Run/v_Run_g01_c01.avi 2\n",
            "test",
            "testlist01.txt:1: expected label 1 for class Run, got 2",
        ),
        ("testlist01.txt", " \n", "test", "testlist01.txt: expected at least one line, got none"),
        ("trainlist01.txt", "Run/v_Run_g01_c01.avi\n", "train", "trainlist01.txt:1: expected '<Class>/<file> <label>'"),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 1 7\n",
            "train",
            "trainlist01.txt:1: expected '<Class>/<file> <label>'",
        ),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 3\n",
            "train",
            "trainlist01.txt:1: expected a label from 1 to 2, got '3'",
        ),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 0\n",
            "train",
            "trainlist01.txt:1: expected a label from 1 to 2, got '0'",
        ),
        ("trainlist01.txt", "Run/v_Run_g01_c01.avi one\n", "train", "expected a label from 1 to 2, got 'one'"),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 2\n",
            "train",
            "trainlist01.txt:1: expected label 1 for class Run, got 2",
        ),
        ("classInd.txt", "1 Run\n3 Jump\n", "test", "classInd.txt:2: expected '2 <Class>', got '3 Jump'"),
        ("classInd.txt", "1 Run\n2 Run\n", "test", "classInd.txt:2: class Run is listed twice"),
        ("classInd.txt", "Run 1\n", "test", "classInd.txt:1: expected '1 <Class>', got 'Run 1'"),
    ],
)
def test_ucf101_problems_are_named_with_their_line(ucf, name, text, subset, message):
    (ucf / "ucfTrainTestlist" / name).write_text(text)
    with pytest.raises(ValueError) as caught:
        ucf101(ucf, 1, subset)
    assert message in str(caught.value)


def test_ucf101_lists_that_are_not_there(ucf):
    with pytest.raises(ValueError, match=r"testlist03\.txt: list is absent"):
        ucf101(ucf, 3, "test")
    with pytest.raises(ValueError, match=r"classInd\.txt: list is absent"):
        ucf101(ucf / "UCF-101", 1, "test")
    with pytest.raises(ValueError, match='expected "train" or "test", got \'val\''):
        ucf101(ucf, 1, "val")


@pytest.fixture
def hmdb(tmp_path):
    """HMDB51's layout: one list a class and split."""
    lists = {
        "wave_test_split1.txt": "a (1).avi 1 \nb.avi 2 \nc.avi 0 \n",
        "cartwheel_test_split1.txt": "d.avi 2\ne.avi 1\n",
        "wave_test_split2.txt": "a (1).avi 2\n",
    }
    (tmp_path / "testTrainMulti_7030_splits").mkdir()
    for name, text in lists.items():
        (tmp_path / "testTrainMulti_7030_splits" / name).write_text(text)
    for name in ("wave/a (1).avi", "wave/b.avi", "cartwheel/d.avi", "cartwheel/e.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_hmdb51_lists(hmdb):
    classes, train = hmdb51(hmdb, 1, "train")
    assert classes == ["cartwheel", "wave"]
    assert train == [Clip(str(hmdb / "cartwheel/e.avi"), 0), Clip(str(hmdb / "wave/a (1).avi"), 1)]
    assert hmdb51(hmdb, 1, "test")[1] == [Clip(str(hmdb / "cartwheel/d.avi"), 0), Clip(str(hmdb / "wave/b.avi"), 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (1).avi 3\n", "wave_test_split1.txt:1: expected '<file> 0|1|2'"),
        ("\nb.avi\n", "wave_test_split1.txt:2: expected '<file> 0|1|2'"),
        ("b.avi 2\nb.avi 1\n", "wave_test_split1.txt:2: wave/b.avi is listed twice"),
        ("z.avi 2\n", "wave_test_split1.txt:1: file wave/z.avi is absent"),
    ],
)
def test_hmdb51_problems_are_named_with_their_line(hmdb, text, message):
    (hmdb / "testTrainMulti_7030_splits" / "wave_test_split1.txt").write_text(text)
    with pytest.raises(ValueError) as caught:
        hmdb51(hmdb, 1, "test")
    assert message in str(caught.value)


def test_hmdb51_lists_that_are_not_there(hmdb):
    with pytest.raises(ValueError, match="found none"):
        hmdb51(hmdb, 3, "test")
    with pytest.raises(ValueError, match='expected "train" or "test", got \'val\''):
        hmdb51(hmdb, 1, "val")


@pytest.mark.skipif(not (SHARED / "action-ucf101-layout").is_dir(), reason="the shared action clips are not here")
def test_shared_action_clips():
    root = SHARED / "action-ucf101-layout"
    for split, counts in ((1, (150, 48)), (2, (142, 56))):
        classes, train = ucf101(root, split, "train")
        assert classes == ["Jump", "Run", "Sit", "Stand", "Turn", "Walk"]
        test = ucf101(root, split, "test")[1]
        assert (len(train), len(test)) == counts
        assert not {clip.path for clip in train} & {clip.path for clip in test}
    assert {clip.path for clip in class_folder(root / "UCF-101")[1]} == {clip.path for clip in train + test}
