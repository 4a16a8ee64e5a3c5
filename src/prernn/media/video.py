"""Reading video: files, folders of frames, cameras and network streams, through PyAV.

Frames are RGB uint8 arrays ``(H, W, 3)``. Times are seconds since the first frame and never run backwards.
Everything is decoded in order and lazily, so that the same reader serves training and streaming.
"""

import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from PIL import Image, ImageOps
from torch import Tensor

from prernn.media.sampling import Sampling, sample_times

Source = str | Path | int


IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


VIDEO_SUFFIXES = {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}


VIDEO_SUFFIXES |= {".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}


STREAM_TIMEOUT = 10.0  # seconds without data before a network stream counts as lost


_URL = re.compile(r"(rtsps?|https?|rtmps?|udp|rtp|srt|tcp)://", re.IGNORECASE)


_CAMERA = re.compile(r"camera:(.+)|(\d+)|/dev/video(\d+)")


class VideoError(ValueError):
    """A video that cannot be used. The message is one line: the source and the cause."""


@dataclass(frozen=True)
class VideoInfo:
    """What a source says about itself.

    Attributes:
        frames: the container's count, or that of its packets where it states none; None for a live source.
        fps: the average rate, 25 where none is known.
        width: in pixels as shown (after rotation), as ``height``.
        height: in pixels.
        duration: in seconds, None when unknown.
    """

    frames: int | None
    fps: float
    width: int
    height: int
    duration: float | None


def read_frames(
    source: Source, *, fps: float = 25.0, short_side: int | None = None, tolerate_truncation: bool = False
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time in seconds, uint8 RGB ``(H, W, 3)``) for every frame, lazily and at constant memory.

    Args:
        source: a video file; a folder of png/jpg/jpeg/bmp/webp frames in natural order; a camera ("camera:0",
            "0", 0, "/dev/video0", or "camera:NAME"); a stream URL (rtsp, http(s), rtmp, udp, rtp, srt, tcp).
        fps: the rate of a folder of frames; other sources carry their own times.
        short_side: shrink so that the shorter side has at most this many pixels.
        tolerate_truncation: end quietly at the first place of a file that does not decode, instead of raising.
            A live source skips damaged frames in any case, and ends when it closes.

    Raises:
        VideoError: (at the first `next`) a source that cannot be read, or (later) one that breaks off or changes its
            frame size.
    """
    for time, image in _walk(source, fps, short_side, tolerate_truncation):
        assert image is not None  # _walk leaves out images only when it is told which are wanted
        yield time, image


def read_clip(
    source: Source,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    fps: float = 25.0,
    short_side: int | None = None,
    tolerate_truncation: bool = False,
) -> Tensor:
    """Reads the frames that ``sampling`` picks: uint8 ``(T, 3, H, W)``, T at most what was asked, at least 1.

    The video is decoded in order, only as far as needed, and only the picked frames are kept. ``generator``
    makes the "random" and "consecutive" rules random; the other arguments are those of `read_frames`.

    Raises:
        VideoError: as `read_frames`.
        NotImplementedError: a live source, which has no end.
    """
    state = generator.get_state() if generator else torch.empty(0)
    times, whole = _scan(source, fps)
    picks = sample_times(times, sampling, generator)
    for _ in range(2):  # a second time only where a picked packet gives no frame
        kept, seen = _keep(_walk(source, fps, short_side, tolerate_truncation, set(picks)), picks, whole)
        if whole and picks and picks[-1] in kept:
            break
        if generator:
            generator.set_state(state)
        planned, picks = picks, sample_times(seen, sampling, generator)
        if picks == planned:
            break
    clip = np.stack([kept[i] for i in picks])  # (T, H, W, 3)
    return torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous()  # (T, 3, H, W)


def is_video(path: Path) -> bool:
    """Whether a path is a file with a video's suffix or a folder of frames, and not hidden."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES


def probe(source: Source, *, fps: float = 25.0) -> VideoInfo:
    """Size, rate and length of a source, decoding its first frame only; ``fps`` is the rate of a folder of frames.

    Raises:
        VideoError: a source that cannot be read.
    """
    kind, _, _ = _locate(source)
    if kind == "folder":
        files = _folder_frames(source, fps)
        height, width, _ = _load(source, files[0][1], None).shape
        return VideoInfo(len(files), fps, width, height, len(files) / fps)
    with _open(source) as (container, stream):
        _, frame = next(_decode(container, stream, source, kind != "file", tolerate=True))
        height, width, _ = _convert(frame, None).shape
        rate, frames, duration = _rate(stream), stream.frames or None, _stated_duration(container, stream)
    if kind == "file" and frames is None:
        frames = len(_scan(source, fps)[0])
    return VideoInfo(frames, rate, width, height, duration or (frames / rate if frames else None))


def _locate(source: Source) -> tuple[str, str, dict[str, Any]]:
    """The kind ("file", "folder", "camera" or "stream"), av.open's name for it, and its arguments."""
    text = str(source)
    if isinstance(source, str) and _URL.match(text):
        options = {"rtsp_transport": "tcp"} if text.lower().startswith("rtsp") else {}
        return "stream", text, {"timeout": STREAM_TIMEOUT, "options": options}
    if not isinstance(source, int) and os.path.isdir(text):
        return "folder", text, {}
    if not isinstance(source, int) and os.path.isfile(text):
        if os.path.getsize(text) == 0:
            raise VideoError(f"{source}: empty file (0 bytes)")
        return "file", f"file:{text}", {}  # with its protocol, so that a colon in a name means nothing
    if not isinstance(source, Path) and (match := _CAMERA.fullmatch(text)):
        return "camera", *_camera(next(group for group in match.groups() if group))
    raise VideoError(f"{source}: no such file or folder")


def _camera(name: str) -> tuple[str, dict[str, Any]]:
    """av.open's name and arguments for a camera, by number or by its name in the system."""
    if sys.platform == "darwin":
        return f"{name}:none", {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        if name.isdigit():  # DirectShow knows names only
            cameras = [d.name for d in av.enumerate_input_devices("dshow") if "video" in d.media_types]
            name = cameras[int(name)] if int(name) < len(cameras) else name
        return f"video={name}", {"format": "dshow"}
    return f"/dev/video{name}" if name.isdigit() else name, {"format": "v4l2"}


@contextmanager
def _open(source: Source) -> Iterator[tuple[Any, Any]]:
    """Opens a source for reading: (container, its video stream)."""
    kind, name, arguments = _locate(source)
    try:
        container = av.open(name, **arguments)
    except FFmpegError as error:
        if kind == "file" and isinstance(error, av.error.InvalidDataError):
            raise VideoError(f"{source}: not a video, or cut off before its index") from error
        raise VideoError(f"{source}: cannot open this {kind}: {_cause(error)}") from error
    with container:
        cover = av.stream.Disposition.attached_pic  # the picture of a song is no video
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if container.format.name == "tty":  # FFmpeg "plays" any .txt file as terminal art
            raise VideoError(f"{source}: not a video, but text")
        if not streams:
            raise VideoError(f"{source}: no video stream{', audio only' if container.streams.audio else ''}")
        if streams[0].codec_context is None:  # some releases of PyAV crash when asked to decode it
            raise VideoError(f"{source}: no decoder for the codec of this video")
        yield container, streams[0]


def _walk(
    source: Source, fps: float, short_side: int | None, tolerate: bool, wanted: set[int] | None = None
) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yields (time, RGB image) for every frame; with ``wanted``, None for the images at other indices."""
    folder = _locate(source)[0] == "folder"
    shape = None
    for i, (time, frame) in enumerate(_folder_frames(source, fps) if folder else _file_frames(source, tolerate)):
        if wanted is not None and i not in wanted:
            yield time, None
            continue
        image = _load(source, frame, short_side) if folder else _convert(frame, short_side)
        shape = shape or image.shape
        if image.shape != shape:
            raise VideoError(f"{source}: frame {i}: expected (H, W) {shape[:2]} as before, got {image.shape[:2]}")
        yield time, image


def _file_frames(source: Source, tolerate: bool) -> Iterator[tuple[float, Any]]:
    live = _locate(source)[0] != "file"
    with _open(source) as (container, stream):
        yield from _decode(container, stream, source, live, tolerate and not live)


def _decode(container: Any, stream: Any, source: Source, live: bool, tolerate: bool) -> Iterator[tuple[float, Any]]:
    """Yields (time, PyAV frame). A live source drops damaged frames, a file raises VideoError there."""
    step = 1 / _rate(stream)
    count, time, origin, broken = 0, 0.0, None, ""
    try:
        for frame in _packet_frames(container, stream, live):
            stamp = _stamp(container, frame)
            origin = stamp if origin is None else origin
            now = time + step if stamp is None or origin is None else stamp - origin
            time = 0.0 if not count else now if now >= time else time + step
            yield time, frame
            count += 1
            end = time + max(step, float((frame.duration or 0) * (frame.time_base or 0)))
        if count and not live:
            broken = _ends_early(container, stream, count, end)
    except FFmpegError as error:
        broken = _cause(error)
    if not count:
        raise VideoError(f"{source}: no frame in it decodes{': ' if broken else ''}{broken}")
    if broken and not tolerate:
        total = f" of {stream.frames}" if stream.frames else ""
        raise VideoError(f"{source}: truncated or damaged after {count}{total} frames: {broken}")


def _packet_frames(container: Any, stream: Any, live: bool) -> Iterator[Any]:
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                if not frame.is_corrupt:
                    yield frame
                elif not live:
                    raise FFmpegError(0, "damaged frame")
        except FFmpegError:
            if not live:
                raise


def _cause(error: FFmpegError) -> str:
    if isinstance(error, av.error.ExitError):  # what a timeout makes of it
        return f"no data for {STREAM_TIMEOUT:g} s"
    return error.strerror or type(error).__name__


def _rate(stream: Any) -> float:
    """Mean frames per second, 25 where the container states none."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def _stamp(container: Any, item: Any) -> float | None:
    """Presentation time in seconds of a frame or packet, on the container's own clock."""
    # AVI stores no presentation times: FFmpeg's guesses run backwards, the decoding order is right.
    stamp = item.dts if container.format.name == "avi" else item.pts
    return None if stamp is None else float(stamp * item.time_base)


def _stated_duration(container: Any, stream: Any) -> float | None:
    """The length in seconds that the container states for this stream, or None."""
    if container.format.name == "avi" and stream.frames:
        return stream.frames / _rate(stream)  # its own duration shrinks with a truncated file
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:  # else the sound may be longer
        return container.duration / av.time_base
    return None


def _ends_early(container: Any, stream: Any, count: int, end: float) -> str:
    """Says so where ``count`` frames up to ``end`` seconds are clearly fewer than the container states.

    The slack of 5 % and two frames is for rounding and for AVI files that count frames they do not hold.
    """
    stated = _stated_duration(container, stream)
    if stated is None or 0 < stream.frames <= count or end >= 0.95 * stated - 2 / _rate(stream):
        return ""
    return f"it ends at {end:.2f} s of {stated:.2f} s"


def _scan(source: Source, fps: float) -> tuple[list[float], bool]:
    """The times of all frames without decoding them, and whether the source looks whole."""
    kind, _, _ = _locate(source)
    if kind == "folder":
        return [time for time, _ in _folder_frames(source, fps)], True
    if kind != "file":
        raise NotImplementedError(f"{source}: expected a file or folder to sample from, got a live source")
    stamps: list[float | None] = []
    with _open(source) as (container, stream):
        step, whole = 1 / _rate(stream), True
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    stamps.append(_stamp(container, packet))
                    whole = whole and not packet.is_corrupt
        except FFmpegError:
            whole = False
        known = sorted(stamp for stamp in stamps if stamp is not None)
        if len(known) < len(stamps):
            known = [i * step for i in range(len(stamps))]
        times = [stamp - known[0] for stamp in known]
        end = times[-1] + step if times else 0.0
        whole = whole and len(times) >= stream.frames and not _ends_early(container, stream, len(times), end)
    return times, whole


def _keep(
    walk: Iterable[tuple[float, np.ndarray | None]], picks: list[int], stop: bool
) -> tuple[dict[int, np.ndarray], list[float]]:
    """The picked images by index, and the times seen; stop: leave off after the last pick."""
    kept, seen = {}, []
    for i, (time, image) in enumerate(walk):
        seen.append(time)
        if image is not None:
            kept[i] = image
        if stop and picks and i == picks[-1]:
            break
    return kept, seen


def _folder_frames(folder: Source, fps: float) -> list[tuple[float, Path]]:
    """The images of a folder with their times, in natural order: frame2 comes before frame10."""
    if not 0 < fps < math.inf:
        raise ValueError(f"fps of a folder of frames: expected a rate above 0, got {fps}")
    files = [file for file in Path(str(folder)).glob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise VideoError(f"{folder}: a folder without frames (expected {', '.join(sorted(IMAGE_SUFFIXES))})")
    return [(i / fps, file) for i, file in enumerate(sorted(files, key=_natural))]


def _natural(file: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", file.name)  # every second part is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name


def _load(source: Source, file: Path, short_side: int | None) -> np.ndarray:
    try:
        with Image.open(file) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{source}: frame {file.name} cannot be read: {error}") from error
    if mode.startswith(("I", "F")):  # converting these to 8 bits would only clip them
        raise VideoError(f"{source}: frame {file.name}: expected 8 bits a channel, got mode {mode}")
    return np.array(upright.resize(_shrink(*upright.size, short_side), Image.Resampling.BOX))


def _convert(frame: Any, short_side: int | None) -> np.ndarray:
    width, height = _shrink(frame.width, frame.height, short_side)
    image = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()  # (H, W, 3)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise quarters, as np.rot90 counts
    return np.ascontiguousarray(np.rot90(image, turns))


def _shrink(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """The size that makes the shorter side at most `short_side` pixels."""
    short = min(width, height)
    if short_side is None or short <= short_side:
        return width, height
    return round(width * short_side / short), round(height * short_side / short)
