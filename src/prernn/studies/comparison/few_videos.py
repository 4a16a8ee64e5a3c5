"""``prernn study few-videos``: accuracy over the number of training videos, for networks side by side.

The claim of PreRNN is that pre-trained weights count most when videos are few. Each network is trained on a number of
videos of each class, drawn separately for each seed and the same for all networks, for the same number of steps; its
learning rates are searched for each number, on training videos that were not drawn. So two networks with one seed are a
pair, and the mean of their differences has a confidence interval (Student's t over the seeds).
"""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from prernn.layers.arguments import whole
from prernn.models.from_config import NetworkSpec
from prernn.reports.files import say_written, write_json, write_table
from prernn.reports.plots.curves import lines
from prernn.reports.progress import bars
from prernn.reports.tables import print_whole, seeds_text
from prernn.studies.comparison import lineup
from prernn.studies.comparison.kept import trainings
from prernn.studies.comparison.lineup import Budget, Row, check_comparable
from prernn.studies.comparison.trainings import LIVE, inputs, labels_of
from prernn.studies.comparison.tuning import best, search, summary, train_all
from prernn.tasks.task import Task
from prernn.training.data_module import VideoData
from prernn.training.frozen_trunk.epochs import batches_in_epoch

SIZES = (5, 10, 20, 35, 70, 140)
"""Numbers of training videos of each class."""

STEPS = 90
"""Batches of every training: as many as 5 epochs of the demo."""

CONFIDENCE = 0.95
"""Confidence level of the intervals of differences."""

BESIDE = ("late_accuracy",)
"""Metrics that are plotted beside the task's score, if there are any; both with resets and live."""


def few_videos(
    data: VideoData,
    spec: NetworkSpec,
    out: str | Path,
    budget: Budget | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    steps: int = STEPS,
    structures: Sequence[str] = ("band:1%", "diagonal"),
    jobs: int = 2,
) -> list[dict[str, Any]]:
    """Accuracy over the number of training videos, for the networks of `lineup.few_videos_rows`.

    Args:
        data: the videos and their task.
        spec: backbone, its weights, cell and the layer to convert; everything else is varied.
        out: folder for ``few-videos.csv``, ``few-videos.json`` and ``few-videos.png``.
        budget: the budget of every network; its epochs are not used.
        sizes: numbers of training videos of each class; those above the size of the smallest class are left out.
        steps: batches of each training, rounded to whole epochs, at least two.
        structures: of ``W_hh``.
        jobs: number of concurrent trainings, one thread each.

    Returns:
        The rows of ``few-videos.csv``: a network at a number of videos, the mean and spread of each metric over the
        seeds, and the difference from the traditional network that did best in the search, with its interval.

    Raises:
        ValueError: no size is available in every class, and what `check_sizes` raises.
        NotImplementedError: as in `prernn.studies.comparison.compare.compare`.
    """
    out, budget, begun = Path(out), budget or Budget(), time.time()
    check_comparable(data.task)
    check_sizes(sizes, steps, jobs)
    possible = _possible(sizes, labels_of(data))
    with bars() as progress:
        kinds = lineup.few_videos_rows(spec, data.task, structures)
        known, train, test = inputs(data, kinds, budget, progress)
        known = replace(known, frozen=True, curves=False)
        rows = []
        for size in possible:
            rows += _at_size(kinds, size, steps, known.labels, budget, data.task)
        with trainings(out, jobs, known, train, test) as start:
            search(start, rows, budget, data.task, progress)
            train_all(start, rows, budget, data.task, progress, lambda: _write_record(rows, budget, out))
    table = [_line(row, _reference(row, rows, data.task)) for row in rows]
    write_table(out / "few-videos.csv", table)
    _write_record(rows, budget, out)
    several = len(set(known.labels)) > 1
    _plot(table, data.task, out, len(budget.seeds), f"training videos{' of each class' if several else ''}")
    for metric in _metrics(table, data.task):
        print_whole(_table(table, metric, data.task))
    say_written(out, begun)
    return table


def check_sizes(sizes: Sequence[int], steps: int = STEPS, jobs: int = 1) -> None:
    """Raises ValueError for impossible numbers: no video, no step, no job."""
    for size in sizes:
        whole("sizes", size)
    whole("steps", steps)
    whole("jobs", jobs)


def _possible(sizes: Sequence[int], labels: Sequence[int]) -> list[int]:
    """The sizes that are available in every class."""
    least = min(Counter(labels).values())
    if len(set(labels)) == 1:
        print("the videos have no labels to draw by: numbers are of all together")
    kept = sorted({size for size in sizes if size <= least})
    if not kept:
        raise ValueError(
            f"sizes: expected numbers from 1 to {least}, the videos of the smallest class, got {list(sizes)}"
        )
    if left := [size for size in sizes if size not in kept]:
        print(f"left out: {', '.join(map(str, left))} videos of each class, as the smallest class has {least}")
    return kept


