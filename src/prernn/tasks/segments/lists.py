"""Lists of segments: which action is in which video, from when to when."""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from prernn.media.pieces import Timeline
from prernn.media.video import VideoError
from prernn.tasks.gesture.lists import class_names, recordings

Unit = Literal["seconds", "frames"]

COLUMNS: dict[tuple[str, str], Unit] = {("start", "end"): "seconds", ("start_frame", "end_frame"): "frames"}
"""The columns with begin and end, and their unit."""


class Segment(NamedTuple):
    """One annotated action: from ``start`` up to, but not including, ``end``; and where this is written."""

    start: float
    end: float
    label: str
    where: str


@dataclass(frozen=True)
class SegmentVideo:
    """A video and its segments, in order of time.

    Attributes:
        path: path of the file, or of the folder of frames.
        segments: empty if the list has a line with only the file's name: the video is then all background.
        unit: unit of start and end: seconds since the first frame, or numbers of frames from 0 on.
        where: list and line that name it first.
    """

    path: str
    segments: tuple[Segment, ...]
    unit: Unit
    where: str


def segment_videos(path: Path, root: Path) -> list[SegmentVideo]:
    """The videos that a list names, in its order.

    The list is a CSV with the columns ``file`` (below ``root``), ``start``, ``end`` (seconds, decimals) or
    ``start_frame``, ``end_frame`` (whole numbers from 0 on), and ``label``; the end is the first moment after the
    segment. A line whose other cells are empty names a video without segments.

    Raises:
        ValueError: a missing or empty list, unknown columns, unknown files, rows that are malformed, reversed or
            overlap with others; the message names list and line.
    """
    if not path.is_file():
        raise ValueError(f"{path.name}: list is absent from {path.parent}")
    videos: dict[str, SegmentVideo] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        columns = [name.strip() for name in next(reader, [])]
        begin, end, unit = _columns(columns, f"{path.name}:1")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path.name}:{reader.line_num}"
            if len(cells) != len(columns):
                raise ValueError(f"{where}: expected {len(columns)} cells ({', '.join(columns)}), got {len(cells)}")
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            name = row["file"]
            if not name or not (root / name).exists():
                raise ValueError(f"{where}: file {name or 'without a name'} is absent from {root}")
            video = videos.setdefault(name, SegmentVideo(str(root / name), (), unit, where))
            if row[begin] or row[end] or row["label"]:
                found = Segment(*_span(row[begin], row[end], unit, where), _label(row["label"], where), where)
                videos[name] = replace(video, segments=(*video.segments, found))
    if not videos:
        raise ValueError(f"{path.name}: expected at least one row, got none")
    return [_in_order(video) for video in videos.values()]


def _columns(columns: list[str], where: str) -> tuple[str, str, Unit]:
    """The names of begin and end, and their unit."""
    for (begin, end), unit in COLUMNS.items():
        if sorted(columns) == sorted(("file", begin, end, "label")):
            return begin, end, unit
    forms = " or ".join(f"file,{begin},{end},label" for begin, end in COLUMNS)
    raise ValueError(f"{where}: expected the columns {forms}, got {','.join(columns) or 'none'}")


def _span(begin: str, end: str, unit: Unit, where: str) -> tuple[float, float]:
    wanted = "seconds" if unit == "seconds" else "whole numbers of frames"
    try:
        start, stop = (float(begin), float(end)) if unit == "seconds" else (int(begin), int(end))
    except ValueError:
        raise ValueError(f"{where}: expected start and end in {wanted}, got {begin!r} and {end!r}") from None
    if not (math.isfinite(start) and math.isfinite(stop) and 0 <= start < stop):
        raise ValueError(f"{where}: expected a start from 0 on and an end after it, got {begin} to {end}")
    return start, stop


def _label(label: str, where: str) -> str:
    if not label:
        raise ValueError(f"{where}: expected a label, got none")
    return label


def _in_order(video: SegmentVideo) -> SegmentVideo:
    """The video with its segments ordered by start. Raises ValueError if two overlap."""
    segments = sorted(video.segments)
    for before, after in pairwise(segments):
        if after.start < before.end:
            raise ValueError(
                f"{after.where}: expected segments that don't overlap, got {after.start:g} to {after.end:g} beside "
                f"{before.start:g} to {before.end:g} of {before.where}"
            )
    return replace(video, segments=tuple(segments))


def check_within(video: SegmentVideo, line: Timeline) -> None:
    """Checks that a video is as long as its segments say; one frame too long is allowed, because seconds are rounded.

    Raises:
        VideoError: a segment ends after the video; the message names list and line.
    """
    seconds = video.unit == "seconds"
    length = line.duration + 1 / line.fps if seconds else len(line.times)
    for segment in video.segments:
        if segment.end > length:
            extent = f"{line.duration:.3f} s" if seconds else f"{len(line.times)} frames"
            raise VideoError(
                f"{segment.where}: expected a segment within the {extent} of {video.path}, "
                f"got {segment.start:g} to {segment.end:g}"
            )


def spans(video: SegmentVideo, line: Timeline, picks: list[int]) -> Iterator[tuple[int, int, str]]:
    """The steps ``begin`` to ``end - 1`` of each segment, and its label, if frame ``picks[i]`` is step i.

    A step is in a segment whose start is at or before its frame and whose end is after it; segments that fall between
    two steps are left out.
    """
    places = picks if video.unit == "frames" else [line.times[pick] for pick in picks]
    for segment in video.segments:
        inside = [i for i, place in enumerate(places) if segment.start - 1e-6 <= place < segment.end - 1e-6]
        if inside:
            yield inside[0], inside[-1] + 1, segment.label


def gesture_videos(path: Path, root: Path, modality: str) -> list[SegmentVideo]:
    """The recordings in a list like NVGesture's as one sensor saw them, with their gestures as segments.

    Their names are taken from ``classes.txt``, if it exists (`prernn.tasks.gesture.lists`).

    Raises:
        ValueError: as in `prernn.tasks.gesture.lists.recordings`.
    """
    names = class_names(root / "classes.txt")
    found = []
    for video in recordings(path, root, modality, len(names or ())):
        named = [(sign, names[sign.label - 1] if names else f"gesture {sign.label}") for sign in video.signs]
        segments = tuple(Segment(sign.begin, sign.end, name, sign.where) for sign, name in named)
        found.append(SegmentVideo(video.file, segments, "frames", video.where))
    return found


LAYOUTS: dict[str, Callable[[Path, Path, str], list[SegmentVideo]]] = {
    "segments": lambda path, root, _: segment_videos(path, root),
    "nvgesture": gesture_videos,
}
"""Functions that read each form of list: from the list, the root and the sensor to the videos."""
