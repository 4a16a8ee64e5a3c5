"""The search for each network's learning rate, and the final trainings with the rate that was found."""

import math
from collections.abc import Callable
from concurrent.futures import Executor, as_completed

from rich.progress import Progress, TaskID

from prernn.studies.comparison.lineup import Budget, Row
from prernn.studies.comparison.trainings import LIVE, Training, train_one
from prernn.tasks.task import Task

SEARCH_SEED = 100
"""Of the trainings of a search, whose weights no final training begins with."""


def search(executor: Executor, rows: list[Row], budget: Budget, task: Task, progress: Progress) -> None:
    """Finds each row's learning rate by the score on the held-out videos."""
    bar = progress.add_task("search for learning rates", total=len(rows) * len(budget.rates), note="")
    name = f"{LIVE} {task.score[0]}" if budget.judge == "live" else task.score[0]
    futures = {
        executor.submit(train_one, _of(row, rate, SEARCH_SEED, search=True)): (row, rate)
        for row in rows
        for rate in budget.rates
    }
    for future in as_completed(futures):
        row, rate = futures[future]
        row.search[rate] = future.result()["metrics"][name]
        _say(progress, bar, f"{row.name} at {rate:g}: {name} {row.search[rate]:.3f} on held-out videos")
    for row in rows:
        row.rate = best_rate(row.search, task)


def _say(progress: Progress, bar: TaskID, text: str) -> None:
    """Advances a bar; where there is no terminal to show it, a line says how far it is."""
    progress.update(bar, advance=1, note=text)
    if not progress.console.is_terminal:
        print(text, flush=True)


def best_rate(search: dict[float, float], task: Task) -> float:
    """The rate with the best score."""
    return max(sorted(search), key=lambda rate: _merit(search[rate], task))  # of equal scores the lower rate


def best(rows: list[Row], task: Task) -> Row:
    """The row that did best in the search."""
    return max(rows, key=lambda row: _merit(row.search[row.rate], task))


def _merit(score: float, task: Task) -> float:
    """A score as a number of which more is better; that of a network that diverged is worst."""
    if math.isnan(score):
        return -math.inf
    return score if task.score[1] == "max" else -score


def train_all(
    executor: Executor,
    rows: list[Row],
    budget: Budget,
    task: Task,
    progress: Progress,
    record: Callable[[], None],
) -> None:
    """Trains each row once for each seed, on all training videos, and tests it; ``record`` is called after each."""
    bar = progress.add_task("final trainings", total=len(rows) * len(budget.seeds), note="")
    futures = {executor.submit(train_one, _of(row, row.rate, seed)): row for row in rows for seed in budget.seeds}
    for future in as_completed(futures):
        row, result = futures[future], future.result()
        row.finals.append(result)
        record()
        score = result["metrics"][task.score[0]]
        _say(progress, bar, f"{row.name}, seed {result['seed']}: {task.score[0]} {score:.3f} on test videos")
    for row in rows:
        row.finals.sort(key=lambda result: result["seed"])


def _of(row: Row, rate: float, seed: int, search: bool = False) -> Training:
    return Training(row.spec, rate, seed, row.continuity, search, row.few, row.epochs)