def _at_size(
    kinds: Sequence[Row], size: int, steps: int, labels: Sequence[int], budget: Budget, task: Task
) -> list[Row]:
    """The networks to be trained on this number of videos of each class."""
    continuity = budget.continuity.of(task)
    batches = batches_in_epoch(size * len(set(labels)), continuity, budget.batch_size)
    epochs = max(2, round(steps / batches))
    return [replace(row, few=size, epochs=epochs, search={}, finals=[]) for row in kinds]


def _reference(row: Row, rows: Sequence[Row], task: Task) -> Row:
    """The traditional network with a full ``W_hh`` that did best in the search, at the row's number of videos.

    It is the calibrated one, as PreRNN is calibrated, if others did no better or there was no search.
    """
    stacked = [other for other in rows if other.few == row.few and other.spec.method == "traditional"]
    full = [other for other in stacked if other.spec.hidden == "full"]
    return best(sorted(full, key=lambda other: other.spec.calibrate != "all"), task)


def _line(row: Row, reference: Row) -> dict[str, Any]:
    values = {"videos of each class": row.few, **summary(row), "compared with": reference.name}
    for name in row.finals[0]["metrics"]:
        pairs = [
            own["metrics"][name] - other["metrics"][name]
            for own, other in zip(row.finals, reference.finals, strict=True)
        ]
        mean, half = difference(pairs)
        values |= {f"{name} difference": mean, f"{name} interval": "" if half is None else half}
    return values


def difference(pairs: Sequence[float]) -> tuple[float, float | None]:
    """Mean of paired differences and half the width of its confidence interval, ``t s / sqrt(n)``; None for one pair.

    ``t`` is Student's for ``n - 1`` degrees of freedom (Student, "The probable error of a mean", Biometrika 1908).

    Example:
        >>> mean, half = difference([0.10, 0.12, 0.14])
        >>> round(mean, 3), round(half, 3)
        (0.12, 0.05)
    """
    from scipy.stats import t

    count, mean = len(pairs), statistics.fmean(pairs)
    if count < 2:
        return mean, None
    return mean, float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(pairs, ddof=1) / count**0.5)


def _write_record(rows: Sequence[Row], budget: Budget, out: Path) -> None:
    write_json(out / "few-videos.json", {"budget": asdict(budget), "rows": [lineup.record(row) for row in rows]})


def _metrics(table: Sequence[dict[str, Any]], task: Task) -> list[str]:
    wanted = [f"{way}{name}" for name in (task.score[0], *BESIDE) for way in ("", f"{LIVE} ")]
    return [name for name in wanted if name in table[0]]


def _plot(table: Sequence[dict[str, Any]], task: Task, out: Path, seeds: int, along: str) -> None:
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for metric in _metrics(table, task):
        for line in table:
            spread = line[f"{metric} spread"] or 0.0
            point = (line["videos of each class"], line[metric], spread)
            panels.setdefault(metric, {}).setdefault(line["network"], []).append(point)
    title = f"{task.name}: {'mean and spread of ' if seeds > 1 else ''}{seeds_text(seeds)}"
    lines(panels, out / "few-videos.png", along=along, title=title)


def _table(rows: Sequence[dict[str, Any]], metric: str, task: Task) -> Table:
    """A row per network, a column per number of videos: the metric, and below it the difference from the reference."""
    sizes = sorted({row["videos of each class"] for row in rows})
    table = Table(
        title=f"{task.name}: {metric}",
        caption=f"below each: paired difference, with its 95 % interval, from {_compared(rows)}",
    )
    table.add_column("network", no_wrap=True)
    table.add_column("recurrent weights", justify="right")
    for size in sizes:
        table.add_column(f"{size} a class", justify="right", no_wrap=True)
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        table.add_row(name, f"{own[0]['recurrent weights']:,}", *(_cell(row, metric) for row in own))
    return table


def _compared(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(row["compared with"] for row in rows))
    return names[0] if len(names) == 1 else f"the better one in the search of {' and '.join(names)}"


def _cell(row: dict[str, Any], metric: str) -> str:
    spread, interval = row[f"{metric} spread"], row[f"{metric} interval"]
    text = f"{row[metric]:.3f}" + ("" if spread == "" else f" ±{spread:.3f}")
    if row["network"] == row["compared with"]:
        return f"{text}\n"
    return f"{text}\n{row[f'{metric} difference']:+.3f}" + ("" if interval == "" else f" ±{interval:.3f}")
