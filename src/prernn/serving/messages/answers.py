"""Converts rows of a watcher to plain data for JSON."""

from typing import Any

from torch import Tensor

from prernn.reports.files import without_nan
from prernn.streaming.events import EventSpan
from prernn.streaming.prediction import Prediction


def plain_row(row: Any, labels: list[str] | None = None, top: int = 0) -> dict[str, Any]:
    """A row as a dict, whatever type a task's watcher returns; non-finite numbers become None.

    Args:
        row: a `Prediction`, an `EventSpan` or a dict.
        labels: names of the outputs, for ``top``.
        top: number of a prediction's most probable labels to add as ``top``, pairs of label and probability.
    """
    if isinstance(row, EventSpan):
        kind = "begin" if row.end is None else "end"
        row = {"event": kind, **{name: getattr(row, name) for name in EventSpan.__dataclass_fields__}}
    elif isinstance(row, Prediction):
        row = _prediction(row, labels, top)
    return without_nan(row)


def _prediction(row: Prediction, labels: list[str] | None, top: int) -> dict[str, Any]:
    plain = {"frame": row.index, "time_s": round(row.time, 3), "label": row.label}
    plain |= {"probability": round(row.probability, 4), "latency_ms": round(row.latency_ms, 2)}
    if top:
        plain["top"] = most_probable(row.probabilities, labels, top)
    return plain


def most_probable(probabilities: Tensor, labels: list[str] | None, top: int) -> list[list[Any]]:
    """Pairs of label and probability from ``(K,)``, the most probable first."""
    best = probabilities.topk(min(top, len(probabilities)))
    named = [str(i) if labels is None else str(labels[i]) for i in best.indices.tolist()]
    return [[name, round(p, 4)] for name, p in zip(named, best.values.tolist(), strict=True)]
