"""The search for each network's learning rate, and the final trainings with the best rate."""

import itertools
import math
import statistics
from collections.abc import Callable
from concurrent.futures import as_completed
from typing import Any

import numpy as np
from rich.progress import Progress, TaskID

from prernn.studies.comparison.kept import Start
from prernn.studies.comparison.lineup import Budget, Row, rate_text
from prernn.studies.comparison.trainings import LIVE, Training
from prernn.tasks.task import Task


def search(start: Start, rows: list[Row], budget: Budget, task: Task, progress: Progress) -> None:
    """Finds each row's learning rates by the score on the held-out videos, if there are several to choose from."""
    if len(_tried(budget)) == 1:
        for row in rows:
            row.rate, row.pretrained = budget.rates[0], budget.shares[0]
        return
    total = len(rows) * len(_tried(budget)) * budget.searches
    bar = progress.add_task("search for learning rates", total=total, note="")
    name = f"{LIVE} {task.score[0]}" if budget.judge == "live" else task.score[0]
    tries = [
        (row, rates, [start(_of(row, *rates, seed, search=True)) for seed in budget.search_seeds])
        for row in rows
        for rates in _tried(budget)
    ]
    words = {future: f"{row.name} at {rate_text(*rates)}" for row, rates, futures in tries for future in futures}
    for future in as_completed(words):
        score = future.result()["metrics"][name]
        _say(progress, bar, f"{words[future]}: {name} {score:.3f} on held-out videos")
    for row, rates, futures in tries:
        row.search[rates] = statistics.fmean(future.result()["metrics"][name] for future in futures)
    for row in rows:
        row.rate, row.pretrained = best_rates(row.search, task)
    _say_ends(rows, budget)


def _say_ends(rows: list[Row], budget: Budget) -> None:
    """Reports in one line if the best rate is the lowest or highest tried, so that a further one may be better."""
    if len(budget.rates) < 3:  # each is the lowest or highest
        return
    for word, end in (("lowest", min(budget.rates)), ("highest", max(budget.rates))):
        found = [row for row in rows if row.rate == end and not math.isnan(row.search[row.rate, row.pretrained])]
        named = [row.name if row.few is None else f"{row.name} ({row.few} videos of each class)" for row in found]
        if named:
            print(f"best at the {word} rate that was tried, {end:g}: {'; '.join(named)}", flush=True)


def _tried(budget: Budget) -> list[tuple[float, float]]:
    return list(itertools.product(budget.rates, budget.shares))


def _say(progress: Progress, bar: TaskID, text: str) -> None:
    """Advances a bar; without a terminal to show it, a line reports the progress."""
    progress.update(bar, advance=1, note=text)
    if not progress.console.is_terminal:
        print(text, flush=True)


def best_rates(search: dict[tuple[float, float], float], task: Task) -> tuple[float, float]:
    """The rates with the best score."""
    return max(sorted(search), key=lambda rates: _merit(search[rates], task))  # for equal scores the lower rate


def best(rows: list[Row], task: Task) -> Row:
    """The row that did best in the search; the first if there was no search."""
    return max(rows, key=lambda row: _merit(row.search.get((row.rate, row.pretrained), math.nan), task))


def _merit(score: float, task: Task) -> float:
    """A score as a number for which higher is better; that of a diverged network is the lowest."""
    if math.isnan(score):
        return -math.inf
    return score if task.score[1] == "max" else -score


def train_all(
    start: Start,
    rows: list[Row],
    budget: Budget,
    task: Task,
    progress: Progress,
    record: Callable[[], None],
) -> None:
    """Trains each row once for each seed, on all training videos, and tests it; ``record`` is called after each."""
    bar = progress.add_task("final trainings", total=len(rows) * len(budget.seeds), note="")
    futures = {start(_of(row, row.rate, row.pretrained, seed)): row for row in rows for seed in budget.seeds}
    for future in as_completed(futures):
        row, result = futures[future], future.result()
        row.finals.append(result)
        record()
        score = result["metrics"][task.score[0]]
        _say(progress, bar, f"{row.name}, seed {result['seed']}: {task.score[0]} {score:.3f} on test videos")
    for row in rows:
        row.finals.sort(key=lambda result: result["seed"])


def _of(row: Row, rate: float, pretrained: float, seed: int, search: bool = False) -> Training:
    return Training(row.spec, rate, seed, row.continuity, search, row.few, row.epochs, pretrained)


def summary(row: Row) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds) of every metric of a row."""
    weights = {"recurrent weights": row.weights, "weights": row.total}
    rates = {"learning rate": row.rate, "pre-trained share": row.pretrained}
    values: dict[str, Any] = {"network": row.name, **weights, **rates}
    for name in row.finals[0]["metrics"]:
        found = [result["metrics"][name] for result in row.finals]
        values[name] = statistics.fmean(found)
        # statistics.stdev fails if one of them is NaN, such as the number of frames until an answer that never comes
        values[f"{name} spread"] = float(np.std(found, ddof=1)) if len(found) > 1 else ""
    last = [result["history"]["train loss"][-1] for result in row.finals]
    return {**values, "train loss": statistics.fmean(last)}
