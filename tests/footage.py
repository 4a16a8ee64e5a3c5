"""Videos and faces made here, and where real footage lies."""

import math
import os
from pathlib import Path

import torch

SHARED = Path(os.environ.get("PRERNN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Real footage; tests that want it skip where it is absent."""


def class_videos(root, labels):
    """Two videos of noise in ``train`` and two in ``test`` for each class, in one folder a class."""
    import numpy as np

    from prernn.media.encoding import write_video

    for part in ("train", "test"):
        for k, label in enumerate(labels):
            (root / part / label).mkdir(parents=True)
            for number in range(2):
                frames = np.random.default_rng([k, number]).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
                write_video(root / part / label / f"{number}.mp4", frames, 5)


def face():
    """A symmetric face ``(68, 2)`` in iBUG's order, drawn by hand: x from -1 to 1, y from -0.9 to 1."""
    jaw = [(-math.cos(math.pi * i / 16), math.sin(math.pi * i / 16)) for i in range(17)]
    brow = [(-0.8, -0.7), (-0.65, -0.85), (-0.5, -0.9), (-0.35, -0.85), (-0.2, -0.75)]
    nose = [(0, -0.5), (0, -0.35), (0, -0.2), (0, -0.05)]
    nostrils = [(-0.2, 0.1), (-0.1, 0.15), (0, 0.18), (0.1, 0.15), (0.2, 0.1)]
    eye = [(-0.65, -0.5), (-0.55, -0.6), (-0.4, -0.6), (-0.3, -0.5), (-0.4, -0.45), (-0.55, -0.45)]
    other = [(-x, y) for x, y in (eye[3], eye[2], eye[1], eye[0], eye[5], eye[4])]
    lips = [(-0.4, 0.5), (-0.25, 0.4), (-0.1, 0.35), (0, 0.38), (0.1, 0.35), (0.25, 0.4), (0.4, 0.5)]
    lips += [(0.25, 0.6), (0.1, 0.65), (0, 0.66), (-0.1, 0.65), (-0.25, 0.6)]
    inner = [(-0.3, 0.5), (-0.15, 0.46), (0, 0.46), (0.15, 0.46), (0.3, 0.5), (0.15, 0.54), (0, 0.54), (-0.15, 0.54)]
    points = jaw + brow + [(-x, y) for x, y in reversed(brow)] + nose + nostrils + eye + other + lips + inner
    return torch.tensor(points, dtype=torch.float64)
