"""Videos that one network gets right and another wrong, as a picture: both papers' qualitative figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from prernn.reports.files import write_table
from prernn.reports.plots.figure import panel_grid, save_figure
from prernn.studies.comparison.lineup import Row
from prernn.tasks.task import Task, Verdict
from prernn.training.dataset import VideoDataset, path_of

SHOWN = 3
"""Videos that each of the two networks is the better one of, at most."""

FRAMES = 6
"""Of each video, spread over it."""

COLOURS = ("#0072B2", "#D55E00")
"""Of the two networks' points."""


def write(rows: Sequence[Row], dataset: VideoDataset, task: Task, out: Path) -> None:
    """Writes ``disagreements.csv``, all that two networks do not agree on, and ``disagreements.png``, some of it.

    The two are the network that did best on the test videos, by the mean over the seeds, and the best of those that are
    made another way (`NetworkSpec.method`, or another 3-D form); what they say is that of the first seed. Nothing is
    written where they agree on all, or the task has no verdicts.
    """
    chosen = contestants(rows, task)
    if chosen is None:
        return
    names = [row.name for row in chosen]
    one, other = (_of(row) for row in chosen)
    places = disagreements(one, other)
    if not places:
        return
    write_table(
        out / "disagreements.csv",
        [
            {"path": path_of(dataset.records[number]), "true": one[number].true}
            | {name: said[number].said for name, said in zip(names, (one, other), strict=True)}
            for number in places
        ],
    )
    _draw(names, (one, other), places, dataset, out / "disagreements.png")


def contestants(rows: Sequence[Row], task: Task) -> tuple[Row, Row] | None:
    """The two networks; None where there are no verdicts of two kinds."""
    name, best = task.score
    sign = 1 if best == "max" else -1
    known = [row for row in rows if _of(row)]
    known.sort(key=lambda row: -sign * _mean([result["metrics"][name] for result in row.finals]))
    others = [row for row in known if _kind(row) != _kind(known[0])]
    return (known[0], others[0]) if others else None


def _mean(values: Sequence[float]) -> float:
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else -np.inf


def _kind(row: Row) -> tuple[str, bool]:
    return row.spec.method, row.spec.inflate is not None


def _of(row: Row) -> Mapping[int, Verdict]:
    return next((result["verdicts"] for result in row.finals if result.get("verdicts")), {})


def disagreements(one: Mapping[int, Verdict], other: Mapping[int, Verdict]) -> list[int]:
    """Numbers of the videos of which one is more wrong than the other, those that the first is better at first."""
    gains = {number: other[number].error - verdict.error for number, verdict in one.items() if number in other}
    return sorted((number for number, gain in gains.items() if gain), key=lambda number: -gains[number])


def _draw(
    names: Sequence[str],
    said: tuple[Mapping[int, Verdict], Mapping[int, Verdict]],
    places: Sequence[int],
    dataset: VideoDataset,
    path: Path,
) -> None:
    one, other = said
    better = [number for number in places if one[number].error < other[number].error][:SHOWN]
    worse = [number for number in reversed(places) if one[number].error > other[number].error][:SHOWN]
    figure, axes = panel_grid(len(better) + len(worse), FRAMES, 1.7, 1.75)
    for line, number in zip(axes, [*better, *worse], strict=True):
        pictures = _pictures(dataset[number])
        frames = np.linspace(0, len(pictures) - 1, FRAMES).round().astype(int)
        for axis, frame in zip(line, frames, strict=True):
            axis.imshow(pictures[frame])
            axis.set_axis_off()
            height, width = pictures[frame].shape[:2]
            for verdict, colour in zip((one[number], other[number]), COLOURS, strict=True):
                if verdict.points is not None:
                    x, y = (verdict.points[min(frame, len(verdict.points) - 1)] * [width, height] - 0.5).T
                    axis.plot(x, y, ".", color=colour, markersize=2)
        line[0].set_title(_words(names, one[number], other[number]), fontsize=8, loc="left")
    save_figure(figure, path)


def _words(names: Sequence[str], one: Verdict, other: Verdict) -> str:
    true = [f"true: {one.true}"] if one.true else []
    return "    ".join([*true, *(f"{name}: {each.said}" for name, each in zip(names, (one, other), strict=True))])


def _pictures(item: dict[str, Any]) -> list[np.ndarray]:
    """What the network sees of a video ``(T, C, H, W)`` or ``(T, C, D, H, W)`` as pictures; of flow its first part."""
    video: Tensor = item["input"]
    if video.ndim == 5:  # snippets
        video = video[:, :, video.shape[2] // 2]
    video = video[:, :3] if video.shape[1] >= 3 and video.shape[1] % 20 else video[:, :1].expand(-1, 3, -1, -1)
    low, high = video.amin((0, 2, 3), keepdim=True), video.amax((0, 2, 3), keepdim=True)
    scaled = (video - low) / (high - low).clamp(min=1e-6)
    return list(scaled.permute(0, 2, 3, 1).numpy())
