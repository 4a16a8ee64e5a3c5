"""NVGesture's lists: which gestures occur in which video, and when."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from prernn.reports.files import list_lines

NO_GESTURE = "no gesture"
"""Name of the network's output 0."""

SHARED_CLOCK = {"depth": "color", "color": "depth"}
"""Sensors of one camera, whose videos must have the same length."""


class Sign(NamedTuple):
    """One annotated gesture: its label from 1 on, the frames ``begin`` to ``end - 1``, and where this is written."""

    label: int
    begin: int
    end: int
    where: str


@dataclass(frozen=True)
class GestureVideo:
    """A recording and its gestures in order of time.

    Attributes:
        path: path of the recording's folder, the same for all sensors; followed by "#2" for the second of the windows
            in which it is read.
        file: the sensor's video, whether it exists or not.
        signs: its gestures, or the one in the window.
        bounds: first frame to read, and the one after the last; None for the begin or end of the video.
        twin: the other sensor of the same camera, whose video must have the same length, or None.
    """

    path: str
    file: str
    signs: tuple[Sign, ...]
    bounds: tuple[int | None, int | None] = (None, None)
    twin: str | None = None

    @property
    def where(self) -> str:
        """List and line of the recording."""
        return self.signs[0].where


def class_names(path: Path) -> list[str] | None:
    """The names in ``classes.txt``, one line ``LABEL NAME`` each, labels from 1 on; None if there is no such file.

    Raises:
        ValueError: lines of another form, or repeated names; the message names file and line.
    """
    if not path.is_file():
        return None
    names: list[str] = []
    for where, line in list_lines(path):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise ValueError(f"{where}: expected '{len(names) + 1} NAME', got {line!r}")
        if name.strip() in (*names, NO_GESTURE):
            raise ValueError(f"{where}: expected a unique name, got {name.strip()!r}")
        names.append(name.strip())
    return names


def recordings(path: Path, root: Path, modality: str, gestures: int = 0) -> list[GestureVideo]:
    """The recordings that a list names, in its order, as one sensor saw them.

    Args:
        path: of the list.
        root: folder that contains the recordings.
        modality: the sensor.
        gestures: largest allowed label, 0 for any.

    Raises:
        ValueError: a missing list, or a line that is malformed or contradicts another; the message names list and line.
    """
    videos: dict[str, GestureVideo] = {}
    for where, line in list_lines(path):
        folder, sensors, label = _parsed(line, where)
        if gestures and label > gestures:
            raise ValueError(f"{where}: expected a label from 1 to {gestures}, got {label}")
        if modality not in sensors:
            raise ValueError(f"{where}: expected the sensor {modality!r}, got {sorted(sensors)}")
        name, begin, end = sensors[modality]
        other = sensors.get(SHARED_CLOCK.get(modality, ""))
        twin = None if other is None else _video_file(root / folder, other[0])
        sign = Sign(label, begin, end, where)
        found = GestureVideo(str(root / folder), _video_file(root / folder, name), (sign,), twin=twin)
        before = videos.get(found.path)
        videos[found.path] = found if before is None else _joined(before, found)
    return list(videos.values())


def apart(video: GestureVideo, pad: int) -> Iterator[GestureVideo]:
    """A record for each gesture of a recording, with its interval and ``pad`` frames before and after it.

    The window ends halfway to the next gesture if that is nearer.
    """
    signs = video.signs
    for n, sign in enumerate(signs):
        start, stop = max(0, sign.begin - pad), sign.end + pad
        if n > 0:
            start = max(start, (signs[n - 1].end + sign.begin) // 2)
        if n + 1 < len(signs):
            stop = min(stop, (sign.end + signs[n + 1].begin) // 2)
        path = video.path if n == 0 else f"{video.path}#{n + 1}"
        yield replace(video, path=path, signs=(sign,), bounds=(start, stop))


def _parsed(line: str, where: str) -> tuple[str, dict[str, tuple[str, int, int]], int]:
    """Folder, {sensor: (file, begin, end)} and label of a line."""
    form = "path:FOLDER SENSOR:FILE:BEGIN:END ... label:LABEL"
    folders, labels = [], []
    sensors: dict[str, tuple[str, int, int]] = {}
    for part in line.split():
        if match := re.fullmatch(r"path:(.+)", part):
            folders.append(match[1])
        elif match := re.fullmatch(r"label:([1-9]\d*)", part):
            labels.append(int(match[1]))
        elif (match := re.fullmatch(r"(\w+):([^:]+):(\d+):(\d+)", part)) and match[1] not in sensors:
            sensors[match[1]] = (match[2], int(match[3]), int(match[4]))
            if sensors[match[1]][1] >= sensors[match[1]][2]:
                raise ValueError(f"{where}: expected BEGIN below END, got {part!r}")
        else:
            raise ValueError(f"{where}: expected '{form}', got {part!r}")
    if len(folders) != 1 or len(labels) != 1 or not sensors:
        raise ValueError(f"{where}: expected '{form}', got {line!r}")
    if "duo_left" in sensors:  # the lists omit what was computed from this camera's pictures, and its second picture
        name, begin, end = sensors["duo_left"]
        for sensor in ("duo_right", "duo_disparity"):
            sensors.setdefault(sensor, (name.replace("duo_left", sensor), begin, end))
    return folders[0], sensors, labels[0]


def _video_file(folder: Path, name: str) -> str:
    """``FOLDER/NAME.avi``, or a folder of frames NAME if there is one instead."""
    video = folder / f"{name}.avi"
    return str(folder / name if (folder / name).is_dir() and not video.exists() else video)


def _joined(video: GestureVideo, other: GestureVideo) -> GestureVideo:
    """A recording with the gesture of one more line."""
    [sign] = other.signs
    if other.file != video.file:
        raise ValueError(f"{sign.where}: expected {video.file} as in {video.where}, got {other.file}")
    for before in video.signs:
        if sign.begin < before.end and before.begin < sign.end:
            raise ValueError(
                f"{sign.where}: expected gestures that don't overlap, "
                f"got {sign.begin}:{sign.end} beside {before.begin}:{before.end} of {before.where}"
            )
    return replace(video, signs=tuple(sorted((*video.signs, sign), key=lambda sign: sign.begin)))
