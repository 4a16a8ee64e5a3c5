"""Reading video: files, folders of frames, cameras, network streams and pipes, through PyAV.

Frames are RGB uint8 arrays ``(H, W, 3)``, as a player shows them: upright, with square pixels. Times are seconds since
the first frame and never decrease. Everything is decoded lazily and in order, so the same reader serves training and
streaming.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from prernn.media.image_folder import folder_frames, load
from prernn.media.picture import Painter, colors, deinterlaced, remark
from prernn.media.sampling import Sampling, sample_times
from prernn.media.source import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Address,
    VideoError,
    cause,
    is_stored,
    is_video,
    locate,
    opened,
)
from prernn.media.timing import (
    CLOCKLESS,
    begins_with_key,
    ends_early,
    header_frames,
    rate,
    shown_times,
    stamp,
    stamps,
    stated_frames,
    stated_length,
    time_held,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Address",
    "VideoError",
    "VideoInfo",
    "is_video",
    "probe",
    "read_clip",
    "read_frames",
    "read_pictures",
]


@dataclass(frozen=True)
class VideoInfo:
    """What a source says about itself.

    Attributes:
        frames: the container's count, or the count of its packets if it states none; may be None for a live source.
        fps: the average rate, 25 if none is known.
        width: in pixels as shown (square, after rotation).
        height: in pixels as shown.
        duration: in seconds from the first frame on, None if unknown.
        colors: how its Y'CbCr is interpreted: "BT.601", "BT.709", "BT.2020", with ", assumed" if it does not say; "RGB"
            or "grey" if nothing has to be converted.
    """

    frames: int | None
    fps: float
    width: int
    height: int
    duration: float | None
    colors: str = "RGB"


class Reading(NamedTuple):
    """How a source is read.

    Attributes:
        fps: as in `read_frames`.
        tolerate_truncation: as in `read_frames`.
        deinterlace: as in `read_frames`.
        on_jump: as in `read_frames`.
        on_open: called when a source other than a folder is open, with whether it has an end (`source.is_stored`).
        timeout: as in `prernn.media.source.opened`.
        opening: as in `prernn.media.source.opened`.
        over: as in `prernn.media.source.opened`.
    """

    fps: float = 25.0
    tolerate_truncation: bool = False
    deinterlace: bool = False
    on_jump: Callable[[float], None] | None = None
    on_open: Callable[[bool], None] | None = None
    timeout: float | None = None
    opening: float = 0.0
    over: Callable[[], bool] = lambda: False


def read_frames(
    source: Address,
    *,
    fps: float = 25.0,
    tolerate_truncation: bool = False,
    deinterlace: bool = False,
    on_jump: Callable[[float], None] | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time in seconds, uint8 RGB ``(H, W, 3)``) for every frame, lazily and at constant memory.

    Args:
        source: a video file; a folder of png/jpg/jpeg/bmp/webp frames in natural order; a camera ("camera:0",
            "0", 0, "/dev/video0", or "camera:NAME"); a stream URL (rtsp, http(s), rtmp, udp, rtp, srt, tcp); a named
            pipe or "-", which is standard input.
        fps: the rate of a folder of frames; other sources carry their own times.
        tolerate_truncation: end silently at the first place in a file that does not decode, instead of raising.
            A live source always skips damaged frames, and ends when it closes.
        deinterlace: make frames that are marked as interlaced progressive.
        on_jump: called with the number of seconds when time stamps jump back; the yielded times still increase.

    Raises:
        VideoError: (at the first `next`) a source that cannot be read, or (later) one that breaks off, or a file or
            folder whose frame size changes. The size may change in a live source.
    """
    for time, image in _walk(source, Reading(fps, tolerate_truncation, deinterlace, on_jump)):
        assert image is not None  # _walk leaves out images only when it is told which are wanted
        yield time, image


