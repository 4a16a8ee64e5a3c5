"""Real connections on loopback that are killed, frozen and slowed: MJPEG and MPEG-TS over HTTP."""

import functools
import http.server
import threading
import time

import numpy as np
import pytest

from live_servers import LiveServer, number_of, reading_threads
from prernn.media.source import VideoError
from prernn.streaming.sources import source as module
from prernn.streaming.sources.source import Source
from video_files import encode, grey, level

FORMS = ["mjpeg", "ts"]
FAST = {"timeout": 1.0, "back_off": (0.05, 0.2)}

pytestmark = pytest.mark.filterwarnings("ignore:http")


@pytest.fixture
def serve():
    """Starts servers, all of which are gone at the end."""
    servers = []

    def start(*args, **options):
        servers.append(LiveServer(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.mark.parametrize("form", FORMS)
def test_a_server_that_is_killed_and_started_again(serve, form):
    server = serve(40, form)
    with Source(server.url, drop="none", **FAST) as source:
        before = [next(source) for _ in range(20)]
        server.kill()
        threading.Timer(0.5, lambda: serve(40, form, port=server.port)).start()
        after = []
        while len(after) < 20:
            frame = next(source)
            (after if after or frame.reconnected else before).append(frame)
    assert [number_of(frame.picture) for frame in before] == list(range(len(before)))
    assert [number_of(frame.picture) for frame in after] == list(range(20))
    assert [frame.index for frame in (*before, *after)] == list(range(len(before) + 20))
    assert [frame.reconnected for frame in after] == [True] + [False] * 19
    times = [frame.time for frame in (*before, *after)]
    assert times == sorted(times)
    gap = after[0].arrived - before[-1].arrived
    assert after[0].time - before[-1].time == pytest.approx(gap)
    assert gap >= 0.5
    assert source.counts.reconnected == 1
    assert source.counts.tries >= 2  # one at least came while nobody was there
    assert source.counts.abandoned == 0


def test_a_server_that_freezes_and_thaws(serve, monkeypatch):
    monkeypatch.setattr(module, "OPENING", 1.0)
    server = serve(40)
    with Source(server.url, **FAST) as source:
        for _ in range(10):
            next(source)
        server.frozen.set()
        threading.Timer(2.5, server.frozen.clear).start()
        start = time.monotonic()
        while not (frame := next(source)).reconnected:
            start = frame.arrived
        assert frame.arrived - start >= 2
        next(source)
    counts = source.counts
    assert counts.reconnected == 1
    assert counts.timeouts >= 2  # when it froze, and in a try while it was frozen
    assert counts.abandoned == 0  # FFmpeg looks at its own time limit here


def test_a_frozen_server_without_reconnection_is_an_error_in_time(serve):
    server = serve(40)
    source = Source(server.url, timeout=0.5, reconnect="never")
    frames = [next(source) for _ in range(5)]
    server.frozen.set()
    with pytest.raises(VideoError, match=r"no frame for 0\.5 s|no data for 0\.5 s"):
        frames.extend(source)
    assert time.monotonic() - frames[-1].arrived < 3


def test_a_server_that_becomes_slow_is_not_lost(serve):
    server = serve(40)
    with Source(server.url, **FAST) as source:
        for _ in range(10):
            next(source)
        server.fps = 2  # half a second a frame, of a second that it may take
        slow = [next(source) for _ in range(4)]
    assert source.counts.timeouts == source.counts.reconnected == 0
    assert np.diff([frame.time for frame in slow[1:]]) == pytest.approx([0.5, 0.5], abs=0.2)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_changes_its_size(serve, form):
    server = serve(100, form, size=lambda number: (48, 64) if number // 60 % 2 == 0 else (96, 128))
    with Source(server.url, drop="none", reconnect="never") as source:
        frames = [next(source) for _ in range(130)]
    assert [number_of(frame.picture) for frame in frames] == list(range(130))
    sizes = {60 * part: frames[60 * part].picture.shape[:2] for part in range(3)}
    assert sizes == {0: (48, 64), 60: (96, 128), 120: (48, 64)}
    assert [frame.index for frame in frames if frame.resized] == [60, 120]
    assert source.counts.resized == 2


def test_pictures_without_a_clock_have_the_time_of_their_arrival(serve):
    """FFmpeg would number them as if there were 25 a second."""
    server = serve(10)
    with Source(server.url, drop="none") as source:
        frames = [next(source) for _ in range(12)]
    sent = [server.sent[number_of(frame.picture)] for frame in frames]
    times = np.array([frame.time for frame in frames])
    assert np.abs(np.diff(times)[4:] - np.diff(sent)[4:]).max() < 0.08  # the first are looked at, then come at once


@pytest.mark.parametrize(("drop", "most"), [("oldest", 0.5), ("none", None), ("every:4", 0.5)])
def test_the_lag_of_a_network_that_is_three_times_slower_than_the_camera(serve, drop, most):
    server, slow = serve(60), 0.05
    lags = []
    with Source(server.url, drop=drop) as source:
        for frame in source:
            lags.append(time.monotonic() - server.sent[number_of(frame.picture)])
            if len(lags) == 40:
                break
            time.sleep(slow)
    dropped = source.counts.dropped / source.counts.read
    if drop == "none":  # the camera's frames wait in the network: two of three more each time
        assert lags[-1] > 0.8
        assert dropped == 0
    else:
        assert np.median(lags[10:]) < most
        assert 0.5 < dropped < 0.8


@pytest.fixture
def recordings(tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_a_recording_on_a_server_is_read_whole_and_once(recordings, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("http.server.SimpleHTTPRequestHandler.log_message", lambda *args: None)
    encode(tmp_path / f"a{suffix}", [grey(i % 30) for i in range(90)])
    source, levels = Source(f"{recordings}/a{suffix}"), []
    for frame in source:
        levels.append(level(frame.picture))
        time.sleep(0.002)
    assert levels == [number % 30 for number in range(90)]
    assert str(source.counts) == ""


@pytest.mark.parametrize("form", FORMS)
def test_leaving_early_leaves_no_thread(serve, form):
    server = serve(40, form)
    with Source(server.url) as source:
        next(source)
        assert len(reading_threads()) == 1
    assert reading_threads() == []
