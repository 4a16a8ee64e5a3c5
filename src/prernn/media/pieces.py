"""Pieces of long videos: selected frames of a file, without decoding everything before them.

`read_frames` decodes in order from the first frame, which takes minutes for a piece late in an hour of video. Here
decoding starts at the key frame before the piece. Frames are identified by their time stamps. If those are unreliable
(AVI, stamps that restart, damage), the file is read in order after all: the result is the same.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from prernn.media.image_folder import folder_frames, load
from prernn.media.picture import Painter, remark
from prernn.media.source import Address, VideoError, locate, opened
from prernn.media.timing import rate, shown_times, stamp, stamps
from prernn.media.video import read_frames

BEFORE = 0.5
"""Seconds before the piece to seek to: frames are stored earlier than they are shown."""

CLOSE = 0.25
"""How much a frame's time stamp may differ from its packet's, as a share of the frame interval."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Attributes:
        times: of each frame, in seconds since the first, ascending.
        origin: time of the first frame on the container's own clock; None if time stamps do not identify frames.
        fps: mean frame rate.
    """

    times: tuple[float, ...]
    origin: float | None
    fps: float

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return self.times[-1] + 1 / self.fps


def timeline(source: Address, *, fps: float = 25.0) -> Timeline:
    """When frames are shown, without decoding them; ``fps`` is the rate of a folder of frames.

    Raises:
        VideoError: a source that can't be read, or that contains no frame.
        NotImplementedError: a live source, which has no end.
    """
    place = locate(source)
    if place.kind == "folder":
        return Timeline(tuple(time for time, _ in folder_frames(source, fps)), None, fps)
    if place.live:
        raise NotImplementedError(f"{source}: expected a file or folder to read pieces of, got a live source")
    with opened(source) as (container, stream):
        found, _ = stamps(container, stream)
        times = shown_times(container, stream, found)
        if not times:
            raise VideoError(f"{source}: no frame can be decoded")
        stamped = times == sorted(item.shown for item in found if item.shown is not None)
        distinct = len(set(times)) == len(times)
        seeks = stamped and distinct and container.format.name != "avi"
        mean = rate(container, stream)
    return Timeline(tuple(time - times[0] for time in times), times[0] if seeks else None, mean)


def read_piece(
    source: Address,
    line: Timeline,
    picks: Sequence[int],
    *,
    transform: Callable[[np.ndarray], Tensor] | None = None,
    deinterlace: bool = False,
) -> Tensor:
    """Reads some frames of a file or a folder of frames: uint8 ``(T, 3, H, W)``.

    Args:
        source: the video.
        line: its `timeline`.
        picks: T frame numbers, ascending; a frame may be repeated.
        transform: applied to each frame ``(H, W, 3)`` as it is decoded; its results are stacked instead.
        deinterlace: make frames that are marked as interlaced progressive.

    Raises:
        ValueError: no picks, or picks that are outside the video or not ascending.
        VideoError: a frame that can't be read.
    """
    inside = picks and picks[0] >= 0 and picks[-1] < len(line.times)
    if not inside or any(a > b for a, b in pairwise(picks)):
        raise ValueError(f"expected ascending frames from 0 to {len(line.times) - 1}, got {list(picks)}")
    each, wanted = transform or torch.from_numpy, set(picks)
    if locate(source).kind == "folder":
        files = folder_frames(source, line.fps)
        kept = {i: each(load(source, files[i][1])) for i in sorted(wanted)}
    else:
        found = None if deinterlace or line.origin is None else _sought(source, line, wanted, each)
        kept = _in_order(source, wanted, each, deinterlace) if found is None else found
    if missing := sorted(wanted - kept.keys()):
        raise VideoError(f"{source}: frame {missing[0]} of {len(line.times)} can't be read")
    clip = torch.stack([kept[i] for i in picks])
    return clip if transform else clip.permute(0, 3, 1, 2)  # (T, 3, H, W)


def _in_order(
    source: Address, wanted: set[int], each: Callable[[np.ndarray], Tensor], deinterlace: bool
) -> dict[int, Tensor]:
    """The wanted frames, by number, decoded in order from the first frame."""
    kept: dict[int, Tensor] = {}
    reader = read_frames(source, deinterlace=deinterlace)
    with closing(reader):  # type: ignore[type-var]  # a generator
        for i, (_, image) in enumerate(reader):
            if i in wanted:
                kept[i] = each(image)
            if len(kept) == len(wanted):
                break
    return kept


def _sought(
    source: Address, line: Timeline, wanted: set[int], each: Callable[[np.ndarray], Tensor]
) -> dict[int, Tensor] | None:
    """The wanted frames, decoded from the key frame before the first of them; None if not all are found this way."""
    assert line.origin is not None
    times = np.asarray(line.times) + line.origin
    first, last = min(wanted), max(wanted)
    kept: dict[int, Tensor] = {}
    with opened(source) as (container, stream):
        paint = Painter()
        try:
            start = max(times[first] - BEFORE, times[0])
            if times[first] - BEFORE > times[0]:  # otherwise the file is already at its start
                container.seek(int(start / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                shown = stamp(container, frame)
                if shown is None or frame.is_corrupt:
                    return None
                place = int(np.abs(times - shown).argmin())
                if abs(times[place] - shown) * line.fps > CLOSE:
                    return None
                if place in wanted:
                    remark(frame, source)
                    kept[place] = each(paint(frame, stream.sample_aspect_ratio))
                if place >= last:
                    break
        except FFmpegError:
            return None
    return kept if kept.keys() == wanted else None
