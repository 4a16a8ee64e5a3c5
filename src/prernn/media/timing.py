"""What a container says about time: the time stamps of frames, and where the video ends.

Times are seconds on the container's own clock, which need not start at zero.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import av
from av.error import FFmpegError

FROM_ZERO = ("matroska,webm", "nut", "asf")
"""Containers whose length counts from time zero, no matter when their first frame is."""


CLOCKLESS = ("mpjpeg",)
"""Containers of live pictures without time stamps: FFmpeg stamps them as if there were 25 per second, but the time of
a camera's picture is when it arrives."""


MOST_FPS = 1000
"""A rate above this is the tick rate of a clock, not a frame rate."""


def rate(container: Any, stream: Any) -> float:
    """Mean frames per second, 25 if the container states none."""
    mean = stream.average_rate or stream.guessed_rate or 25
    if stream.guessed_rate and (container.format.name == "avi" or mean > MOST_FPS):
        mean = stream.guessed_rate  # an AVI may state the rate of its clock, with empty frames in between
    return float(mean)


def header_frames(container: Any, stream: Any) -> int:
    """The number of frames in the container's header, 0 if there is none or it is implausible."""
    # a file written to a pipe has a made-up number; in any container that counts frames, one takes at least 8 bytes
    return stream.frames if 8 * stream.frames <= (container.size or 0) else 0


def stamp(container: Any, item: Any) -> float | None:
    """Presentation time of a frame or packet in seconds, or None."""
    # AVI stores no presentation times: FFmpeg's guesses may go backwards, but the decoding times are right.
    ticks = item.dts if container.format.name == "avi" else item.pts
    return None if ticks is None else float(ticks * item.time_base)


def stated_frames(container: Any, stream: Any) -> int | None:
    """The number of frames shown, as the container states it, or None."""
    index = [entry.timestamp for entry in stream.index_entries if not entry.is_discard]
    stated = header_frames(container, stream)
    if not stated or not index:
        return stated or None
    step = (index[-1] - index[0]) / max(len(index) - 1, 1)
    if container.format.name == "avi" and index[-1] + step < 0.95 * stated:
        return stated  # the end of the file is lost, including its index
    return len(index)  # without frames that an edit list leaves out, and without the empty frames of an AVI


def stated_end(container: Any, stream: Any) -> float | None:
    """When the video ends, as its container states it, or None."""
    if container.format.name == "avi":  # its own duration shrinks with a truncated file
        frames = header_frames(container, stream)
        return float(frames / stream.average_rate) if frames and stream.average_rate else None
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
    if stream.duration is not None and container.format.name != "asf":  # ASF: that of the whole file
        return float(stream.duration * stream.time_base)
    if length := _matroska_length(stream.metadata.get("DURATION", "")):
        return length
    if container.duration is not None and len(container.streams) == 1:  # otherwise the sound may be longer
        return container.duration / av.time_base
    return None


def _matroska_length(text: str) -> float | None:
    """Seconds from Matroska's duration tag of a track, such as 00:00:07.000000000; None if it is not of this form."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def time_held(item: Any) -> float:
    """How many seconds a frame or packet is shown, as it states it; 0 if it doesn't."""
    return float((item.duration or 0) * (item.time_base or 0))


def ends_early(container: Any, stream: Any, count: int, first: float, last: float, held: float) -> str:
    """A message if a video clearly ends earlier than its container states, "" otherwise.

    The slack of 5 % and two frames allows for rounding and for AVI files that count frames they do not contain.

    Args:
        container: of the video.
        stream: of the video.
        count: number of frames found.
        first: time of the first frame.
        last: time of the last frame.
        held: seconds that the last frame is shown, 0 if unknown.
    """
    stated = stated_end(container, stream)
    if stated is None or 0 < header_frames(container, stream) <= count:
        return ""
    step = 1 / rate(container, stream)
    end, slack = last + max(step, held), 0.05 * max(stated - first, 0) + 2 * step
    return "" if end >= stated - slack else f"it ends at {end - first:.2f} s of {stated - first:.2f} s"


class Stamp(NamedTuple):
    """When a packet's frame is shown, for how long, when it is decoded, all in seconds; whether it is a key frame."""

    shown: float | None
    held: float
    decoded: float | None
    key: bool


def stamps(container: Any, stream: Any) -> tuple[list[Stamp], bool]:
    """Stamps of all packets that give a frame, in file order, without decoding; and whether all packets are intact."""
    found, whole = [], True
    try:
        for packet in container.demux(stream):
            if _is_shown(stream, packet):
                decoded = None if packet.dts is None else float(packet.dts * packet.time_base)
                found.append(Stamp(stamp(container, packet), time_held(packet), decoded, packet.is_keyframe))
                whole = whole and not packet.is_corrupt
    except FFmpegError:
        whole = False
    return found if begins_with_key(container, stream) else _decodable(found), whole


def shown_times(container: Any, stream: Any, found: list[Stamp]) -> list[float]:
    """When frames are shown, ascending: by their time stamps, or by the rate if stamps are missing or restart."""
    times = sorted(item.shown for item in found if item.shown is not None)
    order = [item.decoded for item in found if item.decoded is not None]
    if len(times) < len(found) or any(later < earlier for earlier, later in pairwise(order)):
        step = 1 / rate(container, stream)
        first = times[0] if times else 0.0
        return [first + i * step for i in range(len(found))]
    return times


def _is_shown(stream: Any, packet: Any) -> bool:
    """Whether a packet gives a visible frame: an edit list leaves some out, and VP8 has frames only for reference."""
    if not packet.size or packet.is_discard:
        return False
    return stream.codec_context.codec.canonical_name != "vp8" or bool(memoryview(packet)[0] & 0x10)  # RFC 6386, 9.1


def begins_with_key(container: Any, stream: Any) -> bool:
    """Whether the container's index says that its first frame is a key frame; packets of a damaged file may not."""
    index = stream.index_entries
    if container.format.name == "mpeg":  # FFmpeg makes an entry for every packet and calls each a key frame
        return False
    return len(index) > 0 and index[0].is_keyframe and index[0].timestamp <= (stream.start_time or 0)


def _decodable(found: list[Stamp]) -> list[Stamp]:
    """The packets that a decoder can decode.

    A recording may start before its first key frame, and a frame shown before a key frame may need earlier frames.
    """
    first = next((i for i, item in enumerate(found) if item.key), 0)
    start = found[first].shown if found else None
    if start is None or first == 0:
        return found[first:]
    return [item for item in found[first:] if item.shown is None or item.shown >= start]
