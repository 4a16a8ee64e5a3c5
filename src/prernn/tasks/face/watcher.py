"""Follows one face in a stream: a detector finds it, then it is tracked by its own landmarks.

A detector is any function from a frame, uint8 RGB ``(H, W, 3)``, to boxes ``(x0, y0, x1, y1)`` in pixels, one per face.
Its boxes should be about the bounding boxes of the 68 landmarks: from the brows to the chin, from ear to ear.
"""

import math
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.media.transforms import TransformSpec
from prernn.streaming.stream import Stream
from prernn.tasks.face.box import crop_face, face_box, from_box, normalize, overlap, share_inside, square
from prernn.tasks.face.detection.detectors import Detector, cascade_detector
from prernn.tasks.face.landmarks import EYE_CORNERS, OUTPUTS, POINTS, draw_points
from prernn.tasks.face.motion import trembles
from prernn.tasks.face.smoothing import PointFilter

LEAST_INSIDE = 0.5
"""A face is lost when a smaller share of its box than this is inside the picture."""


MOST_CHANGE = 2.0
"""Factor by which a tracked box may differ from the one that was found; beyond it there is drift, or a check is due."""


MOST_GROWTH = 1.5
"""A face is lost when its box grows or shrinks by more than this factor from one frame to the next."""


MOST_MOTION = 0.5
"""A face is lost when its box moves by more than this share of its side from one frame to the next."""


HOLD = 0.12
"""A fixed box is kept until an edge of the face's own box is off by more than this share of its side."""


SAME_FACE = 0.2
"""A detection is the tracked face if their boxes overlap by at least this (intersection over union)."""


