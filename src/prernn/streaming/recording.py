"""Labeled clips from a source, in the layout that action recognition trains on: ``root/<part>/<label>/NNNN.mp4``.

Clips are cut on a timer (`record_times`) or by keys (`record_keys`), and encoded while their frames arrive, so that
memory stays constant. A clip has the source's own rate: if a camera jitters or stalls, frames are held or dropped, so
that time in the clip is real time.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prernn.media.encoding import write_video
from prernn.media.source import Address, VideoError, locate
from prernn.media.video import probe
from prernn.streaming.pace import FOLDER_RATE, Counts, Pace
from prernn.streaming.sources.moments import moments
from prernn.streaming.sources.source import Source
from prernn.streaming.watch import of_one_size

ASKED = 15
"""First frames of a live source, from which its rate is estimated."""

READ_AHEAD = 16
"""Number of frames that may wait for the encoder."""

Say = Callable[[str], None]
"""Shows a line about the progress, in place of the previous one."""

Key = Callable[[], str | None]
"""Returns the key pressed since the last call, or None."""


class Footage:
    """A source's frames at its own rate, read once, in a thread parallel to the encoding.

    A lost source is never reconnected, because a clip must have no hole. It ends if no frame comes for ``timeout``.

    Args:
        source: anything that `prernn.media.video.read_frames` reads.
        timeout: seconds without a frame after which it counts as lost; None as in `prernn.Source`.

    Attributes:
        rate: frames a second: for a file what it states, for a live source the rate of its first frames.

    Raises:
        VideoError: the source can't be read.
    """

    def __init__(self, source: Address, timeout: float | None = None):
        self.source = source
        live = locate(source).live
        stated = FOLDER_RATE if live else probe(source, fps=FOLDER_RATE).fps
        options: dict[str, Any] = {"drop": "none", "reconnect": "never", "timeout": timeout}
        self._reader = Source(source, **options, queue=READ_AHEAD, fps=stated)
        head = list(itertools.islice(self._reader, ASKED if live else 1))
        times = [frame.time for frame in head]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times) if later > earlier]
        self.rate = 1 / statistics.median(gaps) if gaps else stated
        pace = Pace(self.rate)
        self.counts: Counts = pace.counts
        self._moments = moments(itertools.chain(head, self._reader), pace)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        return self

    def __next__(self) -> tuple[float, np.ndarray]:
        return next(self._moments)[:2]

    def close(self) -> None:
        """Closes the source."""
        self._reader.close()


def clip_folder(root: str | Path, part: str, label: str) -> Path:
    """``root/part/label``.

    Raises:
        ValueError: the label can't be the name of a folder.
    """
    if not label or label != label.strip() or label.startswith(".") or any(sign in label for sign in '/\\:\0\n"'):
        raise ValueError(f"label: expected a name that a folder can have, got {label!r}")
    return Path(root) / part / label


def next_free(folder: Path) -> Path:
    """``folder/NNNN.mp4`` with the number after the highest there, whatever its suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(entry.stem) for entry in folder.iterdir() if entry.stem.isascii() and entry.stem.isdigit()]
    return folder / f"{max(numbers, default=0) + 1:04d}.mp4"


def record_times(
    footage: Footage, folder: Path, *, seconds: float, times: int, pause: float, say: Say
) -> Iterator[Path]:
    """Records clips of a fixed length, each after a countdown; yields the file of each clip when it is complete.

    Args:
        footage: the source.
        folder: folder of the label.
        seconds: length of each clip.
        times: number of clips.
        pause: seconds before each clip.
        say: shows the countdown.

    Raises:
        ValueError: numbers out of range; also VideoError, a ValueError, if the source ends before the last clip.
        OSError: a clip can't be written.
    """
    if not 0 < seconds < math.inf or times < 1 or not 0 <= pause < math.inf:
        raise ValueError(f"expected seconds above 0, times from 1 and a pause from 0, got {seconds}, {times}, {pause}")
    length = max(1, round(seconds * footage.rate))
    for number in range(1, times + 1):
        name = f"{folder.name}, {number} of {times}"
        _count_down(footage, pause, name, say)
        yield _written(folder, _exactly(footage, length, name, say), footage.rate)


def record_keys(footage: Footage, folders: Mapping[str, Path], key: Key, say: Say) -> Iterator[Path]:
    """Records by keys: a label's key starts and ends its clip; yields the file of each clip when it is complete.

    Another label's key ends the clip and starts its own; any other key ends the recording, as does the source's end.

    Args:
        footage: the source.
        folders: folders of the labels, by key.
        key: the keyboard.
        say: shows the progress.

    Raises:
        VideoError: the source breaks off; the clip that was being recorded is left out.
        OSError: a clip can't be written.
    """
    waiting = ", ".join(f"{name} {folder.name}" for name, folder in folders.items()) + "; another key ends"
    for _, picture in footage:
        say(waiting)
        pressed, first = key(), picture
        while pressed is not None and pressed in folders:
            say(f"recording {folders[pressed].name}: {pressed} ends")
            ends: list[tuple[str, np.ndarray]] = []
            shown = itertools.chain([first], _until_key(footage, key, ends))
            yield _written(folders[pressed], shown, footage.rate)
            if not ends or ends[0][0] == pressed:
                pressed = None
            else:
                pressed, first = ends[0]
        if pressed is not None:
            return


def _written(folder: Path, pictures: Iterable[np.ndarray], rate: float) -> Path:
    path = next_free(folder)
    write_video(path, of_one_size(pictures), rate)
    return path


def _count_down(footage: Footage, pause: float, name: str, say: Say) -> None:
    start = None
    for time, _ in footage:
        start = time if start is None else start
        if time >= start + pause:
            return
        say(f"{name}: in {math.ceil(start + pause - time)}")
    raise _ended(footage)


def _exactly(footage: Footage, length: int, name: str, say: Say) -> Iterator[np.ndarray]:
    for number in range(length):
        following = next(footage, None)
        if following is None:
            raise _ended(footage)
        say(f"{name}: recording, {(length - number) / footage.rate:.1f} s")
        yield following[1]


def _ended(footage: Footage) -> VideoError:
    return VideoError(f"{footage.source}: ended before the last clip was whole")


def _until_key(footage: Footage, key: Key, ends: list[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
    """Pictures until a key is pressed; the key is put into the list together with the picture at that moment."""
    for _, picture in footage:
        pressed = key()
        if pressed is not None:
            ends.append((pressed, picture))
            return
        yield picture
