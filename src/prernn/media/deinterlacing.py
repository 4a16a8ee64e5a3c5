"""Interlaced video made progressive, by FFmpeg's bwdif: a picture a frame, its missing lines from space and time."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from av.error import BlockingIOError, EOFError
from av.filter import Graph


def deinterlaced(frames: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """(time, PyAV frame) pairs, of which those marked as interlaced become progressive; one frame late."""
    graph, shape, times = None, None, deque[float]()
    for time, frame in frames:
        if shape != (frame.width, frame.height, frame.format.name):
            yield from _through(graph, None, times)
            shape, graph = (frame.width, frame.height, frame.format.name), _graph(frame)
        times.append(time)
        yield from _through(graph, frame, times)
    yield from _through(graph, None, times)


def _graph(frame: Any) -> Graph:
    graph = Graph()
    size = {"width": frame.width, "height": frame.height}
    buffer = graph.add_buffer(**size, format=frame.format.name, time_base=frame.time_base)
    graph.link_nodes(buffer, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _through(graph: Graph | None, frame: Any, times: deque[float]) -> Iterator[tuple[float, Any]]:
    """Hands a frame in, None at the end, and yields what comes out: every frame once, in order."""
    if graph is None:
        return
    graph.vpush(frame)
    while times:
        try:
            progressive = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        yield times.popleft(), progressive
