"""Two servers behind nginx, by the configuration that docs/live.md has."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from prernn import client
from prernn.benchmarks.measuring.serving_load import Camera, load, pictures_of
from prernn.streaming.stream import Stream
from server_process import process, saved_network

DOCS = Path(__file__).parents[2] / "docs" / "live.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("nginx") or not DOCS.is_file(), reason="no nginx, or no docs"),
]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def behind_nginx(folder, first, second):
    """The documented configuration, with other ports; gives its address."""
    found = re.search(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    port = free_port()
    text = found[1].replace("127.0.0.1:9001", first).replace("127.0.0.1:9002", second).replace(":9000", f":{port}")
    head = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}\n"
    (folder / "nginx.conf").write_text(f"{head}http {{ access_log off;\n{text}}}\n")
    nginx = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        time.sleep(1)
        yield f"127.0.0.1:{port}"
    finally:
        nginx.terminate()
        nginx.wait(20)


def test_two_servers_behind_nginx(tmp_path):
    path, net = saved_network(tmp_path)
    with (
        process(path) as (first, killed),
        process(path) as (second, _),
        behind_nginx(tmp_path, first, second) as address,
    ):
        url = f"ws://{address}/stream"
        cameras = [Camera(pictures_of(number, 5, 48)) for number in range(8)]
        load(url, cameras, 15.0, 2.0, 0)
        assert [camera.wrong(Stream(net), 2e-4) for camera in cameras] == [0] * 8
        assert all(len(camera.heard) == 30 for camera in cameras)
        shown = pictures_of(9, 8, 48)
        with client.connect(url) as alone:
            expected = [alone.ask(data)["rows"][0]["probability"] for data in shown]
        with client.connect(url) as one, client.connect(url) as two:  # one a server, as each goes where fewest are
            streams, said, states = [one, two], {}, {}
            for number, stream in enumerate(streams):
                said[number] = [stream.ask(data)["rows"][0]["probability"] for data in shown[:4]]
                states[number] = stream.state()
            killed.kill()
            lost = []
            for number, stream in enumerate(streams):
                try:
                    said[number] += [stream.ask(data)["rows"][0]["probability"] for data in shown[4:]]
                except ConnectionError:
                    lost.append(number)
            assert len(lost) == 1
            with client.connect(url, state=states[lost[0]]) as again:
                assert again.started["from"] == "state"
                said[lost[0]] = said[lost[0]][:4] + [again.ask(data)["rows"][0]["probability"] for data in shown[4:]]
        assert said[0] == pytest.approx(expected, abs=2e-4)
        assert said[1] == pytest.approx(expected, abs=2e-4)
