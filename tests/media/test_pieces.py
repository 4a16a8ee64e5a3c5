"""Single frames of a long file are those that reading it in order gives."""

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prernn.media import pieces
from prernn.media.pieces import read_piece, timeline
from prernn.media.video import VideoError, read_frames
from video_files import REORDERED, encode, grey, level, moved, noise

FILES = {
    "mp4": ("a.mp4", {}),
    "reordered": ("a.mp4", {"options": {"g": "12", **REORDERED}}),
    "mkv": ("a.mkv", {"options": {"g": "10"}}),
    "open": ("a.ts", {"options": {"x264-params": "keyint=12:bframes=2:open-gop=1:scenecut=0"}}),
    "avi": ("a.avi", {"codec": "mpeg4"}),
    "uneven": ("a.mkv", {"ticks": [40 * i + (i % 3) * 9 for i in range(90)], "options": {"g": "12"}}),
}


@pytest.fixture(scope="module", params=FILES)
def file(request, tmp_path_factory):
    name, options = FILES[request.param]
    return encode(tmp_path_factory.mktemp("pieces") / name, [noise(i) for i in range(90)], **options)


def test_a_piece_is_what_reading_in_order_gives(file):
    line = timeline(file)
    times, images = zip(*read_frames(file), strict=True)
    np.testing.assert_allclose(line.times, times, atol=2e-3)
    for picks in ([0], [89], [40, 41, 42], [60, 60, 75], [13, 88]):
        clip = read_piece(file, line, picks).permute(0, 2, 3, 1)
        assert np.array_equal(clip, np.stack([images[i] for i in picks])), picks


def test_a_file_that_starts_late(tmp_path):
    whole = encode(tmp_path / "whole.mp4", [grey(i % 30) for i in range(90)], options={"g": "12"})
    path = moved(whole, tmp_path / "late.mkv", 3600.0)
    clip = read_piece(path, timeline(path), [3, 50, 89])
    assert [level(frame) for frame in clip] == [3, 20, 29]


def test_a_piece_late_in_a_file_is_not_decoded_from_its_begin(tmp_path, monkeypatch):
    path = encode(tmp_path / "long.mp4", [grey(i % 30) for i in range(200)], options={"g": "20"})
    decoded = []
    monkeypatch.setattr(pieces, "stamp", lambda container, frame: decoded.append(frame) or float(frame.time))
    assert level(read_piece(path, timeline(path), [180])[0]) == 0
    assert len(decoded) < 60


def test_damage_before_a_piece_is_no_matter_and_damage_in_it_is_named(tmp_path):
    path = encode(tmp_path / "a.mkv", [noise(i) for i in range(60)], options={"g": "10"})
    line = timeline(path)
    with pytest.raises(ValueError, match="ascending frames from 0 to 59"):
        read_piece(path, line, [3, 2])
    with pytest.raises(ValueError, match="ascending frames from 0 to 59"):
        read_piece(path, line, [60])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"a\.mkv"):
        read_piece(path, line, [59])


def test_a_folder_of_frames(tmp_path):
    for i in range(5):
        Image.fromarray(grey(i)).save(tmp_path / f"{i}.png")
    line = timeline(tmp_path, fps=5)
    assert (line.times[-1], line.duration) == (pytest.approx(0.8), pytest.approx(1.0))
    assert [level(frame) for frame in read_piece(tmp_path, line, [1, 1, 4])] == [1, 1, 4]
    halves = read_piece(tmp_path, line, [0, 4], transform=lambda image: torch.from_numpy(image[:3, :3, 0]))
    assert halves.shape == (2, 3, 3)


@given(picks=st.lists(st.integers(0, 89), min_size=1, max_size=6).map(sorted))
def test_any_picks(long_file, picks):
    path, line, images = long_file
    assert np.array_equal(read_piece(path, line, picks).permute(0, 2, 3, 1), images[picks])


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    path = encode(tmp_path_factory.mktemp("any") / "a.mp4", [noise(i) for i in range(90)], options={"g": "15"})
    with av.open(str(path)) as container:
        assert sum(frame.key_frame for frame in container.decode(video=0)) >= 6
    return path, timeline(path), np.stack([image for _, image in read_frames(path)])
