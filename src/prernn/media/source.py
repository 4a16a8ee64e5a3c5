"""What a source of video is, and how it is opened: a file, a folder of frames, a camera, a network stream or a pipe."""

import math
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
from av.error import FFmpegError
from av.stream import Disposition

Address = str | Path | int
"""How a source is given: a path, "camera:0" or a camera's number, a URL, "-"."""


IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


VIDEO_SUFFIXES = {".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v"}


VIDEO_SUFFIXES |= {".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".ts"}


VIDEO_SUFFIXES |= {".vob", ".webm", ".wmv", ".y4m"}


STREAM_TIMEOUT = 10.0  # default number of seconds without data before a network stream counts as lost


_GLANCE = 100  # milliseconds between checks whether a silent pipe is still wanted


_URL = re.compile(r"(rtsps?|https?|rtmps?|udp|rtp|srt|tcp)://", re.IGNORECASE)


_CAMERA = re.compile(r"camera:(.+)|(\d+)|/dev/video(\d+)")


_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art, thumbnails of a timeline


class VideoError(ValueError):
    """A video that cannot be used. The message is one line: the source and the cause."""


class Place(NamedTuple):
    """Where a source is: its kind, av.open's name for it, and its arguments."""

    kind: Literal["file", "folder", "camera", "stream", "pipe"]
    name: str
    arguments: dict[str, Any]

    @property
    def live(self) -> bool:
        """Whether it can be read only once and has no end known in advance."""
        return self.kind not in ("file", "folder")


def is_video(path: Path) -> bool:
    """Whether a path is a file with a video's suffix or a folder of frames, and not hidden."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES


def locate(source: Address) -> Place:
    """Finds out what a source is, without opening it.

    Raises:
        VideoError: there is no such source, or it is an empty file.
    """
    text = str(source)
    if isinstance(source, str) and _URL.match(text):
        options = {"rtsp_transport": "tcp"} if text.lower().startswith("rtsp") else {}
        return Place("stream", text, {"timeout": STREAM_TIMEOUT, "options": options})
    if source == "-":
        return Place("pipe", "pipe:0", {})
    there = not isinstance(source, int) and os.path.exists(text)
    if there and os.path.isdir(text):
        return Place("folder", text, {})
    if there and os.path.isfile(text):
        if os.path.getsize(text) == 0:
            raise VideoError(f"{source}: empty file (0 bytes)")
        return Place("file", f"file:{text}", {})  # with a protocol, so that a colon in the name has no meaning
    if not isinstance(source, Path) and (match := _CAMERA.fullmatch(text)):
        return Place("camera", *_camera(next(group for group in match.groups() if group)))
    if there:  # neither a file nor a folder: a named pipe, /dev/stdin, the <(...) of a shell
        return Place("pipe", f"file:{text}", {})
    raise VideoError(f"{source}: no such file or folder")


def _camera(name: str) -> tuple[str, dict[str, Any]]:
    """The name and arguments that av.open takes for a camera, given by number or by its name in the system."""
    if sys.platform == "darwin":
        return f"{name}:none", {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        if name.isdigit():  # DirectShow only has names
            cameras = [d.name for d in av.enumerate_input_devices("dshow") if "video" in d.media_types]
            name = cameras[int(name)] if int(name) < len(cameras) else name
        return f"video={name}", {"format": "dshow"}
    return f"/dev/video{name}" if name.isdigit() else name, {"format": "v4l2"}


class _Pipe:
    """A pipe that never blocks forever; FFmpeg does, in open(2) without a writer and in read(2) if the writer hangs."""

    def __init__(self, source: Address, over: Callable[[], bool]):
        path, self._over = str(source), over
        self._file = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # a shell's <(...), opened by name, does not report that its writer has already gone
        self._nameless = path != "-" and not os.path.exists(os.path.realpath(path))
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        """The bytes that have arrived, at least one; none if the last writer has gone or ``over`` returns True."""
        while not self._over():
            if self._poll.poll(_GLANCE) or self._nameless:
                try:
                    return os.read(self._file, size)
                except BlockingIOError:
                    continue
        return b""

    def close(self) -> None:
        os.close(self._file)


def _content(source: Address, place: Place, over: Callable[[], bool]) -> Any:
    """What av.open reads, as a context manager: a name, or for a pipe a file object of our own."""
    pipe = place.kind == "pipe" and sys.platform == "linux"  # other systems' polls do not wait for the first writer
    return closing(_Pipe(source, over)) if pipe else nullcontext(place.name)


@contextmanager
def opened(
    source: Address, timeout: float | None = None, opening: float = 0.0, over: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Any, Any]]:
    """Opens a source other than a folder for reading: (container, its video stream).

    Args:
        source: what to open.
        timeout: seconds without data before a network stream counts as lost; infinity waits forever, None means
            `STREAM_TIMEOUT`.
        opening: seconds that opening may take, even if ``timeout`` is shorter.
        over: called while a pipe is silent; if it returns True, the pipe ends.

    Raises:
        VideoError: the source can't be opened, is no video, or needs a decoder that is not available.
    """
    place = locate(source)
    with _content(source, place, over) as content, _container(source, place, content, timeout, opening) as container:
        if container.format.name == "tty":  # FFmpeg "plays" any .txt file as terminal art
            raise VideoError(f"{source}: not a video, but text")
        stream = _main_stream(container)
        if stream is None:
            raise VideoError(f"{source}: no video stream{', audio only' if container.streams.audio else ''}")
        if stream.codec_context is None:  # some releases of PyAV crash when asked to decode it
            raise VideoError(f"{source}: no decoder for the codec of this video")
        yield container, stream


def _container(source: Address, place: Place, content: Any, timeout: float | None, opening: float) -> Any:
    arguments = place.arguments
    if timeout is not None and "timeout" in arguments:
        limits = (max(timeout, opening), timeout)
        arguments = {**arguments, "timeout": limits if math.isfinite(timeout) else None}
    try:
        return av.open(content, **arguments)
    except FFmpegError as error:
        if place.kind == "file" and isinstance(error, av.error.InvalidDataError):
            raise VideoError(f"{source}: not a video, or cut off before its index") from error
        reason = cause(error, arguments.get("timeout"))
        raise VideoError(f"{source}: cannot open this {place.kind}: {reason}") from error


def _main_stream(container: Any) -> Any:
    """The video stream that a player shows: FFmpeg's choice, otherwise the one marked as default, or None."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _NO_VIDEO]
    best = container.streams.best("video") if streams else None  # it may be cover art
    marked = sorted(streams, key=lambda stream: not stream.disposition & Disposition.default)
    return next((stream for stream in streams if best is not None and stream.index == best.index), None) or next(
        iter(marked), None
    )


def is_stored(container: Any) -> bool:
    """Whether a network stream is a recording, which has an end: it states its length in seconds or bytes."""
    # a playlist's size is not the video's; some cameras state a length for pictures that never end
    sized = (container.size or 0) > 0 and container.format.name not in ("hls", "dash", "mpjpeg")
    return sized or container.duration is not None


def cause(error: FFmpegError, timeout: float | tuple[float, float] | None = None) -> str:
    """An FFmpeg error in a few words; ``timeout`` as in `opened`, or the pair of timeouts for opening and reading."""
    if isinstance(error, av.error.ExitError):  # the result of a timeout
        seconds = timeout[0] if isinstance(timeout, tuple) else timeout
        return f"no data for {STREAM_TIMEOUT if seconds is None else seconds:g} s"
    return error.strerror or type(error).__name__


def videos_in(source: Path) -> list[Path]:
    """The videos that a path stands for: a file, a folder of frames, or all videos in a folder and its subfolders.

    Raises:
        VideoError: there is no such file or folder, or it holds no video.
    """
    if not source.is_dir():
        if not source.is_file():
            raise VideoError(f"{source}: no such file or folder")
        return [source]
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in source.glob("[!.]*")):
        return [source]
    files = sorted(file for file in source.rglob("[!.]*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise VideoError(f"{source}: expected videos or frames in this folder, found none")
    return files
