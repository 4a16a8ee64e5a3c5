"""Frames of a video file, folder, camera, network stream or pipe, as `prernn.media.video` reads them."""

import math
import os
import re
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from PIL import Image, ImageOps

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}

UNKNOWN = 2
"""FFmpeg's number for a color space that the video does not state."""

MOST_STRETCH = 8
"""A pixel aspect ratio beyond this is taken for an error in the file."""

NEAR, RECENT, LONGEST_HOLD, AGREE = 0.4, 30, 10.0, 0.02
"""Settings of the clock: how near a frame must be to a tick, in periods; number of gaps from which the source's rate is
estimated; longest gap that is filled, in seconds; relative difference up to which rates count as equal."""

TIMEOUT = 10.0
"""Seconds without data before a network stream counts as lost."""


def read_frames(source: str | Path, *, fps: float = 25.0) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time in seconds, uint8 RGB ``(H, W, 3)``) for every frame, lazily.

    Args:
        source: a video file, a folder of pictures, "camera:0", a URL (rtsp, http, ...), or "-" for standard input.
        fps: the rate of a folder of pictures.

    Raises:
        ValueError: a source that can't be read, with its name and the cause.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        yield from _of_folder(Path(source), fps)
        return
    name, arguments = _place(str(source))
    try:
        with av.open(name, **arguments) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{source}: no video stream")
            yield from _decoded(container, stream)
    except FFmpegError as error:
        raise ValueError(f"{source}: can't be read: {error.strerror or type(error).__name__}") from error


def _place(source: str) -> tuple[str, dict[str, Any]]:
    """The name and arguments that av.open takes for a source."""
    if source == "-":
        return "pipe:0", {}
    if re.match(r"\w+://", source):
        return source, {"timeout": TIMEOUT, "options": {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}}
    if match := re.fullmatch(r"camera:(.+)|/dev/video(\d+)", source):
        number = match[1] or match[2]
        if sys.platform == "darwin":
            return f"{number}:none", {"format": "avfoundation", "options": {"framerate": "30"}}
        return f"/dev/video{number}" if number.isdigit() else number, {"format": "v4l2"}
    if not os.path.exists(source):
        raise ValueError(f"{source}: no such file or folder")
    return f"file:{source}", {}


def _decoded(container: Any, stream: Any) -> Iterator[tuple[float, np.ndarray]]:
    reformatter, origin, time = VideoReformatter(), None, 0.0
    step = 1 / float(stream.average_rate or 25)
    for number, frame in enumerate(container.decode(stream)):
        stamp = frame.time
        origin = stamp if origin is None else origin
        now = time + step if stamp is None or origin is None else stamp - origin
        time = 0.0 if not number else now if now >= time else time + step
        yield time, _picture(frame, stream.sample_aspect_ratio, reformatter)


def _picture(frame: Any, aspect: Any, reformatter: VideoReformatter) -> np.ndarray:
    """A frame as RGB, upright, with square pixels; unstated colors are BT.709 in high definition, otherwise BT.601."""
    width, height = frame.width, frame.height
    if aspect and 1 / MOST_STRETCH <= aspect <= MOST_STRETCH:
        width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    chroma = not frame.format.is_rgb and len(frame.format.components) >= 3
    large = frame.height >= 720 or frame.width >= 1280
    assumed = Colorspace.ITU709 if frame.colorspace == UNKNOWN and chroma and large else None
    how = Interpolation.AREA if (width, height) == (frame.width, frame.height) else Interpolation.BILINEAR
    shown = reformatter.reformat(frame, width, height, "rgb24", src_colorspace=assumed, interpolation=how, threads=1)
    return np.ascontiguousarray(_upright(shown.to_ndarray(), frame.side_data.get(Type.DISPLAYMATRIX)))


def _upright(image: np.ndarray, data: Any) -> np.ndarray:
    """The image rotated by quarter turns and mirrored, as the display matrix ``a b . c d`` says."""
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(data, np.int32).tolist()[:5]
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = np.swapaxes(image, 0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _of_folder(folder: Path, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    def natural(file: Path) -> list[Any]:
        return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", file.name))]

    files = sorted((file for file in folder.glob("[!.]*") if file.suffix.lower() in IMAGES), key=natural)
    if not files:
        raise ValueError(f"{folder}: a folder without frames (expected {', '.join(sorted(IMAGES))})")
    for number, file in enumerate(files):
        with Image.open(file) as image:
            yield number / fps, np.array(ImageOps.exif_transpose(image).convert("RGB"))


def at_rate(frames: Iterable[tuple[float, Any]], rate: float | None) -> Iterator[tuple[float, Any]]:
    """The frames that a network with this rate sees: the newest at each tick of its clock; all if ``rate`` is None.

    Like `prernn.streaming.pace.Pace`: a frame belongs to a tick that it is near to; the clock follows a source whose
    rate is its own within 2 %, or a multiple; a frame is held for at most 10 s. In a live source, a tick is known to be
    over only when a later frame has arrived.

    Raises:
        ValueError: a rate that is not a positive number.
    """
    if rate is None:
        yield from frames
        return
    if not 0 < rate < math.inf:
        raise ValueError(f"expected frames a second above 0, got {rate}")
    period, gaps = 1 / rate, deque[float](maxlen=RECENT)
    tick, before, newest = math.nan, math.nan, None
    for time, frame in frames:
        tick = time if math.isnan(tick) else tick
        if time > before:
            gaps.append(time - before)
        before = time
        near = NEAR * min([period, *([statistics.median_low(gaps)] if gaps else [])])
        longest, held_over = tick + LONGEST_HOLD, time - tick > LONGEST_HOLD
        while time > tick + near:
            if held_over and tick > longest:
                tick = time
                break
            yield tick, newest
            tick += period
        newest = frame
        if time >= tick - near:
            yield time, frame
            tick += period + _pull(gaps, period, time - tick)


def _pull(gaps: Sequence[float], period: float, late: float) -> float:
    """How far the clock follows a source of its own rate, or a multiple, whose frame came late or early."""
    usual = 1.5 * statistics.median_low(gaps) if gaps else 0.0
    mean = statistics.fmean([gap for gap in gaps if gap <= usual] or [period])
    times = max(1, round(period / mean))
    if abs(times * mean - period) > AGREE * period:
        return 0.0
    return min(max(late, -AGREE * period), AGREE * period)
