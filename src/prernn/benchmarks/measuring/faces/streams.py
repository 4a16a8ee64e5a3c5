"""Faces followed as in `prernn stream`: pictures moving along a known path, and a clip without annotation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.benchmarks.measuring.faces.figures import Points
from prernn.conversion.network import RecurrentNetwork
from prernn.media.video import read_frames
from prernn.tasks.face.box import face_box
from prernn.tasks.face.smoothing import Smoothing
from prernn.tasks.face.task import Face
from prernn.tasks.face.watcher import FaceWatcher

FILTER = Smoothing(1.0, 10.0)
"""The filter of the clip's second figure."""


def follow(net: RecurrentNetwork, task: Face, faces: int) -> tuple[Points, float]:
    """Points of a number of test faces, each found in its annotated box and then followed by its own points.

    A lost face is found again in the box of its true points in that frame. The points are unfiltered, because a filter
    does not affect where the watcher looks.

    Args:
        net: a network with the recipe of its task.
        task: opened task with moving pictures.
        faces: number of faces, the first of the test list; all if there are fewer.

    Returns:
        The points, and the share of frames in which a face was lost.
    """
    found = [_one(net, *task.moving_pictures(record), task.rate or 25.0) for record in task.records("test")[:faces]]
    points = Points(*(torch.stack(values) for values in zip(*(each for each, _ in found), strict=True)))
    return points, float(np.mean([lost for _, lost in found]))


def _one(net: RecurrentNetwork, frames: Sequence[np.ndarray], truth: Tensor, rate: float) -> tuple[Points, float]:
    """Points ``(T, 68, 2)`` of one face, and the share of frames after the first in which it was lost."""
    now = 0

    def detector(frame: np.ndarray) -> list[list[float]]:
        return [face_box(truth[now], 0.0).tolist()]

    watcher = FaceWatcher(net, detector=detector, check_every=None)
    box = face_box(truth[0], watcher.margin)
    points, sides, lost = [truth[0]], [box[2] - box[0]], 0
    for now, frame in enumerate(frames):
        (row,) = watcher.see(now, now / rate, frame)
        lost += not row.get("tracked") and now > 0
        # if there is none even in its true box, the last points stay
        points.append(points[-1] if watcher.points is None else watcher.points.double())
        sides.append(sides[-1] if watcher.box is None else (watcher.box[2] - watcher.box[0]).double())
    time = torch.arange(len(frames), dtype=torch.float64) / rate
    return Points(torch.stack(points[1:]), truth, time, torch.stack(sides[1:])), lost / max(len(frames) - 1, 1)


def of_a_clip(net: RecurrentNetwork, clip: str | Path) -> dict[str, Any]:
    """Tremble on a clip of a face, without and with a filter, and the share of frames in which it was followed."""
    found: dict[str, Any] = {}
    for name, smoothing in (("tremble", None), ("filtered", FILTER)):
        watcher = FaceWatcher(net, smoothing=smoothing)
        rows = [watcher.see(i, time, frame)[0] for i, (time, frame) in enumerate(read_frames(clip))]
        found[name] = float(np.mean([row["tremble"] for row in rows if "tremble" in row] or [np.nan]))
        found["followed"] = float(np.mean([bool(row.get("tracked")) for row in rows]))
    return found
