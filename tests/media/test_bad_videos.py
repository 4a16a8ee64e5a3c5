"""Files that are no videos, break off or are damaged: what is read of them, and what is said."""

import av
import numpy as np
import pytest
import torch

from prernn.media.sampling import Sampling, sample_indices
from prernn.media.video import VideoError, probe, read_clip, read_frames
from video_files import REORDERED, SHARED, damaged, drain, encode, grey, level, needs_shared, noise


def cut(path, target, part):
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


@pytest.fixture
def truncated(tmp_path):
    """The first 60 % of a file whose index is in front."""
    whole = encode(tmp_path / "whole.mp4", [noise(i) for i in range(40)], index_first=True)
    return cut(whole, tmp_path / "truncated.mp4", 0.6)


def audio_only(path, cover=False):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame" if cover else "aac", rate=44100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = 24, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(grey(1))))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        container.start_encoding()


def unknown_codec(path):
    encode(path, [grey(i) for i in range(3)])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def index_cut_off(path):
    cut(encode(path, [noise(i) for i in range(9)]), path, 0.5)


BAD = {
    "missing.mp4": (lambda path: None, "no such file or folder"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "empty file"),
    "text.mp4": (lambda path: path.write_text("this is\nnot a video\n" * 99), "not a video"),
    "notes.txt": (lambda path: path.write_text("this is\nnot a video\n" * 99), "not a video, but text"),
    "sound.mp4": (audio_only, "audio only"),
    "song.mp3": (lambda path: audio_only(path, cover=True), "audio only"),
    "frameless.mp4": (no_frames, "no video stream|no frame can be decoded"),
    "codec.mp4": (unknown_codec, "no decoder for the codec"),
    "index.mp4": (index_cut_off, "cut off before its index"),
    "folder.mp4": (lambda path: path.mkdir(), "a folder without frames"),
}


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_the_cause_in_one_line(tmp_path, name, tolerant):
    make, cause = BAD[name]
    make(tmp_path / name)
    readers = [
        lambda path: next(read_frames(path, tolerate_truncation=tolerant)),
        lambda path: read_clip(path, Sampling(4), tolerate_truncation=tolerant),
        probe,
    ]
    for reader in readers:
        with pytest.raises(VideoError, match=cause) as caught:
            reader(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_a_truncated_file_yields_what_decodes_and_then_raises(truncated):
    images, error = drain(truncated)
    assert 5 < len(images) < 40
    assert f"truncated or damaged after {len(images)} of 40 frames" in error
    tolerated, error = drain(truncated, tolerate_truncation=True)
    assert error is None
    assert np.array_equal(tolerated, images)


def test_a_clip_of_a_truncated_file(truncated):
    good = len(drain(truncated)[0])
    for sampling in (Sampling(4), Sampling(2, "consecutive"), Sampling(1, "all")):  # also before the break
        with pytest.raises(VideoError, match=f"after {good} of 40 frames"):
            read_clip(truncated, sampling)
        picks = sample_indices(good, sampling)
        expected = np.stack(drain(truncated)[0])[picks]
        found = read_clip(truncated, sampling, tolerate_truncation=True)
        assert np.array_equal(found.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.webm"])
def test_containers_that_just_end_are_found_out(tmp_path, name):
    codec = {"a.mkv": "libx264", "a.avi": "mjpeg", "a.webm": "libvpx"}[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = encode(tmp_path / name, [noise(i) for i in range(40)], codec=codec, pix_fmt=pix_fmt)
    assert len(drain(whole)[0]) == 40
    images, error = drain(cut(whole, tmp_path / f"cut_{name}", 0.6))
    assert f"truncated or damaged after {len(images)} " in error
    assert 0 < len(images) < 36


def test_damage_in_the_middle(tmp_path):
    images, error = drain(damaged(tmp_path / "a.mp4"))
    assert f"truncated or damaged after {len(images)} of 40 frames" in error
    assert 0 < len(images) < 40


def test_an_edited_file_is_whole(tmp_path):
    path = encode(tmp_path / "a.mp4", [grey(i % 30) for i in range(60)], options=REORDERED)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # one entry: duration (1/1000 s) and first time (1/12800 s) of what is shown
    start = int.from_bytes(data[at + 4 : at + 8])
    data[at : at + 8] = (1000).to_bytes(4) + (start + 12 * 512).to_bytes(4)
    path.write_bytes(bytes(data))
    images, error = drain(path)
    assert error is None
    assert [level(image) for image in images] == [i % 30 for i in range(12, 37)]
    assert [level(i) for i in read_clip(path, Sampling(2))] == [(12 + 6) % 30, (12 + 18) % 30]


def test_a_file_with_fewer_frames_than_packets(tmp_path):
    """XviD may pack two frames into one packet and leave an empty one: the picks follow what decodes."""
    path = encode(tmp_path / "a.avi", [grey(i) for i in range(30)], codec="mpeg4", options={"g": "1"})
    data = path.read_bytes()
    starts = [i for i in range(len(data) - 8) if data[i : i + 4] == b"00dc" and data[i + 8 : i + 11] == b"\0\0\1"]
    for start in starts[-2:]:  # overwrite the last two frames with "not coded" ones, which show nothing new
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        data = data[: start + 8] + b"\0\0\1\xb6" + b"\x7f" * (size - 4) + data[start + 8 + size :]
    path.write_bytes(data)
    images, _ = drain(path, tolerate_truncation=True)
    assert len(images) < 30
    for sampling in (Sampling(None, "all"), Sampling(20, "random"), Sampling(20, "consecutive")):
        picks_the_end = (
            s for s in range(99) if sample_indices(30, sampling, torch.Generator().manual_seed(s))[-1] == 29
        )
        seed = next(picks_the_end)
        found = read_clip(path, sampling, torch.Generator().manual_seed(seed), tolerate_truncation=True)
        picks = sample_indices(len(images), sampling, torch.Generator().manual_seed(seed))
        assert np.array_equal(found.permute(0, 2, 3, 1), np.stack(images)[picks])


@needs_shared
@pytest.mark.parametrize(
    ("name", "frames", "cause"),
    [
        ("bad/truncated_50.mp4", 137, "after 137 of 280 frames"),
        ("bad/zero_bytes.mp4", 0, "empty file"),
        ("bad/text.mp4", 0, "not a video"),
    ],
)
def test_shared_bad_files(name, frames, cause):
    images, error = drain(SHARED / name)
    assert len(images) == frames
    assert cause in error
