"""What ``prernn stream`` does with a source: the form of each task's watcher, and the loop around it."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from prernn.streaming.pace import FOLDER_RATE, Pace
from prernn.streaming.prediction import Prediction

if TYPE_CHECKING:  # imported when first used, as they load PyAV
    from prernn.media.source import Address
    from prernn.streaming.sources.moments import Moment
    from prernn.streaming.sources.source import Source


class Watcher(Protocol):
    """Follows a source frame by frame with a network, and reports and draws what it sees."""

    def see(self, index: int, time: float, frame: np.ndarray) -> list[Any]:
        """Takes the next frame, uint8 ``(H, W, 3)`` at ``time`` seconds; returns the rows that are due, plain dicts."""

    def finish(self) -> list[Any]:
        """The rows that are due when the source has ended."""

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A copy of ``frame``, the one seen last, with the latest answer on it."""


@runtime_checkable
class Interruptible(Protocol):
    """A watcher that needs to know where pictures are missing."""

    def interrupted(self) -> None:
        """Tells it that the source was lost before the next picture, and has come back with it."""


def watch(
    watcher: Watcher,
    source: "Address | Source",
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
    """Runs a watcher over a source in one pass, at constant memory; returns how many frames it saw.

    Ctrl-C ends it after the current frame, with complete files (pressed twice, it interrupts at once). If a source
    breaks off, the files contain the frames before, then an error is raised.

    Args:
        watcher: what follows the source.
        source: anything that `prernn.media.video.read_frames` reads, or a `prernn.Source`, which says what to do with
            frames that come too fast and lost connections, and has its own ``fps`` and ``deinterlace``. Rows tell how
            many frames were ``dropped`` since the previous row and how often it ``reconnected``; dicts only if that is
            not 0.
        rows: context manager of a function that writes one row (`prernn.streaming.rows.csv_rows`, `json_rows`).
        video: an mp4 with the frames as the watcher draws them, at the rate of the clock or else the mean rate of the
            source, in the size of the first frame, to which later ones of a source that changes its size are scaled.
        on_row: called with each row as it arrives.
        limit: stop after the watcher has seen this many frames.
        fps: the rate of a folder of frames, which has no time stamps; None takes the clock's, or else 25.
        deinterlace: deinterlace frames that are marked as interlaced.
        pace: the clock of the watcher's network: the watcher sees one frame per tick, and the frames that it counts are
            ticks. None lets it see all frames of the source as they come.
        frames: times and what the watcher sees, if the source is no video.

    Raises:
        ValueError: ``limit < 1``; also VideoError, a ValueError, for a source that can't be read or breaks off.
        OSError: a file can't be written.
    """
    from prernn.media.source import VideoError
    from prernn.streaming.sources.moments import Moment, moments
    from prernn.streaming.sources.source import as_source

    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 frame, got {limit}")
    broken, pace = list[VideoError](), pace or Pace(None)
    fps = fps or pace.rate or FOLDER_RATE
    opened = None if frames is not None else as_source(source, fps=fps, deinterlace=deinterlace)
    reader: Any = opened if frames is None else frames
    with contextlib.closing(reader), contextlib.ExitStack() as stack:
        seeable = itertools.chain([next(reader)], _until_broken(reader, broken))  # raises if nothing is readable
        receivers = [stack.enter_context(rows)] if rows is not None else []
        receivers += [on_row] if on_row is not None else []
        interrupted = stack.enter_context(_noting_interrupt(opened))
        seen = moments(seeable, pace) if frames is None else (Moment(*item) for item in pace(seeable))
        shown = _run(watcher, itertools.islice(seen, limit), receivers, interrupted)
        count = sum(1 for _ in shown) if video is None else _draw(watcher, shown, Path(video), opened, fps, pace)
    if broken:
        raise broken[0]
    return count


Seen = Iterator[tuple[float, np.ndarray]]


def _draw(watcher: Watcher, seen: Seen, video: Path, source: "Source | None", fps: float, pace: Pace) -> int:
    """Writes what the watcher draws; returns the number of frames."""
    from prernn.media import encoding

    drawn: Seen = ((time, watcher.draw(frame)) for time, frame in seen)
    rate, drawn = (pace.rate, drawn) if pace.rate else _output_rate(source, fps, drawn)
    return encoding.write_video(video, of_one_size(picture for _, picture in drawn), rate)


def _run(
    watcher: Watcher,
    moments: Iterable["Moment"],
    receivers: Sequence[Callable[[Any], None]],
    interrupted: Callable[[], bool],
) -> Seen:
    """Yields the time and image of each moment after passing its rows, with what was lost, to the receivers."""
    lost = {"dropped": 0, "reconnected": 0}  # since the previous row
    for index, moment in enumerate(moments):
        if moment.reconnected and isinstance(watcher, Interruptible):
            watcher.interrupted()
        lost = {name: count + getattr(moment, name) for name, count in lost.items()}
        lost = _hand_out(watcher.see(index, moment.time, moment.picture), receivers, lost)
        yield moment.time, moment.picture
        if interrupted():
            break
    _hand_out(watcher.finish(), receivers, lost)


def _hand_out(rows: list[Any], receivers: Sequence[Callable[[Any], None]], lost: dict[str, int]) -> dict[str, int]:
    """Passes the rows to their receivers, the first with what was lost; returns what is lost from then on."""
    for row in rows:
        if isinstance(row, Prediction):
            row, lost = replace(row, dropped=lost["dropped"], reconnected=lost["reconnected"]), dict.fromkeys(lost, 0)
        elif isinstance(row, dict):
            row, lost = row | {name: count for name, count in lost.items() if count}, dict.fromkeys(lost, 0)
        for receive in receivers:
            receive(row)
    return lost


def _until_broken(frames: Iterator, broken: list) -> Iterator:
    """The frames until the source breaks off; the error is put into ``broken``."""
    from prernn.media.video import VideoError

    try:
        yield from frames
    except VideoError as error:
        broken.append(error)


def of_one_size(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures, scaled to the size of the first if theirs differs."""
    import cv2

    size = None
    for picture in pictures:
        size = size or picture.shape[1::-1]  # (W, H)
        yield picture if picture.shape[1::-1] == size else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _output_rate(source: "Source | None", fps: float, results: Seen) -> tuple[float, Seen]:
    """Mean frames per second of the source, and all of the pictures."""
    from prernn.media.video import probe

    if source is not None and not source.live:
        return probe(source.address, fps=fps).fps, results
    head = list(itertools.islice(results, 10))  # a live source may not open twice, so its first frames tell
    span = head[-1][0] - head[0][0]
    return (len(head) - 1) / span if span > 0 else fps, itertools.chain(head, results)


@contextlib.contextmanager
def _noting_interrupt(source: "Source | None") -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed, as a function; the first time it interrupts only waiting for a source."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: False  # ignored by the caller, or not in the main thread
        return
    pressed = threading.Event()

    def note(number, stack) -> None:
        pressed.set()
        if source is not None:
            source.stop()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
