"""Videos that one network gets right and another wrong, as a picture: as in both papers' qualitative figures."""

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
"""Maximum number of videos on which each of the two networks is the better one."""

FRAMES = 6
"""Number of pictures of each video, spread over it."""

CONVERTED = ("prernn", "rcn")
"""Methods whose networks are compared with all others."""

COLORS = {"blue": "#0072B2", "orange": "#D55E00"}
"""Colors of the two networks' points."""


def write(rows: Sequence[Row], dataset: VideoDataset, task: Task, out: Path) -> None:
    """Writes ``disagreements.csv``, all videos on which two networks disagree, and ``disagreements.png``, some of them.

    The two are the converted network (PreRNN, RCN) that did best on the test videos, by the mean over the seeds, and
    the best of the others; their answers are those of the first seed. Nothing is written if they agree on everything,
    or if the task has no verdicts.
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
    """The two networks; None unless there are verdicts of both kinds."""
    name, best = task.score

    def merit(row: Row) -> float:
        mean = float(np.mean([result["metrics"][name] for result in row.finals]))
        return -np.inf if np.isnan(mean) else mean if best == "max" else -mean

    known = sorted((row for row in rows if _of(row)), key=merit, reverse=True)
    converted = [row for row in known if row.spec.method in CONVERTED]
    others = [row for row in known if row.spec.method not in CONVERTED]
    return (converted[0], others[0]) if converted and others else None


def _of(row: Row) -> Mapping[int, Verdict]:
    return next((result["verdicts"] for result in row.finals if result.get("verdicts")), {})


def disagreements(one: Mapping[int, Verdict], other: Mapping[int, Verdict]) -> list[int]:
    """Numbers of the videos on which one is more wrong than the other, first those on which ``one`` is better."""
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
    shown = {number: _pictures(dataset[number]) for number in [*better, *worse]}
    across = max(min(len(pictures), FRAMES) for pictures in shown.values())
    figure, axes = panel_grid(len(shown), across, 1.7, 1.95)
    for line, (number, pictures) in zip(axes, shown.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        frames = np.unique(np.linspace(0, len(pictures) - 1, FRAMES).round().astype(int))
        for axis, frame in zip(line, frames, strict=False):
            axis.imshow(pictures[frame])
            height, width = pictures[frame].shape[:2]
            for verdict, color in zip((one[number], other[number]), COLORS.values(), strict=True):
                if verdict.points is not None:
                    x, y = (verdict.points[min(frame, len(verdict.points) - 1)] * [width, height] - 0.5).T
                    axis.plot(x, y, ".", color=color, markersize=2)
        line[0].set_title(
            " ", fontsize=8
        )  # reserves room for the words; a longer title would affect the layout of the panels
        words = line[0].text(0, 1.04, _words(names, one[number], other[number]), fontsize=8)
        words.set(transform=line[0].transAxes, in_layout=False)
    save_figure(figure, path)


def _words(names: Sequence[str], one: Verdict, other: Verdict) -> str:
    words = [f"true: {one.true}"] if one.true else []
    for name, verdict, color in zip(names, (one, other), COLORS, strict=True):
        dots = "" if verdict.points is None else f" ({color})"
        words.append(f"{name}{dots}: {verdict.said}")
    return "    ".join(words)


def _pictures(item: dict[str, Any]) -> list[np.ndarray]:
    """What the network sees of a video ``(T, C, H, W)`` or ``(T, C, D, H, W)`` as pictures; the first part of flow."""
    video: Tensor = item["input"]
    if video.ndim == 5:  # snippets
        video = video[:, :, video.shape[2] // 2]
    video = video[:, :3] if video.shape[1] >= 3 and video.shape[1] % 20 else video[:, :1].expand(-1, 3, -1, -1)
    low, high = video.amin((0, 2, 3), keepdim=True), video.amax((0, 2, 3), keepdim=True)
    scaled = (video - low) / (high - low).clamp(min=1e-6)
    return list(scaled.permute(0, 2, 3, 1).numpy())