def read_clip(
    source: Address,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    transform: Callable[[np.ndarray], Tensor] | None = None,
    fps: float = 25.0,
    tolerate_truncation: bool = False,
    deinterlace: bool = False,
) -> Tensor:
    """Reads the frames that ``sampling`` picks: uint8 ``(T, 3, H, W)``, T at most what was asked, at least 1.

    The video is decoded in order, only as far as needed, and only the picked frames are kept, with the channels
    last in memory. ``generator`` makes the "random" and "consecutive" rules random. ``transform``, such as
    `transforms.frame_transform`, is applied to each picked frame ``(H, W, 3)`` as soon as it is decoded, to save
    memory; its results are then stacked. The other arguments are those of `read_frames`.

    Raises:
        VideoError: as in `read_frames`.
        NotImplementedError: a live source, which has no end.
    """
    reading = Reading(fps, tolerate_truncation, deinterlace)
    state = generator.get_state() if generator else torch.empty(0)
    times, whole = _scan(source, fps)
    picks = sample_times(times, sampling, generator)
    for _ in range(2):  # a second pass only if a picked packet gives no frame
        kept, seen = _keep(_walk(source, reading, set(picks)), picks, whole, transform or torch.from_numpy)
        if whole and picks and picks[-1] in kept:
            break
        if generator:
            generator.set_state(state)
        planned, picks = picks, sample_times(seen, sampling, generator)
        if picks == planned:
            break
    clip = torch.stack([kept[i] for i in picks])
    return clip if transform else clip.permute(0, 3, 1, 2)  # (T, 3, H, W)


def probe(source: Address, *, fps: float = 25.0) -> VideoInfo:
    """Size, rate and length of a source, decoding its first frame only; ``fps`` is the rate of a folder of frames.

    Data read from a pipe is gone for the next reader.

    Raises:
        VideoError: a source that cannot be read.
    """
    place = locate(source)
    if place.kind == "folder":
        files = folder_frames(source, fps)
        height, width, _ = load(source, files[0][1]).shape
        return VideoInfo(len(files), fps, width, height, len(files) / fps)
    with opened(source) as (container, stream):
        known = stated_frames(container, stream)
        _, frame = next(_decode(container, stream, source, place.live, Reading(tolerate_truncation=True)))
        height, width, _ = Painter()(frame, stream.sample_aspect_ratio).shape
        mean, length = rate(container, stream), stated_length(container, stream, stamp(container, frame))
        if place.live:
            return VideoInfo(header_frames(container, stream) or None, mean, width, height, length, colors(frame))
    if known is None:
        times, _ = _scan(source, fps)
        known = len(times)
        if times and length is not None:
            length = max(length, times[-1])  # in joined videos the time stamps restart
    return VideoInfo(known, mean, width, height, length or known / mean, colors(frame))


def _walk(
    source: Address, reading: Reading, wanted: set[int] | None = None
) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yields (time, RGB image) for every frame; with ``wanted``, None for the images at other indices."""
    shape, live = None, locate(source).live
    for i, (time, picture) in enumerate(read_pictures(source, reading)):
        if wanted is not None and i not in wanted:
            yield time, None
            continue
        image = picture()
        shape = shape or image.shape
        if image.shape != shape and not live:
            raise VideoError(f"{source}: frame {i}: expected (H, W) {shape[:2]} as before, got {image.shape[:2]}")
        yield time, image


def read_pictures(source: Address, reading: Reading) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
    """Yields the time of every frame and a function that makes its picture; call it before the next frame.

    Raises:
        VideoError: as in `read_frames`, except that sizes may change.
    """
    place = locate(source)
    if place.kind == "folder":
        for time, file in folder_frames(source, reading.fps):
            yield time, partial(load, source, file)
        return
    paint, size, changed = Painter(), None, False
    with opened(source, reading.timeout, reading.opening, reading.over) as (container, stream):
        if reading.on_open is not None:
            reading.on_open(is_stored(container))
        frames = _decode(container, stream, source, place.live, reading)
        for time, frame in deinterlaced(frames) if reading.deinterlace else frames:
            remark(frame, source)
            size = size or (frame.width, frame.height)
            changed = changed or (frame.width, frame.height) != size
            # the stream's aspect ratio remains that of its first frames
            aspect = (stream.codec_context if changed else stream).sample_aspect_ratio
            yield time, partial(paint, frame, aspect)


def _advice(container: Any, source: Address) -> str:
    """What to do about a pipe whose container can't be read from its begin to its end."""
    late = "mov" in container.format.name.split(",") and locate(source).kind == "pipe"
    words = "in a pipe, an mp4 or mov needs its index first: ffmpeg -i FILE -c copy -movflags +faststart, or mpegts"
    return f"; {words}" if late else ""