class FaceWatcher:
    """Follows one face with a network trained by `prernn.tasks.face.task`; a `prernn.streaming.watch.Watcher`.

    Without a face to follow, it takes the largest box of the detector. The network looks into it twice: first to find
    the landmarks roughly, then, from a new state, in the box around those landmarks, as in training. From then on,
    each frame's box is that of the landmarks in the previous frame, and the network's state carries on. A network that
    was trained with fixed boxes (``box: first``) keeps its box as long as the face has moved little in it; with the
    next box its state is reset.

    The face is lost, and the detector is run again in the same frame, when the box around the new landmarks is not
    finite, is more than half outside the picture, grows or shrinks by more than a factor of 1.5 from the previous box
    or of 2 from the one that was found (small errors add up), or moves by more than half its side. Because a network
    outputs points for any input, the detector also checks every ``check_every`` frames whether a face is there; if it
    finds none in ``patience`` consecutive checks (a cascade does not detect faces from the side), the face is lost too.
    It is also lost, at once, when the detector's face contains the middle of the box but is another box: the landmarks
    have drifted.

    With ``smoothing``, rows and drawings have filtered points, from the face's first frame on; the next box is still
    determined by the network's own points, so that a filter loses no face.

    Rows: ``frame`` from 0, ``time_s``, ``points`` (68 of ``[x, y]`` in 0-based pixels), ``box`` (the one the network
    looked into), ``tracked`` (False if a detector found the box), ``tremble`` (second difference of the points up to
    this frame, see `prernn.tasks.face.motion.trembles`, in their own inter-ocular distances; omitted in the first two
    frames of a face), ``latency_ms`` (detection and network). Without a face ``points`` is None and the rest is
    omitted.

    Args:
        net_or_stream: the network, or a stream of it; its recipe defines the box and the input.
        detector: None takes `cascade_detector`.
        check_every: frames between checks, None for no checks.
        patience: number of consecutive checks without a face after which it is lost.
        smoothing: the filter applied to the points; None for none.

    Raises:
        ValueError: a network of another task or another number of outputs, several parallel streams.
    """

    def __init__(
        self,
        net_or_stream: SequenceNetwork | Stream,
        *,
        detector: Detector | None = None,
        check_every: int | None = 25,
        patience: int = 3,
        smoothing: PointFilter | None = None,
    ):
        self.stream = net_or_stream if isinstance(net_or_stream, Stream) else Stream(net_or_stream)
        recipe = self.stream.net.recipe
        if recipe.task is None or "margin" not in recipe.task.options or recipe.transform is None:
            name = recipe.task.name if recipe.task else None
            raise ValueError(f"expected a network of the task 'face', got one of {name!r}")
        if self.stream.batch_size != 1:
            raise ValueError(f"expected one stream for one face, got batch_size={self.stream.batch_size}")
        if (check_every is not None and check_every < 1) or patience < 1:
            raise ValueError(f"expected check_every and patience of at least 1, got {check_every} and {patience}")
        self.margin: float = recipe.task.options["margin"]
        self.holds = recipe.task.options.get("box") == "first"
        self.spec = TransformSpec.from_dict(dict(recipe.transform))
        self.detector = cascade_detector() if detector is None else detector
        self.check_every, self.patience, self.smoothing = check_every, patience, smoothing
        self._size: tuple[int, ...] = ()  # of the previous frame
        self._forget()

    def _forget(self) -> None:
        self.points: Tensor | None = None  # (68, 2), of the previous frame
        self.box: Tensor | None = None  # (4,), in which they were found
        self._shown: list[Tensor] = []  # points of this frame as reported, and of the previous two
        self._filter: Any = None
        self._side: float | None = None  # of the box when the detector found the face
        self._age = self._misses = 0  # frames, and checks without a face, since the face was found
        self.stream.reset()

    def see(self, index: int, time: float, frame: np.ndarray) -> list[dict[str, Any]]:
        """The row of a frame; see `prernn.streaming.watch.Watcher`."""
        start = perf_counter()
        if frame.shape != self._size:  # a live source may change its size: the face is then elsewhere in the picture
            self._size = frame.shape
            self._forget()
        if self.stream.look(frame, time):  # the recipe's reset: the face must be found again
            self._forget()
        tracked = self._track(frame)
        if not tracked and not self._find(frame):
            return [{"frame": index, "time_s": time, "points": None}]
        assert self.points is not None
        assert self.box is not None
        self._shown = [*self._shown[-2:], self._filtered(self.points, self.box, time)]
        points, box = (np.round(value.numpy().astype(float), 2).tolist() for value in (self._shown[-1], self.box))
        row = {"frame": index, "time_s": time, "points": points, "box": box, "tracked": tracked} | self._tremble()
        return [row | {"latency_ms": (perf_counter() - start) * 1e3}]

    def _filtered(self, points: Tensor, box: Tensor, time: float) -> Tensor:
        """The points ``(68, 2)`` as reported."""
        if self.smoothing is None:
            return points
        at, size = torch.tensor(time, dtype=torch.float64), (box[2] - box[0]).double()
        value, self._filter = self.smoothing.step(points.double(), at, size, self._filter)
        return value.float()

    def _tremble(self) -> dict[str, float]:
        """How much the points of the last three frames tremble, once there are three."""
        if len(self._shown) < 3:
            return {}
        points = torch.stack(self._shown).double()
        left, right = EYE_CORNERS
        size = torch.linalg.vector_norm(points[:, left] - points[:, right], dim=-1)
        value = float(trembles(points, size)[0])
        return {"tremble": round(value, 6)} if math.isfinite(value) else {}  # eyes may coincide

    def interrupted(self) -> None:
        """Tells it that pictures are missing before the next one."""
        self.stream.interrupted()

    def finish(self) -> list[dict[str, Any]]:
        """Nothing: every frame has had its row."""
        return []

    def draw(self, frame: np.ndarray) -> np.ndarray:
        """A copy of the frame, with landmarks and box if there is a face."""
        return frame.copy() if self.points is None else draw_points(frame, self._shown[-1], self.box)

    def _track(self, frame: np.ndarray) -> bool:
        """Whether the face of the previous frame is in this one too; stores its landmarks."""
        if self.points is None:
            return False
        self._age += 1
        if self._look(frame, self._next_box()) and self._confirmed(frame):
            return True
        self._forget()
        return False

    def _next_box(self) -> Tensor:
        """Where to look in this frame, from the landmarks of the previous frame."""
        assert self.points is not None
        assert self.box is not None
        box = face_box(self.points, self.margin)
        if not self.holds:
            return box
        if _near(box, self.box):
            return self.box
        self.stream.reset()  # the state is in coordinates of the old box
        return box

    def _find(self, frame: np.ndarray) -> bool:
        """Whether the detector finds a face; stores its landmarks."""
        boxes = self._detections(frame)
        if not boxes:
            return False
        largest = max(boxes, key=lambda box: float((box[2:] - box[:2]).prod()))
        found = self._look(frame, square(largest, self.margin), first=True)
        if found:
            assert self.points is not None
            self.stream.reset()
            found = self._look(frame, face_box(self.points, self.margin))
        if not found:
            self._forget()
            return False
        assert self.points is not None
        box = face_box(self.points, self.margin)
        self._side = float(box[2] - box[0])
        return True

    def _look(self, frame: np.ndarray, box: Tensor, *, first: bool = False) -> bool:
        """Runs the network in a box; stores the landmarks unless they can't be those of the face in it."""
        out = self.stream(normalize(crop_face(frame, box, self.spec.size), self.spec))  # (136,)
        if out is None or len(out) != OUTPUTS:
            raise ValueError(f"expected a network of single frames with {OUTPUTS} outputs, got another")
        points = from_box(out.float().cpu().view(POINTS, 2), box)
        new = face_box(points, self.margin)
        # a detector's box is no reference: detectors include more or less of the head
        if not _in_picture(new, frame) or not (first or _steady(new, box)):
            return False
        side = float(new[2] - new[0])
        if self._side is not None and not self._side / MOST_CHANGE <= side <= self._side * MOST_CHANGE:
            return False
        self.points, self.box = points, box
        return True

    def _confirmed(self, frame: np.ndarray) -> bool:
        """False if the detector has not seen the face in the last few checks, or sees it elsewhere than tracked."""
        if self.check_every is None or self._age % self.check_every:
            return True
        assert self.points is not None
        box, found = face_box(self.points, 0.0), self._detections(frame)
        seen = any(overlap(box, other) >= SAME_FACE for other in found)
        if not seen and any(_holds(other, box) for other in found):
            return False
        self._misses = 0 if seen else self._misses + 1
        return self._misses < self.patience

    def _detections(self, frame: np.ndarray) -> list[Tensor]:
        boxes = [torch.tensor([float(edge) for edge in box]) for box in self.detector(frame)]
        for box in boxes:
            if box.shape != (4,) or not bool(box.isfinite().all() and (box[2:] > box[:2]).all()):
                raise ValueError(f"detector: expected boxes (x0, y0, x1, y1) with an area, got {box.tolist()}")
        return boxes


def _holds(detection: Tensor, box: Tensor) -> bool:
    """Whether the middle of a box is in a detection: both are then one face, of which the box may show only a part."""
    middle = (box[:2] + box[2:]) / 2
    return bool(((middle >= detection[:2]) & (middle <= detection[2:])).all())


def _in_picture(box: Tensor, frame: np.ndarray) -> bool:
    """Whether a box ``(4,)`` is finite and enough of it is inside the frame."""
    return bool(box.isfinite().all()) and share_inside(box, *frame.shape[:2]) >= LEAST_INSIDE


def _near(new: Tensor, old: Tensor) -> bool:
    """Whether a box ``(4,)`` has hardly moved or grown."""
    return float((new - old).abs().max()) <= HOLD * float(old[2] - old[0])


def _steady(new: Tensor, old: Tensor) -> bool:
    """Whether a box ``(4,)`` is close to an older one, and about as large."""
    side, before = float(new[2] - new[0]), float(old[2] - old[0])
    motion = float(torch.linalg.vector_norm((new - old).view(2, 2).mean(0)))
    return before / MOST_GROWTH <= side <= before * MOST_GROWTH and motion <= MOST_MOTION * before
