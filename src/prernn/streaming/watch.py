"""What ``prernn stream`` does with a source: what follows it, one form for each task, and the way through it."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prernn.streaming.pace import FOLDER_RATE, Pace

if TYPE_CHECKING:  # at run time it, and with it PyAV, loads when first used
    from prernn.media.video import Source


class Watcher(Protocol):
    """Follows a source frame by frame with a network, and says and draws what it sees."""

    def see(self, index: int, time: float, frame: np.ndarray) -> list[Any]:
        """Takes the next frame, uint8 ``(H, W, 3)`` at ``time`` seconds; gives the rows that are due, plain dicts."""

    def finish(self) -> list[Any]:
        """The rows that are due when the source has ended."""

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A copy of ``frame``, the one seen last, with the latest answer on it."""


def watch(
    watcher: Watcher,
    source: "Source",
    *,
    rows: contextlib.AbstractContextManager[Callable[[Any], None]] | None = None,
    video: str | os.PathLike | None = None,
    on_row: Callable[[Any], None] | None = None,
    limit: int | None = None,
    fps: float | None = None,
    deinterlace: bool = False,
    pace: Pace | None = None,
    frames: Generator[tuple[float, Any], None, None] | None = None,
) -> int:
    """Lets a watcher see a source in one pass, at constant memory; returns how many frames it saw.

    Ctrl-C ends it after the current frame, with complete files (pressed twice it interrupts at once). A source
    that breaks off leaves the files of the frames before, then raises.

    Args:
        watcher: what follows the source.
        source: anything that `prernn.media.video.read_frames` reads.
        rows: gives, for the time it takes, a function that writes one row (`prernn.streaming.rows.csv_rows`,
            `json_rows`).
        video: an mp4 with the frames as the watcher draws them, at the rate of the clock or else the mean rate of the
            source, in the size of the first: those of a live source that changes its size are scaled to it.
        on_row: called with each row as it arrives.
        limit: stop after so many frames that the watcher has seen.
        fps: the rate of a folder of frames, which has no times of its own; None takes that of the clock, else 25.
        deinterlace: make progressive pictures of frames that are marked as interlaced.
        pace: the clock that the watcher's network keeps to: the watcher sees a frame a tick, and the frames that it
            counts are ticks. None lets it see all frames of the source as they come.
        frames: times and what the watcher sees, where the source is no video.

    Raises:
        ValueError: ``limit < 1``; VideoError, which is one, for a source that can't be read or breaks off.
        OSError: a file can't be written.
    """
    from prernn.media import video as videos

    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 frame, got {limit}")
    broken: list[videos.VideoError] = []
    pace = pace or Pace(None)
    fps = fps or pace.rate or FOLDER_RATE
    read = videos.read_frames(source, fps=fps, deinterlace=deinterlace, on_jump=pace.jumped_back)
    reader: Any = read if frames is None else frames
    with contextlib.closing(reader), contextlib.ExitStack() as stack:
        seeable = itertools.chain([next(reader)], _until_broken(reader, broken))  # raises where nothing is readable
        receivers = [stack.enter_context(rows)] if rows is not None else []
        receivers += [on_row] if on_row is not None else []
        interrupted = stack.enter_context(_noting_interrupt())
        seen = _run(watcher, itertools.islice(pace(seeable), limit), receivers, interrupted)
        count = sum(1 for _ in seen) if video is None else _draw(watcher, seen, Path(video), source, fps, pace)
    if broken:
        raise broken[0]
    return count


Seen = Iterator[tuple[float, np.ndarray]]


def _draw(watcher: Watcher, seen: Seen, video: Path, source: "Source", fps: float, pace: Pace) -> int:
    """Writes what the watcher draws; returns of how many frames."""
    from prernn.media import encoding

    drawn: Seen = ((time, watcher.draw(frame)) for time, frame in seen)
    rate, drawn = (pace.rate, drawn) if pace.rate else _output_rate(source, fps, drawn)
    return encoding.write_video(video, of_one_size(picture for _, picture in drawn), rate)


def _run(
    watcher: Watcher,
    frames: Iterable[tuple[float, np.ndarray]],
    receivers: Sequence[Callable[[Any], None]],
    interrupted: Callable[[], bool],
) -> Seen:
    """Yields the time and image of each frame, once the receivers have its rows."""
    for index, (time, frame) in enumerate(frames):
        _hand_out(watcher.see(index, time, frame), receivers)
        yield time, frame
        if interrupted():
            break
    _hand_out(watcher.finish(), receivers)


def _hand_out(rows: list[Any], receivers: Sequence[Callable[[Any], None]]) -> None:
    for row in rows:
        for receive in receivers:
            receive(row)


def _until_broken(frames: Iterator, broken: list) -> Iterator:
    """The frames up to where the source breaks off; the error goes into ``broken``."""
    from prernn.media.video import VideoError

    try:
        yield from frames
    except VideoError as error:
        broken.append(error)


def of_one_size(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures, scaled to the size of the first where theirs is another."""
    import cv2

    size = None
    for picture in pictures:
        size = size or picture.shape[1::-1]  # (W, H)
        yield picture if picture.shape[1::-1] == size else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _output_rate(source: "Source", fps: float, results: Seen) -> tuple[float, Seen]:
    """Mean frames per second of the source, and the pictures, none of which is lost."""
    from prernn.media.source import locate
    from prernn.media.video import probe

    if not locate(source).live:
        return probe(source, fps=fps).fps, results
    head = list(itertools.islice(results, 10))  # a live source may not open twice: its first frames tell
    span = head[-1][0] - head[0][0]
    return (len(head) - 1) / span if span > 0 else fps, itertools.chain(head, results)


@contextlib.contextmanager
def _noting_interrupt() -> Iterator[Callable[[], bool]]:
    """Says whether Ctrl-C was pressed, which interrupts nothing here the first time."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: False  # ignored by the caller, or not ours to take
        return
    pressed = threading.Event()

    def note(number, stack) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
