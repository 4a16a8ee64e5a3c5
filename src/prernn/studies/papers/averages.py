"""Metrics averaged over runs, such as the three splits of UCF101, of which papers report the mean (PreRNN, Table 7)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prernn.reports.files import write_table
from prernn.reports.tables import text_table
from prernn.training.run.run_files import read_metrics


def average(runs: Sequence[str | Path], out: str | Path | None = None) -> list[dict[str, Any]]:
    """Each metric that all runs have: its mean over them, its standard deviation, and each run's value.

    Args:
        runs: folders with a ``metrics.json``, written by ``prernn test`` or ``prernn fuse``, one per split.
        out: CSV to write.

    Returns:
        One row per metric: ``metric``, ``mean``, ``spread`` and the runs by their names as they were given.

    Raises:
        ValueError: fewer than two runs, a repeated run, one without metrics, or no common metric.
    """
    names = [str(run) for run in runs]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected at least two runs, each of them once, got {', '.join(names)}")
    found = [read_metrics(Path(run) / "metrics.json") for run in names]
    for name, values in zip(names, found, strict=True):
        if not values:
            raise ValueError(f"{name}: expected metrics.json, found none: run prernn test or prernn fuse first")
    metrics = [name for name in found[0] if all(name in values for values in found) and name not in SETTINGS]
    if not metrics:
        raise ValueError(f"expected runs with a metric in common, got {', '.join(names)}")
    rows = [_row(metric, dict(zip(names, (values[metric] for values in found), strict=True))) for metric in metrics]
    if out is not None:
        write_table(Path(out), rows)
    return rows


SETTINGS = ("threshold", "epoch")
"""Entries of a ``metrics.json`` that are not measurements."""


def _row(metric: str, values: dict[str, float]) -> dict[str, Any]:
    own = list(values.values())
    return {"metric": metric, "mean": float(np.mean(own)), "spread": float(np.std(own, ddof=1)), **values}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text for a terminal."""
    cells = [[row["metric"], *(f"{row[name]:.4g}" for name in row if name != "metric")] for row in rows]
    return text_table([list(rows[0]), *cells], left=1)
