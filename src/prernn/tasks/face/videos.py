"""The videos of a face data set on disk: their list, their annotation files, and their frames in order."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from prernn.media.video import VideoError, read_frames
from prernn.tasks.face.landmarks import EYE_CORNERS, FIRST_LINE, read_pts


class FaceVideo(NamedTuple):
    """A video, which of its frames (0-based; None lets the task's sampling choose), and whether with detected boxes."""

    path: str
    frames: range | None = None
    detected: bool = False


def annotations(path: str) -> Path:
    """The folder with the .pts files of a video."""
    return Path(path).parent / "annot"


def numbered(folder: Path) -> list[Path]:
    """The .pts files of a folder, one per frame, which must be numbered from 1 without a gap.

    Raises:
        VideoError: there are none, or one has another name or is missing.
    """
    files = {}
    for file in sorted(folder.glob("*.pts")):
        if not file.stem.isdecimal():
            raise VideoError(f"{file}: expected a name such as 000001.pts")
        files[int(file.stem)] = file
    if not files:
        raise VideoError(f"{folder}: expected annotations such as 000001.pts, found none")
    absent = set(range(1, len(files) + 1)) - set(files)
    if absent:
        raise VideoError(f"{folder}: no annotation for frame {min(absent)} ({min(absent):06d}.pts)")
    return [files[number] for number in range(1, len(files) + 1)]


def checked_points(file: Path, base: int, height: int, width: int, allow_outside: bool) -> Tensor:
    """The landmarks ``(68, 2)`` of a frame, 0-based.

    Raises:
        VideoError: they are missing or malformed, are outside the picture, or the eye corners coincide.
    """
    points = read_pts(file, base)  # (68, 2)
    edge = points.new_tensor([width, height]) - 0.5
    outside = ((points < -0.5) | (points > edge)).any(1)
    if bool(outside.any()) and not allow_outside:
        index = int(outside.nonzero()[0])
        place = f"({points[index, 0]:g}, {points[index, 1]:g})"
        raise VideoError(
            f"{file}:{FIRST_LINE + index}: landmark {index} is outside the picture of {width} x {height} pixels, "
            f"at {place} counted from 0 (see allow_outside, base)"
        )
    left, right = EYE_CORNERS
    if bool((points[left] == points[right]).all()):
        raise VideoError(f"{file}:{FIRST_LINE + right}: expected eye corners apart, got two at one place")
    return points


def subsets(root: Path, seed: int) -> dict[str, list[str]]:
    """Ids of the videos for "train", "test" and, if listed, "val": from the lists in root, else split 80/20 by video.

    Raises:
        ValueError: no videos, one list without the other, an id that is missing or repeated; list and line are named.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder with face videos, found none")
    names = sorted(path.parent.name for path in root.glob("*/vid.avi"))
    if not names:
        raise ValueError(f"{root}: expected face videos <id>/vid.avi with <id>/annot/000001.pts, found none")
    lists = {name: root / f"{name}.txt" for name in ("train", "val", "test")}
    present = [name for name, path in lists.items() if path.is_file()]
    if present:
        if "train" not in present or "test" not in present:
            raise ValueError(f"{root}: expected both train.txt and test.txt, or none, found {', '.join(present)}")
        return _read_lists({name: lists[name] for name in present}, set(names))
    if len(names) < 2:
        raise ValueError(f"{root}: expected at least 2 face videos to split, found 1")
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(max(round(0.8 * len(names)), 1), len(names) - 1)
    train, test = (sorted(names[i] for i in part) for part in (order[:count], order[count:]))
    return {"train": train, "test": test}


def _read_lists(lists: dict[str, Path], known: set[str]) -> dict[str, list[str]]:
    seen: dict[str, str] = {}
    found: dict[str, list[str]] = {name: [] for name in lists}
    for name, path in lists.items():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            where, video = f"{path}:{number}", line.strip()
            if not video:
                continue
            if video not in known:
                raise ValueError(f"{where}: expected the id of a face video, got {video!r}: no {video}/vid.avi")
            if video in seen:
                raise ValueError(f"{where}: {video} is listed twice, first in {seen[video]}")
            seen[video] = where
            found[name].append(video)
        if not found[name]:
            raise ValueError(f"{path}: expected at least one id, got none")
    return found


class FrameReader:
    """Reads the frames of a video in order and remembers its position, so that consecutive clips decode it once."""

    def __init__(self) -> None:
        self.source: tuple = ()
        self.frames: Iterator[tuple[float, np.ndarray]] = iter(())
        self.next = 0  # index of the next frame

    def __reduce__(self):
        return FrameReader, ()  # a decoder can't be sent to another process, nor copied

    def read(self, path: str, picks: Sequence[int], tolerate: bool, deinterlace: bool = False) -> list[np.ndarray]:
        """The frames at ascending 0-based indices; fewer if the video ends early and ``tolerate`` allows it.

        Raises:
            VideoError: the video can't be read, or has no such frames.
        """
        source = (path, tolerate, deinterlace, os.getpid())  # an inherited open file is shared with the parent process
        if source != self.source or picks[0] < self.next:
            self.frames, self.next = read_frames(path, tolerate_truncation=tolerate, deinterlace=deinterlace), 0
        self.source = ()  # in case it raises
        kept = []
        for pick in picks:
            found = next(itertools.islice(self.frames, pick - self.next, None), None)
            if found is None:
                break
            kept.append(found[1])
            self.next = pick + 1
        if not kept or (len(kept) < len(picks) and not tolerate):
            raise VideoError(f"{path}: it ends before its frame {picks[len(kept)] + 1}, which has an annotation")
        if len(kept) == len(picks):
            self.source = source
        return kept
