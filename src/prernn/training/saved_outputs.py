"""What a network gave for each test video, as a file; and the mean of several networks' answers (late fusion)."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prernn.reports.files import whole_file, write_json
from prernn.tasks import restore
from prernn.training.dataset import collate

FILE_NAME = "outputs.safetensors"


class Outputs:
    """Outputs and annotation of videos: ``items``, each a dict with ``path``, ``out (T, K)`` and what `Task.read` gave
    but for the video itself.
    """

    def __init__(self, items: Iterable[dict[str, Any]] = ()) -> None:
        self.items = list(items)

    def add(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch's outputs ``(B, T, K)``; what was padded for the batch alone is cut off."""
        lengths = batch["lengths"].tolist()
        names = [name for name in batch if name not in ("video", "lengths", "skipped")]
        for row, steps in enumerate(lengths):
            own = {name: _row(batch[name], row, steps, max(lengths)) for name in names}
            self.items.append({"out": out[row, :steps].cpu().float(), **own})

    @classmethod
    def joined(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """Those of several processes, in the order of their paths."""
        return cls(sorted((item for part in parts for item in part.items), key=_place))

    def save(self, folder: Path, recipe: dict[str, Any]) -> Path:
        """Writes ``outputs.safetensors`` with the network's recipe; whole or not at all."""
        tensors: dict[str, Tensor] = {}
        plain = []
        for number, item in enumerate(self.items):
            parts = {name: value for name, value in item.items() if isinstance(value, Tensor)}
            tensors |= {f"{number}/{name}": value.contiguous() for name, value in parts.items()}
            plain.append({name: value for name, value in item.items() if name not in parts})
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / FILE_NAME) as part:
            save_file(tensors, part, metadata={"items": json.dumps(plain), "recipe": json.dumps(recipe)})
        return folder / FILE_NAME

    @classmethod
    def load(cls, folder: str | Path) -> tuple["Outputs", dict[str, Any]]:
        """Reads what `save` wrote: the outputs, and the recipe.

        Raises:
            ValueError: there is no such file, or it is another one.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder}: expected {FILE_NAME}, found none: run prernn test first")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                items, recipe = json.loads(metadata["items"]), json.loads(metadata["recipe"])
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    number, _, name = key.partition("/")
                    items[int(number)][name] = file.get_tensor(key)
        except (SafetensorError, KeyError, OSError) as error:
            raise ValueError(f"{path}: expected outputs of prernn test: {error}") from None
        return cls(items), recipe


def _place(item: dict[str, Any]) -> tuple[str, int]:
    """Which video an item is of, and which clip of it."""
    return item["path"], item.get("view", 0)


def _row(value: Any, row: int, steps: int, longest: int) -> Any:
    if not isinstance(value, Tensor):
        return value[row]
    if value.ndim == 1:
        return int(value[row])
    return value[row, :steps].cpu() if value.shape[1] == longest else value[row].cpu()


def fuse(runs: Sequence[str | Path], out: str | Path, weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Metrics of the mean of several networks' softmax scores, step by step (PreRNN, sections 4.2 and 4.3).

    Args:
        runs: run folders that `prernn test` has been through, on the same videos.
        out: folder for ``metrics.json`` and what the task reports.
        weights: of the runs; None weighs them alike.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: fewer than two runs, other videos or labels, outputs that are no classes, weights that don't fit.
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
        batch = collate([{**item, "video": item["out"]}])
        metrics.update(batch["out"], batch)
        items.append(item)
    results = task.report({name: value.tolist() for name, value in metrics.compute().items()}, root)
    results |= {"labels": recipe["labels"], "runs": [str(run) for run in runs], "weights": shares}
    Outputs(items).save(root, recipe)
    write_json(root / "metrics.json", results)
    return results


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"expected {count} weights of at least 0, not all 0, got {weights}")
    return [weight / sum(weights) for weight in weights]


def _check(run: str | Path, first: Outputs, other: Outputs, recipe: dict[str, Any], own: dict[str, Any]) -> None:
    if recipe.get("labels") is None:
        raise ValueError(f"{run}: expected outputs that are classes, got those of task {recipe.get('task')}")
    if own.get("labels") != recipe["labels"]:
        raise ValueError(f"{run}: expected the labels {recipe['labels']}, got {own.get('labels')}")
    mine, theirs = ([_place(item) for item in outputs.items] for outputs in (first, other))
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
