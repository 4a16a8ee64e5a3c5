"""GStreamer's RTSP server, killed, frozen and slowed."""

import itertools
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prernn.streaming.sources.source import Source

SERVER = Path(__file__).parents[2] / "rtsp_server.py"
PYTHON = "/usr/bin/python3"
BINDINGS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def there() -> bool:
    """Whether the system's Python has the server."""
    return (
        sys.platform == "linux"
        and shutil.which(PYTHON) is not None
        and not subprocess.call([PYTHON, "-c", BINDINGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:rtsp")]


@pytest.fixture
def serve():
    """Starts servers as programs of their own, which are gone at the end."""
    if not there():
        pytest.skip("GStreamer's RTSP server is not here (gir1.2-gst-rtsp-server-1.0)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = []

    def start(fps=15):
        command = [PYTHON, str(SERVER), str(port), str(fps)]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert servers[-1].stdout.readline() == "ready\n"
        return servers[-1]

    start.url = f"rtsp://127.0.0.1:{port}/live"
    yield start
    for server in servers:
        server.kill()
        server.wait()
        server.stdout.close()


def until_reconnected(source):
    """The frames before the source came back, and the one with which it did."""
    frames = []
    for frame in source:
        if frame.reconnected:
            return frames, frame
        frames.append(frame)
    raise AssertionError("it ended")


def following(source, count):
    return list(itertools.islice(source, count))


def check(frames, real):
    """Frames in order, whose time is the world's up to what is decoded at once after a connection."""
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert times[-1] - times[0] == pytest.approx(real, abs=3)


def test_a_server_that_is_killed_and_started_again(serve):
    server = serve()
    with Source(serve.url, timeout=3) as source:
        frames = following(source, 40)
        start, first = time.monotonic(), frames[-1]
        server.kill()
        threading.Timer(2, serve).start()
        lost, back = until_reconnected(source)
        frames += [*lost, back, *following(source, 40)]
    assert back.arrived - start > 2
    assert source.counts.reconnected == 1
    check(frames[39:], frames[-1].arrived - first.arrived)


def test_a_server_that_is_frozen_and_goes_on(serve):
    server = serve()
    with Source(serve.url, timeout=2) as source:
        frames = following(source, 40)
        first = frames[-1]
        server.send_signal(signal.SIGSTOP)
        threading.Timer(5, server.send_signal, [signal.SIGCONT]).start()
        lost, back = until_reconnected(source)
        frames += [*lost, back, *following(source, 40)]
    assert back.arrived - first.arrived > 2
    assert (source.counts.reconnected, source.counts.abandoned) == (1, 0)
    assert source.counts.timeouts >= 1
    check(frames[39:], frames[-1].arrived - first.arrived)


def test_a_frozen_server_that_is_killed_and_comes_back_slow(serve):
    server = serve()
    with Source(serve.url, timeout=3) as source:
        following(source, 40)
        server.send_signal(signal.SIGSTOP)

        def replace():
            server.kill()
            server.wait()
            serve(2)

        threading.Timer(5, replace).start()
        _, back = until_reconnected(source)
        slow = following(source, 20)
    assert source.counts.reconnected == 1
    gaps = [later.time - earlier.time for earlier, later in itertools.pairwise(slow[-4:])]
    assert gaps == pytest.approx([0.5] * 3, abs=0.1)
    assert back.index < slow[0].index


def test_a_network_that_is_three_times_slower_than_the_camera(serve):
    serve(30)
    with Source(serve.url) as source:
        frames = []
        for frame in source:
            frames.append((frame, time.monotonic() - frame.arrived))
            if len(frames) == 40:
                break
            time.sleep(0.1)
    assert all(waited < 0.2 for _, waited in frames)  # each is the newest when it is taken
    shown = [frame for frame, _ in frames]
    assert shown[-1].time - shown[10].time == pytest.approx(shown[-1].arrived - shown[10].arrived, abs=0.3)
    assert source.counts.dropped / source.counts.read > 0.5