def _decode(container: Any, stream: Any, source: Address, live: bool, reading: Reading) -> Iterator[tuple[float, Any]]:
    """Yields (time, PyAV frame). Damaged frames of a live source are dropped; in a file they raise VideoError."""
    step = 1 / rate(container, stream)
    count, time, last, origin, broken = 0, 0.0, 0.0, None, ""
    before = -math.inf  # the time stamp of the previous frame
    clock = (lambda frame: monotonic()) if live and container.format.name in CLOCKLESS else partial(stamp, container)
    try:
        for frame in _packet_frames(container, stream, live):
            now = clock(frame)
            if now is not None:
                if reading.on_jump is not None and now < before:
                    reading.on_jump(before - now)
                before = now
            origin = now if origin is None else origin
            now = time + step if now is None or origin is None else now - origin
            time = 0.0 if not count else now if now >= time else time + step
            yield time, frame
            count, last = count + 1, time_held(frame)
        if count and not live:
            broken = ends_early(container, stream, count, origin or 0.0, (origin or 0.0) + time, last)
    except FFmpegError as error:
        broken = cause(error, reading.timeout)
    if not count:
        reason = (f": {broken}" if broken else "") + _advice(container, source)
        raise VideoError(f"{source}: no frame can be decoded{reason}")
    if broken and (live or not reading.tolerate_truncation):
        total = f" of {stated}" if (stated := header_frames(container, stream)) else ""
        raise VideoError(f"{source}: truncated or damaged after {count}{total} frames: {broken}")


def _packet_frames(container: Any, stream: Any, live: bool) -> Iterator[Any]:
    """The frames that decode; damage is an error, except in a live source and before the first key frame."""
    begun = begins_with_key(container, stream)
    for packet in container.demux(stream):
        begun = begun or packet.is_keyframe
        try:
            for frame in packet.decode():
                if not frame.is_corrupt:
                    yield frame
                elif begun and not live:
                    raise FFmpegError(0, "damaged frame")
        except FFmpegError:
            if begun and not live:
                raise


def _scan(source: Address, fps: float) -> tuple[list[float], bool]:
    """The times of all frames without decoding them, and whether the source looks complete."""
    place = locate(source)
    if place.kind == "folder":
        return [time for time, _ in folder_frames(source, fps)], True
    if place.live:
        raise NotImplementedError(f"{source}: expected a file or folder to sample from, got a live source")
    with opened(source) as (container, stream):
        found, whole = stamps(container, stream)
        times = shown_times(container, stream, found)
        if times:
            last = max((item.held for item in found if item.shown == times[-1]), default=0.0)
            whole = whole and not ends_early(container, stream, len(times), times[0], times[-1], last)
    return [time - times[0] for time in times], whole


def _keep(
    walk: Iterable[tuple[float, np.ndarray | None]],
    picks: list[int],
    stop: bool,
    transform: Callable[[np.ndarray], Tensor],
) -> tuple[dict[int, Tensor], list[float]]:
    """The picked images by index, transformed, and the times seen; with ``stop``, ends after the last pick."""
    kept, seen = {}, []
    for i, (time, image) in enumerate(walk):
        seen.append(time)
        if image is not None:
            kept[i] = transform(image)
        if stop and picks and i == picks[-1]:
            break
    return kept, seen
