"""What a container says of time: stamps of frames, and where the video ends.

Times are seconds on the container's own clock, which need not start at zero.
"""

from typing import Any

import av

FROM_ZERO = ("matroska,webm", "nut", "asf")
"""Containers whose length counts from time zero, wherever their first frame is."""


def rate(container: Any, stream: Any) -> float:
    """Mean frames per second, 25 where the container states none."""
    if container.format.name == "avi" and stream.guessed_rate:
        return float(stream.guessed_rate)  # its own may be that of its clock, with empty frames in between
    return float(stream.average_rate or stream.guessed_rate or 25)


def stamp(container: Any, item: Any) -> float | None:
    """Presentation time of a frame or packet."""
    # AVI stores no presentation times: FFmpeg's guesses run backwards, the decoding order is right.
    ticks = item.dts if container.format.name == "avi" else item.pts
    return None if ticks is None else float(ticks * item.time_base)


def stated_frames(container: Any, stream: Any) -> int | None:
    """How many frames are shown as the container states it, or None."""
    index = [entry.timestamp for entry in stream.index_entries if not entry.is_discard]
    if not stream.frames or not index:
        return stream.frames or None
    step = (index[-1] - index[0]) / max(len(index) - 1, 1)
    if container.format.name == "avi" and index[-1] + step < 0.95 * stream.frames:
        return stream.frames  # the end of the file is lost, and its index with it
    return len(index)  # without what an edit list leaves out, and the empty frames of an AVI


def stated_end(container: Any, stream: Any) -> float | None:
    """Where the video ends, as its container states it, or None."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # its own duration shrinks with a truncated file
    if container.format.name in FROM_ZERO:
        return _length(container, stream)
    length, start = _length(container, stream), stream.start_time
    return None if length is None else length + float((start or 0) * stream.time_base)


def stated_length(container: Any, stream: Any, first: float | None) -> float | None:
    """Seconds from the first frame, at ``first``, to the end that the container states, or None."""
    end = stated_end(container, stream)
    if end is None:
        return None
    length = end if container.format.name == "avi" or first is None else end - first  # an AVI starts at zero
    return length if length > 0 else None


def _length(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if length := _matroska_length(stream.metadata.get("DURATION", "")):
        return length
    if container.duration is not None and len(container.streams) == 1:  # else the sound may be longer
        return container.duration / av.time_base
    return None


def _matroska_length(text: str) -> float | None:
    """The seconds in Matroska's own tag of a track, such as 00:00:07.000000000."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def ends_early(container: Any, stream: Any, count: int, first: float, last: float) -> str:
    """Says so where a video clearly ends before what its container states.

    The slack of 5 % and two frames is for rounding and for AVI files that count frames they do not hold.

    Args:
        container: of the video.
        stream: likewise.
        count: frames that there were.
        first: time of the first frame.
        last: time of the last one.
    """
    stated = stated_end(container, stream)
    if stated is None or 0 < stream.frames <= count:
        return ""
    step = 1 / rate(container, stream)
    end, slack = last + step, 0.05 * max(stated - first, 0) + 2 * step
    return "" if end >= stated - slack else f"it ends at {end - first:.2f} s of {stated - first:.2f} s"


def begins_with_key(container: Any, stream: Any) -> bool:
    """Whether the container's index says that its first frame is a key frame, as packets of damaged ones do not."""
    index = stream.index_entries
    if container.format.name == "mpeg":  # FFmpeg has an entry for every packet, and calls each a key frame
        return False
    return len(index) > 0 and index[0].is_keyframe and index[0].timestamp <= (stream.start_time or 0)


def decodable(stamps: list[tuple[float | None, bool]]) -> list[float | None]:
    """The times of the packets that a decoder makes frames of, of (time, whether it is a key frame) in file order.

    A recording may start before its first key frame; and what is shown before a key frame hangs on frames before it.
    """
    first = next((i for i, (_, key) in enumerate(stamps) if key), 0)
    start = stamps[first][0] if stamps else None
    times = [time for time, _ in stamps[first:]]
    return times if start is None or first == 0 else [time for time in times if time is None or time >= start]
