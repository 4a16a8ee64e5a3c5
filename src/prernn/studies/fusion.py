"""Late fusion: averages the softmax of several tested runs, step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.conversion.recipe import Recipe
from prernn.reports.files import write_json
from prernn.reports.numbers import plain
from prernn.tasks import restore
from prernn.training.batches import collate
from prernn.training.run.saved_outputs import Outputs, place_of


def fuse(runs: Sequence[str | Path], out: str | Path, weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Metrics of the mean of several networks' softmax scores, step by step (PreRNN, sections 4.2 and 4.3).

    Args:
        runs: run folders that ``prernn test`` was run on, with the same videos.
        out: folder for ``metrics.json`` and the task's report.
        weights: weights of the runs; None weights them equally.

    Returns:
        The contents of ``metrics.json``.

    Raises:
        ValueError: fewer than two runs, different videos or labels, outputs that are not classes, unfit weights.
    """
    if len(runs) < 2:
        raise ValueError(f"expected at least two runs to fuse, got {len(runs)}")
    shares = _shares(weights, len(runs))
    loaded = [Outputs.load(run) for run in runs]
    (first, recipe), root = loaded[0], Path(out)
    for run, (other, other_recipe) in zip(runs, loaded, strict=True):
        _check(run, first, other, recipe, other_recipe)
    task = restore(recipe)
    metrics, items = task.metrics(), []
    for rows in zip(*(outputs.items for outputs, _ in loaded), strict=True):
        item = _fused(rows, shares)
        batch = collate([{**item, "input": item["out"]}])
        metrics.update(batch["out"], batch)
        items.append(item)
    results = task.report({name: plain(value) for name, value in metrics.compute().items()}, root)
    results |= {"runs": [str(run) for run in runs], "weights": shares}
    Outputs(items).save(root, recipe)
    write_json(root / "metrics.json", results)
    return results


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"expected {count} weights of at least 0, not all 0, got {weights}")
    return [weight / sum(weights) for weight in weights]


def _check(run: str | Path, first: Outputs, other: Outputs, recipe: Recipe, own: Recipe) -> None:
    if recipe.labels is None:
        raise ValueError(
            f"{run}: expected outputs that are classes, got those of task {recipe.task and recipe.task.name}"
        )
    if own.labels != recipe.labels:
        raise ValueError(f"{run}: expected the labels {recipe.labels}, got {own.labels}")
    mine, theirs = ([place_of(item) for item in outputs.items] for outputs in (first, other))
    if mine != theirs:
        odd = sorted(set(mine) ^ set(theirs))
        raise ValueError(
            f"{run}: expected the same {len(mine)} videos as in the first run, got {len(theirs)}: {odd[:3]}"
        )


def _fused(rows: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    """One video's item with the log of its mean probabilities."""
    steps = {len(row["out"]) for row in rows}
    if len(steps) > 1:
        raise ValueError(f"{rows[0]['path']}: expected outputs of one length, got {sorted(steps)}")
    mean = sum(share * row["out"].softmax(-1) for share, row in zip(shares, rows, strict=True))
    assert isinstance(mean, Tensor)
    return {**rows[0], "out": torch.log(mean.clamp(min=torch.finfo(mean.dtype).tiny))}  # (T, K)
