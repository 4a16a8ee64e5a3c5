"""Lists of segments: what they say, and what is said of bad ones."""

import pytest

from prernn.media.pieces import Timeline
from prernn.media.video import VideoError
from prernn.tasks.segments.lists import check_within, segment_videos, spans
from untrimmed_videos import write_list


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def read(root, *rows, header="file,start,end,label"):
    write_list(root / "train.csv", rows, header)
    return segment_videos(root / "train.csv", root)


def test_segments_by_video_in_order_of_time(root):
    a, b = read(root, "a.mp4, 2.5,3,wave", "b.mp4,0,1,nod", "", "a.mp4,0.5,2.5,nod")
    assert [(s.start, s.end, s.label) for s in a.segments] == [(0.5, 2.5, "nod"), (2.5, 3.0, "wave")]
    assert (a.unit, a.segments[1].where, b.where) == ("seconds", "train.csv:2", "train.csv:3")


def test_frames_columns_in_any_order_and_a_video_of_background(root):
    a, b = read(root, "wave,a.mp4,8,3", ",b.mp4,,", header="label,file,end_frame,start_frame")
    assert (a.unit, a.segments[0][:3]) == ("frames", (3, 8, "wave"))
    assert b.segments == ()


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (
            ["a.mp4,0,1"],
            "file,start,end",
            "train.csv:1: expected the columns file,start,end,label or file,start",
        ),
        (["a.mp4,0,1,x"], "file,start,stop,label", "train.csv:1: expected the columns"),
        (["a.mp4,0,1,x,y"], None, "train.csv:2: expected 4 cells (file, start, end, label), got 5"),
        (["c.mp4,0,1,x"], None, "train.csv:2: file c.mp4 is absent"),
        ([",0,1,x"], None, "train.csv:2: file without a name is absent"),
        (
            ["a.mp4,0,1,x", "a.mp4,2,1,x"],
            None,
            "train.csv:3: expected a start from 0 on and an end after it, got 2 to 1",
        ),
        (["a.mp4,-1,1,x"], None, "got -1 to 1"),
        (["a.mp4,1,1,x"], None, "got 1 to 1"),
        (["a.mp4,0,nan,x"], None, "got 0 to nan"),
        (["a.mp4,0,soon,x"], None, "train.csv:2: expected start and end in seconds, got '0' and 'soon'"),
        (["a.mp4,0,1.5,x"], "file,start_frame,end_frame,label", "in whole numbers of frames, got '0' and '1.5'"),
        (["a.mp4,0,1,"], None, "train.csv:2: expected a label, got none"),
        (
            ["a.mp4,2,4,x", "a.mp4,0,2.5,y"],
            None,
            "train.csv:2: expected segments that don't overlap, got 2 to 4 beside",
        ),
        ([], None, "train.csv: expected at least one row, got none"),
    ],
)
def test_a_bad_row_is_named(root, rows, header, said):
    with pytest.raises(ValueError) as caught:
        read(root, *rows, header=header or "file,start,end,label")
    assert said in str(caught.value)


def test_an_absent_list(tmp_path):
    with pytest.raises(ValueError, match=r"train\.csv: list is absent from"):
        segment_videos(tmp_path / "train.csv", tmp_path)


LINE = Timeline(tuple(i / 10 for i in range(20)), 0.0, 10.0)  # 2 s


@pytest.mark.parametrize(
    ("end", "unit", "fits"), [(2.09, "seconds", True), (2.2, "seconds", False), (20, "frames", True)]
)
def test_a_segment_ends_with_its_video(root, end, unit, fits):
    header = "file,start,end,label" if unit == "seconds" else "file,start_frame,end_frame,label"
    [video] = read(root, f"a.mp4,1,{end},x", header=header)
    if fits:
        check_within(video, LINE)
        return
    with pytest.raises(VideoError, match=r"train\.csv:2: expected a segment within the 2\.000 s of .*, got 1 to 2\.2"):
        check_within(video, LINE)


def test_a_segment_beyond_the_frames(root):
    [video] = read(root, "a.mp4,1,21,x", header="file,start_frame,end_frame,label")
    with pytest.raises(VideoError, match="within the 20 frames"):
        check_within(video, LINE)


def test_the_steps_of_a_segment(root):
    [video] = read(root, "a.mp4,0.3,0.6,x", "a.mp4,0.6,0.65,y", "a.mp4,0.66,0.69,z")
    assert list(spans(video, LINE, list(range(20)))) == [(3, 6, "x"), (6, 7, "y")]
    assert list(spans(video, LINE, list(range(0, 20, 2)))) == [(2, 3, "x"), (3, 4, "y")]
    [video] = read(root, "a.mp4,3,7,x", header="file,start_frame,end_frame,label")
    assert list(spans(video, LINE, list(range(0, 20, 2)))) == [(2, 4, "x")]
