"""The boxes of one face over a whole video, found by a detector frame by frame."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prernn.media.video import read_frames
from prernn.tasks.face.box import Box, overlap
from prernn.tasks.face.detection.detectors import Detector, detector_from


def one_face(found: Sequence[Sequence[Box]], height: int, width: int) -> tuple[Tensor, Tensor]:
    """One box for each of T frames out of all that were found, without using the annotation.

    At first it is the largest, then the one that overlaps most with the previous box, or the largest if none does. In
    frames in which nothing was found, the previous box stays; frames before the first box take that one. If there is
    none at all, it is the square in the middle of the picture.

    Args:
        found: boxes of each frame.
        height: of the pictures in pixels.
        width: of the pictures in pixels.

    Returns:
        Boxes ``(T, 4)``, and ``(T,)`` True at frames in which nothing was found.
    """
    boxes, last = list[Tensor | None](), None
    for each in found:
        known = [torch.as_tensor(box, dtype=torch.float64) for box in each]
        if known:
            largest = max(known, key=lambda box: float((box[2:] - box[:2]).prod()))
            before = last
            near = largest if before is None else max(known, key=lambda box: overlap(box, before))
            last = near if before is not None and overlap(near, before) > 0 else largest
        boxes.append(last)
    missed = torch.tensor([not each for each in found])
    side, middle = min(height, width), torch.tensor([width - 1, height - 1, width - 1, height - 1], dtype=torch.float64)
    nothing = middle / 2 + torch.tensor([-side, -side, side, side]) / 2
    first = next((box for box in boxes if box is not None), nothing)
    return torch.stack([first if box is None else box for box in boxes]), missed


class DetectedBoxes:
    """What a detector finds in videos; it processes each video once and keeps the result.

    Args:
        name: name of the detector, see `prernn.tasks.face.detection.detectors.detector_from`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._detect: Detector | None = None
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def __reduce__(self):
        return DetectedBoxes, (self.name,)  # OpenCV's networks can't go to another process, nor be copied

    def of(self, path: str, *, tolerate: bool = False, deinterlace: bool = False) -> tuple[Tensor, Tensor]:
        """Boxes ``(T, 4)`` of a video's frames, and ``(T,)`` True where nothing was found; see `one_face`.

        Raises:
            VideoError: the video can't be read.
            ValueError, ImportError: what `detector_from` raises.
        """
        if self._detect is None:
            self._detect = detector_from(self.name)
        if path not in self._known:
            frames = read_frames(path, tolerate_truncation=tolerate, deinterlace=deinterlace)
            found, shape = [], (1, 1)
            for _, frame in frames:
                shape = np.shape(frame)[:2]
                found.append(self._detect(frame))
            self._known[path] = one_face(found, *shape)
        return self._known[path]
