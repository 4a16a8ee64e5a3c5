"""Cameras and network streams."""

import functools
import http.server
import socket
import sys
import threading

import av
import numpy as np
import pytest

from prernn.media.sampling import Sampling
from prernn.media.video import VideoError, probe, read_clip, read_frames
from video_files import damaged, drain, encode, level, noise


@pytest.mark.parametrize(
    ("platform", "source", "name", "options"),
    [
        ("linux", "camera:1", "/dev/video1", {"format": "v4l2"}),
        ("linux", "/dev/video17", "/dev/video17", {"format": "v4l2"}),
        ("linux", 0, "/dev/video0", {"format": "v4l2"}),
        ("linux", "2", "/dev/video2", {"format": "v4l2"}),
        ("darwin", "camera:0", "0:none", {"format": "avfoundation", "options": {"framerate": "30"}}),
        ("win32", "camera:Front Cam", "video=Front Cam", {"format": "dshow"}),
        ("linux", "RTSP://host/x", "RTSP://host/x", {"timeout": 10.0, "options": {"rtsp_transport": "tcp"}}),
        ("linux", "udp://host:9", "udp://host:9", {"timeout": 10.0, "options": {}}),
    ],
)
def test_cameras_and_streams_are_opened_by_their_kind(monkeypatch, clip, platform, source, name, options):
    calls, really_open = [], av.open

    def fake_open(*args, **kwargs):
        calls.append((args, kwargs))
        return really_open(str(clip))

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "open", fake_open)
    assert [level(image) for _, image in read_frames(source)] == list(range(30))
    assert calls == [((name,), options)]
    with pytest.raises(NotImplementedError, match="live source"):
        read_clip(source, Sampling(4))
    assert probe(source).width == 32


@pytest.mark.parametrize("source", ["camera:99", "rtsp://127.0.0.1:9/x", "http://127.0.0.1:9/x.mp4", "foo://x", -1])
def test_live_sources_that_are_not_there(source):
    with pytest.raises(VideoError, match=f"^{source}: "):
        next(read_frames(source))


def test_a_stream_that_sends_nothing(monkeypatch):
    monkeypatch.setattr("prernn.media.video.STREAM_TIMEOUT", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # accepts, and never answers
        pytest.raises(VideoError, match=r"cannot open this stream: no data for 0\.1 s"),
    ):
        next(read_frames(f"http://127.0.0.1:{silent.getsockname()[1]}/x.mp4"))


@pytest.fixture
def server(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_stream_is_read_like_the_file(server, clip):
    for (time, image), (file_time, file_image) in zip(
        read_frames(f"{server}/clip.mp4"), read_frames(clip), strict=True
    ):
        assert time == file_time
        assert np.array_equal(image, file_image)
    with pytest.raises(VideoError, match="cannot open this stream"):
        next(read_frames(f"{server}/nothing.mp4"))


def test_a_stream_goes_on_after_damage(server, tmp_path):
    path = encode(tmp_path / "a.ts", [noise(i) for i in range(40)], options={"g": "5", "bf": "0"})
    data = bytearray(path.read_bytes())
    for middle in (len(data) // 4, len(data) // 2):  # whole packets of 188 bytes are lost
        data[middle - middle % 188 : middle - middle % 188 + 188 * 20] = bytes(188 * 20)
    path.write_bytes(bytes(data))
    images, error = drain(f"{server}/a.ts")
    assert error is None
    assert 20 < len(images) < 40
    assert drain(path)[1] is not None  # as a file it is damaged
    damaged(tmp_path / "a.mp4")
    images, error = drain(f"{server}/a.mp4")
    assert error is None
    assert 30 < len(images) < 40
