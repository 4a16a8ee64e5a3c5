"""Cameras, network streams and pipes."""

import functools
import http.server
import os
import socket
import sys
import threading

import av
import numpy as np
import pytest

from prernn.media.sampling import Sampling
from prernn.media.video import VideoError, probe, read_clip, read_frames
from video_files import damaged, drain, encode, grey, level, noise


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
    monkeypatch.setattr("prernn.media.source.STREAM_TIMEOUT", 0.1)
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


@pytest.fixture
def piped(tmp_path):
    """Writes bytes into a named pipe, as another program would; gives its path."""
    threads = []

    def pipe(data):
        path = tmp_path / f"pipe{len(threads)}"
        os.mkfifo(path)
        threads.append(threading.Thread(target=path.write_bytes, args=(data,), daemon=True))
        threads[-1].start()
        return path

    yield pipe
    for thread in threads:
        thread.join(timeout=10)


needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@needs_pipes
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_named_pipe_is_a_live_source(piped, tmp_path, suffix):
    data = encode(tmp_path / f"a{suffix}", [grey(i) for i in range(20)]).read_bytes()
    assert [level(image) for _, image in read_frames(piped(data))] == list(range(20))
    assert (info := probe(piped(data))).frames is None
    assert (info.width, info.height) == (32, 24)
    with pytest.raises(NotImplementedError, match="live source"):
        read_clip(tmp_path / "pipe0", Sampling(4))
    with pytest.raises(VideoError, match=r"pipe2: cannot open this pipe: Invalid data"):
        next(read_frames(piped(b"no video" * 99)))


@needs_pipes
def test_an_mp4_in_a_pipe_whose_index_comes_last_is_told_what_to_do(piped, tmp_path):
    shown = np.random.default_rng(0).integers(0, 256, (20, 240, 320, 3), np.uint8)  # more than FFmpeg can look ahead
    data = encode(tmp_path / "a.mp4", list(shown)).read_bytes()
    with pytest.raises(VideoError, match=r"no frame can be decoded: .*; in a pipe, .* needs its index first: ffmpeg"):
        next(read_frames(piped(data)))


@pytest.fixture
def stdin():
    """Gives bytes to standard input."""
    kept = os.dup(0)

    def give(data):
        reading, writing = os.pipe()
        os.write(writing, data)  # less than a pipe holds
        os.close(writing)
        os.dup2(reading, 0)
        os.close(reading)

    yield give
    os.dup2(kept, 0)
    os.close(kept)


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="needs /dev/stdin")
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_standard_input_is_a_live_source(stdin, tmp_path, source):
    stdin(encode(tmp_path / "a.ts", [grey(i) for i in range(9)]).read_bytes())
    assert [level(image) for _, image in read_frames(source)] == list(range(9))


def two_sizes(tmp_path):
    """A recording whose pictures become smaller."""
    parts = [
        encode(tmp_path / f"{n}.ts", [grey(i, *size) for i in range(6)]) for n, size in enumerate(((48, 64), (24, 32)))
    ]
    return b"".join(part.read_bytes() for part in parts)


@needs_pipes
def test_a_live_source_may_change_its_size(piped, tmp_path):
    data = two_sizes(tmp_path)
    sizes = [image.shape[:2] for _, image in read_frames(piped(data))]
    assert sizes == [(48, 64)] * 6 + [(24, 32)] * 6
    (tmp_path / "a.ts").write_bytes(data)
    assert "frame 6: expected (H, W) (48, 64) as before, got (24, 32)" in drain(tmp_path / "a.ts")[1]
