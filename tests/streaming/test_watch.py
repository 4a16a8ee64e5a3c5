"""A source from end to end: files, cameras, interruptions."""

import csv
import io
import itertools
import signal

import pytest
import torch
from PIL import Image

from prernn.media import video
from prernn.media.flow import Flow, FlowSettings
from prernn.media.video import read_frames as video_frames
from prernn.streaming.sources import source as reader
from prernn.streaming.sources.source import Source
from prernn.streaming.stream import Stream
from prernn.tasks.action.watcher import stream_video
from streamed_networks import network, pictures


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_stream_video_in_one_pass(clip, tmp_path):
    seen, net = [], network()
    count = stream_video(net, clip, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4", on_prediction=seen.append)
    assert (count, [p.index for p in seen]) == (7, list(range(7)))
    assert [row["label"] for row in read_rows(tmp_path / "a.csv")] == [p.label for p in seen]
    frames = [frame for _, frame in video_frames(tmp_path / "a.mp4")]
    assert (len(frames), frames[0].shape) == (7, (24, 32, 3))
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(10)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "a.csv", "a.mp4"}


def test_stream_video_stops_at_the_limit(clip, tmp_path):
    out = io.StringIO()
    assert stream_video(network(), clip, csv=out, video=tmp_path / "a.mp4", limit=3) == 3
    assert out.getvalue().count("\n") == 4
    assert len(list(video.read_frames(tmp_path / "a.mp4"))) == 3
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        stream_video(network(), clip, limit=0)


def test_stream_video_goes_on_from_a_stream(clip):
    stream, seen = Stream(network()), []
    stream_video(stream, clip, on_prediction=seen.append)
    stream_video(stream, clip, on_prediction=seen.append)
    assert not torch.allclose(seen[0].probabilities, seen[7].probabilities)
    assert seen[7].index == 0


def test_stream_video_of_snippets_annotates_every_frame(snippet_net, clip, tmp_path):
    assert stream_video(snippet_net, clip, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4") == 7
    assert len(list(video.read_frames(tmp_path / "a.mp4"))) == 7
    assert [row["frame"] for row in read_rows(tmp_path / "a.csv")] == ["3"]


def test_source_that_breaks_off_leaves_what_came_before(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, picture in enumerate(pictures(3)):
        Image.fromarray(picture).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes(b"broken")
    with pytest.raises(video.VideoError, match=r"3.png"):
        stream_video(network(), folder, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4", fps=5)
    assert len(read_rows(tmp_path / "a.csv")) == 3
    assert len(list(video.read_frames(tmp_path / "a.mp4"))) == 3
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(5)


def test_source_that_is_unreadable_leaves_nothing(tmp_path):
    with pytest.raises(video.VideoError, match="no such file"):
        stream_video(network(), tmp_path / "absent.mp4", csv=tmp_path / "a.csv", video=tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def camera(monkeypatch):
    """A source without end, of 8 frames a second, as "camera:0"; the list tells how often it was closed."""
    closed = []

    def read_pictures(source, reading):
        try:
            for index, picture in enumerate(itertools.cycle(pictures(3))):
                yield index / 8, lambda picture=picture: picture
        finally:
            closed.append(source)

    monkeypatch.setattr(reader, "read_pictures", read_pictures)
    return closed


def whole():
    """The camera, as fast as its frames are taken, and once."""
    return Source("camera:0", drop="none", reconnect="never")


def test_live_source_keeps_its_pace(camera, tmp_path):
    stream_video(network(), whole(), video=tmp_path / "a.mp4", limit=20)
    assert camera == ["camera:0"]
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(8)
    assert stream_video(network(), whole(), video=tmp_path / "b.mp4", limit=1) == 1


@pytest.fixture
def listening():
    """Ctrl-C with Python's own handler: pytest's worker processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_live_source_with_complete_files(camera, tmp_path, listening):
    before, modes = listening, []

    def press(prediction):
        if prediction.index == 14:
            signal.raise_signal(signal.SIGINT)
            modes.append(signal.getsignal(signal.SIGINT))

    files = {"csv": tmp_path / "a.csv", "video": tmp_path / "a.mp4"}
    count = stream_video(network(), whole(), **files, on_prediction=press, limit=50)  # 50: not for ever if it fails
    assert count == len(read_rows(tmp_path / "a.csv")) == 15
    assert video.probe(tmp_path / "a.mp4").frames == 15
    assert modes == [before]  # a second one interrupts
    assert signal.getsignal(signal.SIGINT) is before
    assert camera == ["camera:0"]


@pytest.fixture
def changing(monkeypatch):
    """A live source whose pictures become larger, then upright."""
    sizes = [(24, 32), (24, 32), (48, 64), (64, 48), (64, 48)]
    shown = [(index / 8, pictures(1, size)[0]) for index, size in enumerate(sizes)]

    def read_pictures(source, reading):
        yield from ((time, lambda picture=picture: picture) for time, picture in shown)

    monkeypatch.setattr(reader, "read_pictures", read_pictures)


def test_a_live_source_that_changes_its_size_goes_on_and_is_written_in_one_size(changing, tmp_path):
    assert stream_video(network(), whole(), csv=tmp_path / "a.csv", video=tmp_path / "a.mp4") == 5
    assert len(read_rows(tmp_path / "a.csv")) == 5
    assert [frame.shape for _, frame in video_frames(tmp_path / "a.mp4")] == [(24, 32, 3)] * 5


def test_optical_flow_starts_anew_where_the_size_changes(changing, monkeypatch):
    made = []

    def flow_of(net):
        flow = Flow(FlowSettings(short_side=8))
        made.append(flow)
        return lambda frame: (flow(frame), frame)[1]

    monkeypatch.setattr("prernn.tasks.action.watcher._flow_of", flow_of)
    assert stream_video(network(), whole()) == 5
    assert len(made) == 3


def test_failing_receiver_leaves_no_files(camera, tmp_path):
    def fail(prediction):
        raise KeyError(prediction.index)

    with pytest.raises(KeyError):
        stream_video(network(), whole(), csv=tmp_path / "a.csv", video=tmp_path / "a.mp4", on_prediction=fail)
    assert list(tmp_path.iterdir()) == []
    assert camera == ["camera:0"]
