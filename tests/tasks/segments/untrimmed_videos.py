"""Untrimmed videos made here: grey noise, brighter or darker in the segments."""

import numpy as np

from prernn.media.encoding import write_video
from prernn.tasks.segments.task import Segments

SPEC = {"size": 8, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
LEVELS = {"bright": 215, "dark": 35}


def render(path, segments, *, frames=40, fps=10, side=16):
    """A video whose frame i is grey, bright or dark by (start, end, label) in frames; one pixel's noise apart."""
    levels = np.full(frames, 125)
    for start, end, label in segments:
        levels[start:end] = LEVELS[label]
    noise = np.random.default_rng(frames).integers(-4, 5, (frames, side, side, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (levels[:, None, None, None] + noise).astype(np.uint8), fps)


def write_list(path, rows, header="file,start,end,label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


PLACES = {
    "train": [[(4, 12, "bright"), (20, 30, "dark")], [(8, 16, "dark"), (26, 34, "bright")], [(15, 25, "bright")]],
    "test": [[(6, 14, "dark"), (24, 34, "bright")], [(10, 20, "bright")]],
}


def make_videos(root, fps=10):
    """Three videos of 4 s to train on and two to test on, with their lists, in seconds."""
    for part, videos in PLACES.items():
        rows = []
        for number, segments in enumerate(videos):
            render(root / part / f"{number}.mp4", segments, fps=fps)
            rows += [f"{part}/{number}.mp4,{a / fps},{b / fps},{label}" for a, b, label in segments]
        write_list(root / f"{part}.csv", rows)
    return root


def opened(root, **options):
    task = Segments(**{"piece": 16, "warm_up": 8, "flip": False, **options})
    task.open(root, SPEC)
    return task
