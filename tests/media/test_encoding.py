"""Videos written, whole or not at all."""

import os

import av
import numpy as np
import pytest

from prernn.media.encoding import write_video
from video_files import drain, grey, level, noise


@pytest.mark.parametrize(
    ("name", "images", "fps", "message"),
    [
        ("a.mp4", [], 25, "expected at least one, got none"),
        ("a.mp4", [grey(0), grey(1, 20, 32)], 25, r"frame 1: expected uint8 \(24, 32, 3\), got uint8 \(20, 32, 3\)"),
        ("a.mp4", [grey(0).astype(np.float32)], 25, "got float32"),
        ("a.mp4", [grey(0)[..., 0]], 25, r"got uint8 \(24, 32\)"),
        ("a.mp4", [grey(0)], 0, "fps above 0, got .* and 0"),
        ("a.avi", [grey(0)], 25, "ends in .mp4"),
    ],
)
def test_frames_that_cannot_be_written(tmp_path, name, images, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, images, fps)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_frames_leaves_the_old_file(clip):
    before = clip.read_bytes()

    def frames():
        yield grey(0)
        raise RuntimeError("the network broke")

    with pytest.raises(RuntimeError, match="the network broke"):
        write_video(clip, frames(), 25)
    assert [file.name for file in clip.parent.iterdir()] == [clip.name]
    assert clip.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("count", [1, 60])
def test_a_full_disk_leaves_no_file(tmp_path, count):
    path = tmp_path / "a.mp4"
    os.symlink("/dev/full", tmp_path / f".a.mp4.{os.getpid()}.part")  # every write there fails with ENOSPC
    with pytest.raises(OSError, match="not written: No space left on device") as caught:
        write_video(path, (noise(i) for i in range(count)), 25)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="not written: No such file"):
        write_video(tmp_path / "nowhere" / "a.mp4", [grey(0)], 25)


def test_without_x264_the_file_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())
    write_video(tmp_path / "a.mp4", [grey(i, 25, 33) for i in range(9)], 29.97)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert [level(image) for image in drain(tmp_path / "a.mp4")[0]] == list(range(9))
