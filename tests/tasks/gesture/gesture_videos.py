"""Folders of frames, their lists, and the task that reads them."""

import itertools
import math

import torch

from prernn.tasks.gesture.task import Gesture
from prernn.training.batches import collate

SPEC = {"size": 6, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
LISTS = {"train_list": "train.lst", "test_list": "test.lst"}


def make_list(root, *lines, name="train.lst"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines))


def opened(root, **options):
    task = Gesture(**{**LISTS, "snippet": 4, **options})
    task.open(root, SPEC)
    return task


def make_batch(target, intervals, lengths, frames, *, fps=30.0):
    videos = [torch.zeros(n, 1) for n in lengths]
    items = zip(videos, target, intervals, frames, strict=True)
    return collate(
        [
            {
                "input": video,
                "target": torch.tensor(labels),
                "intervals": torch.tensor(spans),
                "frames": count,
                "fps": fps,
                "path": str(i),
            }
            for i, (video, labels, spans, count) in enumerate(items)
        ]
    )


def path_probability(log_probs, labels):
    """Probability of a labelling, by all its paths."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if [k for k, _ in itertools.groupby(path) if k] == labels:
            total += math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    return total


def outputs_of(paths, outputs, steps):
    """Outputs (B, T, K) under which these paths are the most probable ones; padding speaks of label 1."""
    out = torch.zeros(len(paths), steps, outputs)
    out[:, :, 1] = 9.0
    for video, path in enumerate(paths):
        out[video, : len(path)] = 0.0
        out[video, torch.arange(len(path)), torch.tensor(path)] = 6.0
    return out
