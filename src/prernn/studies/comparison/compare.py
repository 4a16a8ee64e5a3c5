"""``prernn compare``: one table for an application, every network with the same data, budget and search.

The networks (`lineup`) of PreRNN's table share a frozen trunk: everything before the layer that PreRNN converts. It
runs once over the videos (`prernn.training.frozen_trunk`). The part behind it trains: in the frame-wise CNN and below
a traditional RNN this includes that layer, with its pre-trained weights, so that no network has more to fine-tune than
another. The networks of RCN's table train as a whole, and batch normalization uses the statistics of its batches.

Learning rates are searched for each network separately, on a held-out part of the training videos; the networks are
then trained on all training videos with the best rate, once for each seed, and tested once.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from prernn.models.from_config import NetworkSpec
from prernn.reports.files import say_written, write_json, write_table
from prernn.reports.plots.curves import curves as draw_curves
from prernn.reports.progress import bars
from prernn.reports.tables import print_whole, seeds_text
from prernn.studies import early
from prernn.studies.comparison import disagreements, lineup
from prernn.studies.comparison.kept import Start, trainings
from prernn.studies.comparison.lineup import Budget, Row, check_comparable
from prernn.studies.comparison.trainings import inputs
from prernn.studies.comparison.tuning import best, search, summary, train_all
from prernn.tasks.task import Task
from prernn.training.data_module import VideoData


def compare(
    data: VideoData,
    spec: NetworkSpec,
    out: str | Path,
    budget: Budget | None = None,
    *,
    networks: str = "prernn",
    cells: Sequence[str] = lineup.CELLS,
    structures: Sequence[str] = ("band:21", "diagonal"),
    also: Sequence[str] = (),
    jobs: int = 2,
) -> list[dict[str, Any]]:
    """Compares networks on one task, each with the same data, budget and search.

    Args:
        data: the videos and their task.
        spec: backbone, its weights and the layer to convert; everything else is varied.
        out: folder for ``comparison.csv`` and ``.json``, ``convergence.png``, ``disagreements.csv`` and ``.png``
            (videos that one network gets right and another wrong) and, for actions, ``early.csv`` and ``.png``.
        budget: the budget of every network.
        networks: "prernn" (frame-wise, traditional, PreRNN and PreRNN-SIH with GRU and LSTM), "supplement" (hidden
            sizes, layers, pre-trained or random ``W_xy``: the PreRNN supplement's Tables 1 to 3), "rcn" (the four
            initializations of the supplement's Table 1 and the inflated network), "continuity" (the one network of
            ``spec``, with its states carried over in training in different ways) or "starts" (that network with
            ``W_hh`` initialized at different scales).
        cells: cells in PreRNN's table and the supplement's.
        structures: of ``W_hh``; tried on the PreRNN network that did best in the search, or on the RCN that starts
            pre-trained and at the identity.
        also: backbones to include unchanged in RCN's table, with random weights, such as "r3d_18".
        jobs: number of concurrent trainings, one thread each.

    Returns:
        The rows of ``comparison.csv``.

    Raises:
        ValueError: an unknown name of networks.
        NotImplementedError: a value bypasses the converted layer; a task whose networks can't be compared.
    """
    out, budget, begun = Path(out), budget or Budget(), time.time()
    _check(data.task, networks, also, budget)
    with bars() as progress:
        rows = _rows(spec, data.task, networks, cells, structures, also)
        known, train, test = inputs(data, rows, budget, progress, whole=networks == "rcn")
        with trainings(out, jobs, known, train, test) as start:
            rows = _tuned(start, rows, budget, data.task, progress, structures if networks == "prernn" else ())
            # written after each training, so that a long comparison that is stopped early leaves its results
            train_all(start, rows, budget, data.task, progress, lambda: _write_record(rows, budget, out))
    table = [summary(row) for row in rows]
    write_table(out / "comparison.csv", table)
    _write_record(rows, budget, out)
    _plot(rows, data.task, out)
    disagreements.write(rows, data.dataset("test"), data.task, out)
    if all("early" in result for row in rows for result in row.finals):
        early.write_curves({row.name: [result["early"] for result in row.finals] for row in rows}, out)
    print_whole(_table(table, data.task))
    say_written(out, begun)
    return table


def _check(task: Task, networks: str, also: Sequence[str], budget: Budget) -> None:
    check_comparable(task)
    if networks not in lineup.LINEUPS:
        raise ValueError(f"expected networks to be one of {', '.join(lineup.LINEUPS)}, got {networks!r}")
    if also and networks != "rcn":
        raise ValueError(f"expected further backbones only with networks='rcn', got {', '.join(also)}")
    if budget.joint and networks == "rcn":
        raise ValueError(f"joint: expected 0 for networks='rcn', which train as a whole, got {budget.joint}")


def _rows(
    spec: NetworkSpec, task: Task, networks: str, cells: Sequence[str], structures: Sequence[str], also: Sequence[str]
) -> list[Row]:
    if networks == "prernn":
        rows = lineup.prernn_rows(spec, task, cells)
        for hidden in structures:  # which follow the search: what does not fit must not come up hours later
            lineup.sparse_row(rows[-1], hidden, task)
        return rows
    if networks == "supplement":
        return lineup.supplement_rows(spec, task, cells)
    if networks == "continuity":
        return lineup.continuity_rows(spec, task)
    if networks == "starts":
        return lineup.start_rows(spec, task, structures)
    return lineup.rcn_rows(spec, task, structures, also)


def _tuned(
    start: Start, rows: list[Row], budget: Budget, task: Task, progress: Progress, structures: Sequence[str]
) -> list[Row]:
    """The rows with their learning rates, and sparse networks of the best PreRNN if ``structures`` are given."""
    search(start, rows, budget, task, progress)
    if not structures:
        return rows
    leader = best([row for row in rows if row.spec.method == "prernn"], task)
    sparse = [lineup.sparse_row(leader, hidden, task) for hidden in structures]
    search(start, sparse, budget, task, progress)
    return [*rows, *sparse]


def _write_record(rows: list[Row], budget: Budget, out: Path) -> None:
    write_json(out / "comparison.json", {"budget": asdict(budget), "rows": [lineup.record(row) for row in rows]})


def _plot(rows: list[Row], task: Task, out: Path) -> None:
    """Mean curves over the seeds."""
    series: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name in row.finals[0]["history"]:
            curves = np.array([result["history"][name] for result in row.finals])
            series.setdefault(name, {})[row.name] = curves.mean(0).tolist()
    draw_curves(
        series,
        out / "convergence.png",
        title=f"{task.name}: {'mean of ' if len(rows[0].finals) > 1 else ''}{seeds_text(len(rows[0].finals))}",
    )


def _table(rows: list[dict[str, Any]], task: Task) -> Table:
    named = [name for name in rows[0] if f"{name} spread" in rows[0]]
    metrics = [name for name in named if not all(math.isnan(row[name]) for row in rows)]  # those with any value
    several = all(row[f"{name} spread"] != "" for row in rows for name in metrics)
    table = Table(title=f"{task.name}: {'mean ± standard deviation over seeds' if several else 'one seed'}")
    table.add_column("network", no_wrap=True)
    for name in ("recurrent weights", "weights", "learning rate", *metrics, "train loss"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [f"{row[name]:.3f}" + (f" ±{row[f'{name} spread']:.3f}" if several else "") for name in metrics]
        weights = (f"{row['recurrent weights']:,}", f"{row['weights']:,}")
        table.add_row(row["network"], *weights, f"{row['learning rate']:g}", *cells, f"{row['train loss']:.3f}")
    return table
