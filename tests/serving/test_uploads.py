"""Whole videos: their rows are those of `prernn stream`."""

import itertools
import json
import threading
import time

import httpx
import pytest

from prernn.media.encoding import write_video
from prernn.serving.messages.answers import plain_row
from prernn.streaming.watch import watch
from prernn.tasks.action.watcher import ClassWatcher
from served import gone, served
from streamed_networks import network, pictures


@pytest.fixture(scope="module")
def net():
    return network().float()


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, pictures(30, (48, 64)), fps=10)
    return path


def rows_of(response):
    return [json.loads(line) for line in response.text.splitlines()]


def plain(rows):
    """Without the time that each took, and rounded where a batch may round otherwise."""
    kept = [{key: value for key, value in row.items() if key != "latency_ms"} for row in rows]
    return [row | {"probability": pytest.approx(row["probability"], abs=2e-4)} for row in kept]


def test_the_rows_of_a_video(net, clip):
    expected = []
    watch(ClassWatcher(net), clip, on_row=lambda row: expected.append(plain_row(row, net.recipe.labels, 2)))
    with served(net) as (address, server):
        response = httpx.post(f"http://{address}/predict?top=2", content=clip.read_bytes())
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        got = rows_of(response)
        gone(server, "end")
    for row in got + expected:
        row.pop("top")
    assert [row | {"latency_ms": 0} for row in plain(got)] == [row | {"latency_ms": 0} for row in plain(expected)]


def test_what_is_no_video(net, clip):
    with served(net, limits={"video_bytes": 100_000, "pixels": 4000}) as (address, _):

        def refused(content):
            response = httpx.post(f"http://{address}/predict", content=content)
            return response.status_code, response.json()["detail"]

        assert refused(b"nothing of the kind") == (422, "not a video, or cut off before its index")
        assert refused(b"") == (422, "empty file (0 bytes)")
        assert refused(b"x" * 100_001) == (413, "expected a video of at most 100000 bytes, got more")
        small = clip.with_name("small.mp4")
        write_video(small, pictures(3, (48, 96)), fps=10)
        assert refused(small.read_bytes()) == (422, "expected a picture of at most 4000 pixels, got 96 x 48")
        assert httpx.post(f"http://{address}/predict?top=-1").status_code == 422
        clip_rows = httpx.post(f"http://{address}/predict", content=clip.read_bytes())
        assert len(rows_of(clip_rows)) == 30  # the server goes on


def test_a_video_that_breaks_off_says_so_in_its_last_row(net, tmp_path):
    path = tmp_path / "clip.avi"
    write_video(tmp_path / "whole.mp4", pictures(60, (48, 64)), fps=10)
    import av

    with av.open(str(tmp_path / "whole.mp4")) as whole, av.open(str(path), "w") as cut:
        stream = cut.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for frame in whole.decode(video=0):
            for packet in stream.encode(frame):
                cut.mux(packet)
    data = bytearray(path.read_bytes())
    del data[len(data) // 2 :]
    with served(net) as (address, _):
        response = httpx.post(f"http://{address}/predict", content=bytes(data))
    rows = rows_of(response)
    assert response.status_code == 200
    assert 10 < len(rows) < 60
    assert "error" in rows[-1]


def test_whoever_does_not_read_gives_his_place_back(net, tmp_path):
    path = tmp_path / "long.mp4"
    write_video(path, itertools.islice(itertools.cycle(pictures(30, (48, 64))), 2000), fps=10)
    with served(net, limits={"idle": 0.5}) as (address, server):
        with httpx.stream("POST", f"http://{address}/predict?top=1000", content=path.read_bytes()) as response:
            next(response.iter_lines())
        gone(server, "left")
        assert not server.service._places


def test_what_nobody_foresaw_is_an_answer_too(net, clip, monkeypatch):
    from prernn.serving import uploads

    monkeypatch.setattr(uploads, "plain_row", lambda *_: 1 / 0)
    with served(net) as (address, server):
        response = httpx.post(f"http://{address}/predict", content=clip.read_bytes())
        assert (response.status_code, response.json()["detail"]) == (
            500,
            "internal error; the server's log has it: ZeroDivisionError",
        )
        gone(server, "error")


def test_many_videos_leave_room_for_streams(net, clip, monkeypatch):
    """More than asyncio has threads: a stream begins while all of them are followed, and none is at its end."""
    from prernn import client
    from prernn.serving import uploads

    begun = threading.Event()
    monkeypatch.setattr(uploads, "plain_row", lambda *given: (begun.wait(60), plain_row(*given))[1])
    with served(net) as (address, server):
        posts = [
            threading.Thread(
                target=httpx.post,
                args=(f"http://{address}/predict",),
                kwargs={"content": clip.read_bytes(), "timeout": 60},
            )
            for _ in range(10)
        ]
        for post in posts:
            post.start()
        while len(server.service._places) < 10:
            time.sleep(0.01)
        with client.connect(f"ws://{address}/stream") as stream:
            assert stream.started["type"] == "started"
            assert len(server.service._places) == 11
        begun.set()
        for post in posts:
            post.join()


def test_videos_take_places_like_streams(net, clip):
    with served(net, limits={"clients": 1}) as (address, server):
        number = server.service.enter("stream")
        response = httpx.post(f"http://{address}/predict", content=clip.read_bytes())
        assert (response.status_code, response.json()["detail"]) == (
            503,
            "the server has its 1 clients: try again later",
        )
        server.service.leave(number, "end")
        assert httpx.post(f"http://{address}/predict", content=clip.read_bytes()).status_code == 200


def test_the_pages_of_an_api(net):
    with served(net) as (address, server):
        described = httpx.get(f"http://{address}/openapi.json").json()
        assert set(described["paths"]) == {"/predict", "/healthz", "/metrics"}
        assert "WebSocket" in described["info"]["description"]
        assert httpx.get(f"http://{address}/docs").status_code == 200
        assert httpx.get(f"http://{address}/healthz").json()["status"] == "ok"
        server.service.stopping = True
        assert httpx.get(f"http://{address}/healthz").status_code == 503
        server.service.stopping = False
