"""Videos of dots at known landmarks, and a task that reads them."""

import numpy as np
import torch

from footage import face
from prernn.media.encoding import write_video
from prernn.tasks.face.landmarks import write_pts
from prernn.tasks.face.task import Face
from prernn.tasks.face.videos import FaceVideo

SPEC = {"size": 96, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}
HEIGHT, WIDTH = 120, 160
LONELY = [0, 4, 8, 12, 16]  # jaw points, far from the others


def motion(t):
    """The landmarks of frame ``t``: a face that moves and grows, wider on the left to tell the sides apart."""
    points = face()
    points[:, 0] *= torch.where(points[:, 0] < 0, 1.0, 0.9)
    return points * (34 + t) + torch.tensor([70.3 + 2 * t, 55.7 + t])


def dots(points, height=HEIGHT, width=WIDTH, spread=1.5):
    """A black picture with a white dot at each point."""
    y, x = np.mgrid[:height, :width]
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * spread**2)) for px, py in np.asarray(points)]
    return np.repeat((255 * np.max(spots, 0)).round().astype(np.uint8)[..., None], 3, 2)


def centroid(picture, near, reach=5):
    """The middle of the light within ``reach`` pixels of a place."""
    height, width = picture.shape
    y, x = np.mgrid[:height, :width]
    light = picture * (np.hypot(x - near[0], y - near[1]) < reach)
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


def make_face(root, name, frames=5, base=1, annotated=None):
    folder = root / name
    folder.mkdir(parents=True)
    write_video(folder / "vid.mp4", [dots(motion(t)[LONELY]) for t in range(frames)], 25)
    (folder / "vid.mp4").rename(folder / "vid.avi")
    for t in range(frames if annotated is None else annotated):
        write_pts(folder / "annot" / f"{t + 1:06d}.pts", motion(t), base)
    return folder


def opened(root, **options):
    task = Face(**options)
    task.open(root, SPEC)
    return task


def video(root, name="a", frames=None):
    return FaceVideo(str(root / name / "vid.avi"), frames)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)
