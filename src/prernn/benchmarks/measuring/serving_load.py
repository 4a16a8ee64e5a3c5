"""Large numbers of clients for a server: cameras that keep their rate, and hostile clients."""

import asyncio
import contextlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.synchronize import Event
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from prernn.serving.messages.pictures import picture
from prernn.streaming.stream import Stream

TOP = 1000
"""Number of labels that clients ask for: all."""


@dataclass
class Camera:
    """What a camera sent and received.

    Attributes:
        frames: JPEGs, sent in turn.
        sent: time in seconds at which each was sent.
        heard: by message, the time of the answer and the probabilities by label.
        end: the server's last message.
    """

    frames: list[bytes]
    sent: list[float] = field(default_factory=list)
    heard: dict[int, tuple[float, dict[str, float]]] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)

    def latencies(self) -> list[float]:
        """Seconds from each frame's sending to its answer."""
        return [at - self.sent[message] for message, (at, _) in self.heard.items()]

    def wrong(self, stream: Stream, tolerance: float) -> int:
        """Number of answers that differ from those of a single stream that sees the same frames."""
        wrong = 0
        for message, (_, said) in sorted(self.heard.items()):
            shown = picture(self.frames[message % len(self.frames)], None, 10**9)
            alone = stream.probabilities(shown)
            assert alone is not None  # it is a network of frames
            wrong += any(abs(said[str(label)] - p) > tolerance for label, p in enumerate(alone.tolist()))
        return wrong


async def film(url: str, camera: Camera, fps: float, seconds: float, start: float) -> None:
    """Sends a camera's frames at its rate, regardless of the answers, and receives the answers."""
    async with connect(url, compression=None, max_size=None) as socket:
        await socket.send(json.dumps({"top": TOP}))
        await socket.recv()
        hearing = asyncio.create_task(_hear(socket, camera))
        begin = perf_counter() + start
        for number in range(round(fps * seconds)):
            await asyncio.sleep(max(0.0, begin + number / fps - perf_counter()))
            camera.sent.append(perf_counter())
            await socket.send(camera.frames[number % len(camera.frames)])
        await socket.send('{"type": "end"}')
        await hearing


async def _hear(socket: ClientConnection, camera: Camera) -> None:
    while not camera.end:
        answer = json.loads(await socket.recv())
        if answer["type"] == "frame":
            (row,) = answer["rows"]
            camera.heard[answer["message"]] = (perf_counter(), dict(row["top"]))
        elif answer["type"] == "dropped":
            continue
        elif answer["type"] == "end":
            camera.end = answer
        else:
            raise ConnectionError(f"expected a frame's answer, got {answer}")


def pictures_of(number: int, count: int, side: int = 240) -> list[bytes]:
    """A camera's frames: its own drifting pattern, as 4:3 JPEGs."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    whole = np.array(Image.fromarray(coarse).resize((side * 4 // 3 + 4 * count, side), Image.Resampling.BICUBIC))
    noise = rng.integers(0, 24, (side, side * 4 // 3, 3), dtype=np.uint8)
    found = []
    for step in range(count):
        shown = np.minimum(whole[:, 4 * step : 4 * step + side * 4 // 3].astype(int) + noise, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(shown).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


def _unfriendly(url: str) -> connect:
    return connect(url, compression=None, close_timeout=1)  # it does not wait long for a goodbye


async def garbage(url: str) -> None:
    """Sends messages that are not pictures, as fast as possible."""
    async with _unfriendly(url) as socket:
        await socket.send("{}")
        while True:
            await socket.send(os.urandom(10_000))
            await asyncio.sleep(0.01)


@cache
def _hundred_megapixels() -> bytes:
    file = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(file, "JPEG", quality=1)
    return file.getvalue()


async def vast(url: str) -> None:
    """Sends JPEGs of 100 megapixels."""
    async with _unfriendly(url) as socket:
        await socket.send("{}")
        while True:
            await socket.send(_hundred_megapixels())
            await asyncio.sleep(0.1)


async def half(url: str) -> None:
    """Sends the beginning of a message, and never its end."""
    async with _unfriendly(url) as socket:
        await socket.send("{}")
        socket.transport.write(b"\x82\xff" + (5_000_000).to_bytes(8, "big") + b"\x00" * 1000)
        await asyncio.Event().wait()


async def silence(url: str) -> None:
    """Opens a connection and sends nothing."""
    async with _unfriendly(url):
        await asyncio.Event().wait()


async def loop(url: str) -> None:
    """Connects and disconnects, over and over."""
    while True:
        async with _unfriendly(url) as socket:
            await socket.send("{}")
        await asyncio.sleep(0.02)


HOSTILE: dict[str, Callable[[str], Awaitable[None]]] = {
    "garbage": garbage, "100 megapixels": vast, "half a message": half, "silence": silence, "comes and goes": loop
}  # fmt: skip


async def pester(url: str, kind: str) -> None:
    """Runs a hostile client, again whenever it is disconnected."""
    while True:
        with contextlib.suppress(WebSocketException, OSError):
            await HOSTILE[kind](url)
        await asyncio.sleep(0.1)


def load(url: str, cameras: list[Camera], fps: float, seconds: float, hostile: int) -> None:
    """Runs cameras in parallel, beside a number of hostile clients."""
    with pestered(url, hostile) if hostile else contextlib.nullcontext():
        asyncio.run(filmed(url, cameras, fps, seconds))


async def filmed(url: str, cameras: list[Camera], fps: float, seconds: float) -> None:
    """Runs cameras in parallel; they do not start at the same time."""
    starts = np.random.default_rng(0).uniform(0, 1 / fps, len(cameras))
    await asyncio.gather(
        *(film(url, camera, fps, seconds, start) for camera, start in zip(cameras, starts, strict=True))
    )


async def pesters(url: str, count: int) -> None:
    """Runs hostile clients in parallel, one of each kind in turn, until it is canceled."""
    kinds = list(HOSTILE)
    _hundred_megapixels()  # created before they start
    await asyncio.gather(*(pester(url, kinds[number % len(kinds)]) for number in range(count)))


@contextlib.contextmanager
def pestered(url: str, hostile: int) -> Iterator[None]:
    """Runs hostile clients in a process of the lowest priority.

    Real ones have computers of their own. Here, what they compute would else count as what they do to the server.
    """
    spawning = multiprocessing.get_context("spawn")
    ready = spawning.Event()
    process = spawning.Process(target=_pester_all, args=(url, hostile, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("the hostile clients did not start within 60 s")
        yield
    finally:
        process.terminate()
        process.join()


def _pester_all(url: str, hostile: int, ready: Event) -> None:
    os.nice(19)
    _hundred_megapixels()
    ready.set()
    asyncio.run(pesters(url, hostile))


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """``prernn serve`` in a separate process; yields the URL for clients."""
    command = [sys.executable, "-m", "prernn.commands.main", "serve", *arguments, "--port", "0", "--clients", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(filter(None, (re.search(r"serving at http://(\S+)", line) for line in process.stderr)), None)
        if found is None:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would block it
        yield f"ws://{found[1]}/stream"
    finally:
        process.terminate()
        process.wait()


@torch.inference_mode()
def apart(stream: Stream, cameras: list[Camera]) -> float:
    """The smallest difference between the first answers to two cameras, by which mix-ups would be detected."""
    firsts = []
    for camera in cameras[:16]:
        stream.reset()
        answer = stream.probabilities(picture(camera.frames[0], None, 10**9))
        assert answer is not None
        firsts.append(answer)
    return min(float((a - b).abs().max()) for n, a in enumerate(firsts) for b in firsts[:n])
