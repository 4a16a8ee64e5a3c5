"""Decoded frames as pictures, the way a player shows them: progressive, RGB, with square pixels, upright."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from av.error import BlockingIOError, EOFError
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter

from prernn.media.source import Address

UNKNOWN = 2
"""FFmpeg's number for a color space that the video does not state."""


COLORS = {0: "RGB", 1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020", 10: "BT.2020"}
"""FFmpeg's numbers for the conversions between Y'CbCr and RGB."""


HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}


MOST_STRETCH = 8
"""A pixel aspect ratio beyond this is taken for an error in the file."""


_said: set[str] = set()  # the kinds of warnings that this process has given


class Painter:
    """Converts the frames of one video to pictures."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any, aspect: Fraction | None) -> np.ndarray:
        """A PyAV frame as uint8 RGB ``(H, W, 3)``; ``aspect`` is a pixel's width over its height, None if unknown."""
        width, height = square_pixels(frame.width, frame.height, aspect)
        assumed = Colorspace.ITU709 if _assumed(frame) and is_hd(frame.height, frame.width) else None
        how = Interpolation.BILINEAR if (width, height) != (frame.width, frame.height) else Interpolation.AREA
        shown = self._reformatter.reformat(
            frame, width, height, "rgb24", src_colorspace=assumed, interpolation=how, threads=1
        )
        return np.ascontiguousarray(oriented(shown.to_ndarray(), _display_matrix(frame)))


def square_pixels(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The size with square pixels: one side is enlarged, so that no detail is lost."""
    if not aspect or not 1 / MOST_STRETCH <= aspect <= MOST_STRETCH:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def oriented(image: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """An image ``(H, W, ...)`` rotated by quarter turns and mirrored, as the nine integers of a display matrix say.

    A pixel at ``(x, y)`` is shown at ``(a x + c y, b x + d y)``, ``y`` pointing down: the matrix starts ``a b . c d``.
    """
    a, b, _, c, d = matrix[:5]
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    if turned:
        image, a, d = np.swapaxes(image, 0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _display_matrix(frame: Any) -> tuple[int, ...]:
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return (1, 0, 0, 0, 1) if data is None else tuple(np.frombuffer(data, np.int32).tolist())


def colors(frame: Any) -> str:
    """How a frame's Y'CbCr is interpreted: BT.601, BT.709, ..., with ", assumed" if the video does not say."""
    if not _has_chroma(frame.format):
        return "RGB" if frame.format.is_rgb or frame.format.has_palette else "grey"
    if not _assumed(frame):
        return COLORS.get(frame.colorspace, str(frame.colorspace))
    return f"{'BT.709' if is_hd(frame.height, frame.width) else 'BT.601'}, assumed"


def _assumed(frame: Any) -> bool:
    return frame.colorspace == UNKNOWN and _has_chroma(frame.format)


def _has_chroma(pixels: Any) -> bool:
    """Whether a pixel format is Y'CbCr."""
    return not pixels.is_rgb and len(pixels.components) >= 3


def is_hd(height: int, width: int) -> bool:
    """Whether a video without color tags counts as high definition, which means BT.709 colors."""
    return height >= 720 or width >= 1280


def remark(frame: Any, source: Address) -> None:
    """Warns, once per process and kind, of frames that are used as they are although a player would convert them."""
    if frame.color_trc in HDR:
        _warn_once("HDR", f"{source}: HDR ({HDR[frame.color_trc]}) is used as it is, without tone mapping")
    if frame.interlaced_frame:
        _warn_once(
            "interlaced", f"{source}: interlaced, and used as it is: moving edges look like combs (see deinterlace)"
        )


def _warn_once(kind: str, text: str) -> None:
    if kind not in _said:
        _said.add(kind)
        warnings.warn(f"{text}; shown for the first such video only", RuntimeWarning, stacklevel=2)


def deinterlaced(frames: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """(time, PyAV frame) pairs in which frames marked as interlaced become progressive, with a delay of one frame.

    Uses FFmpeg's bwdif: one picture per frame, missing lines interpolated in space and time.
    """
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
    """Passes a frame (None at the end) to the graph and yields what comes out: every frame once, in order."""
    if graph is None:
        return
    graph.vpush(frame)
    while times:
        try:
            progressive = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        yield times.popleft(), progressive
