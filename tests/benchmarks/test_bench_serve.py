"""The load test: its cameras notice answers that are not theirs, and its others mean no good."""

import asyncio
from dataclasses import replace

import pytest

from prernn.benchmarks.measuring.serving_load import HOSTILE, Camera, apart, filmed, load, pesters, pictures_of
from prernn.benchmarks.serve import _together
from prernn.commands.main import main
from prernn.streaming.stream import Stream
from served import served
from streamed_networks import network


@pytest.fixture(scope="module")
def net():
    net = network().float()
    net.recipe = replace(net.recipe, labels=[str(label) for label in range(5)])
    return net


def test_cameras_notice_answers_that_are_not_theirs(net):
    cameras = [Camera(pictures_of(number, 5, 24)) for number in range(3)]
    with served(net) as (address, _):
        load(f"ws://{address}/stream", cameras, 30.0, 0.5, 0)
    for camera in cameras:
        assert len(camera.sent) == 15
        assert len(camera.heard) + camera.end["dropped"] == 15
        assert camera.wrong(Stream(net), 2e-4) == 0
        assert min(camera.latencies()) > 0
    assert apart(Stream(net), cameras) > 1e-3
    cameras[0].heard, cameras[1].heard = cameras[1].heard, cameras[0].heard
    assert cameras[0].wrong(Stream(net), 2e-4) > 5


def test_others_do_not_change_the_answers(net):
    """One of each kind, for a moment."""
    cameras = [Camera(pictures_of(number, 5, 24)) for number in range(2)]

    async def run(url):
        others = asyncio.create_task(pesters(url, len(HOSTILE)))
        await filmed(url, cameras, 20.0, 1.0)
        others.cancel()

    with served(net) as (address, server):
        asyncio.run(run(f"ws://{address}/stream"))
        counted = server.service.metrics
        assert counted.frames.labels("refused")._value.get() > 3
        assert counted.joined.labels("stream")._value.get() > 8
    for camera in cameras:
        assert camera.wrong(Stream(net), 2e-4) == 0
        assert len(camera.heard) + camera.end["dropped"] == 20


def test_rounds_become_one_line():
    line = {"streams": 4, "hostile": 1, "p50_ms": 5.0, "answers": 10, "dropped": 0, "lost": 0, "wrong": 0}
    rounds = [
        line | {"p99_ms": p99, "dropped": dropped, "holds": not dropped} for p99, dropped in ((9, 0), (90, 2), (10, 0))
    ]
    assert _together(rounds) == line | {"p99_ms": 10, "answers": 30, "dropped": 2, "holds": False}


@pytest.mark.slow
def test_bench_serve(tmp_path, capsys):
    asked = [
        "--backbones",
        "small_vgg",
        "--sizes",
        "32",
        "--streams",
        "1",
        "2",
        "--seconds",
        "1",
        "--rounds",
        "2",
        "--engine",
        "torch",
    ]
    assert main(["bench", "serve", *asked, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "serve.md").read_text().count("small_vgg") >= 2
    assert "written to" in capsys.readouterr().out
