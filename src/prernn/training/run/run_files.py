"""Reads the files of a run folder."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from prernn.conversion.recipe import Recipe
from prernn.models import checkpoint
from prernn.reports.files import write_text


def run_folder_of(path: Path) -> Path:
    """The run folder of a path: the path itself, or the folder to which the checkpoint file belongs."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def weights_of(path: Path) -> str:
    """Which weights a run folder or checkpoint file contains, in words: the file, and its epoch if known."""
    if not path.is_dir():
        return str(path)
    history = read_table(path / "history.csv", ["epoch"])
    epoch = f" (epoch {history[-1]['epoch']:g}, the last)" if history else ""
    return f"{path / 'model.safetensors'}{epoch}"


def read_metrics(path: Path) -> dict[str, float]:
    """Scalars of a ``metrics.json``; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return {key: v for key, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, float]]:
    """Rows of a CSV of numbers, without blanks; empty if there is no file.

    Raises:
        ValueError: a cell that is not a number, with file and line; a table without the ``needed`` columns.
    """
    if not path.is_file():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        absent = [column for column in needed if column not in (reader.fieldnames or [])]
        if absent:
            raise ValueError(f"{path}:1: expected a column {absent[0]!r}, got {reader.fieldnames or []}")
        for row in reader:
            rows.append({key: _number(value, path, reader.line_num, key) for key, value in row.items() if value})
            if missing := [column for column in needed if column not in rows[-1]]:
                raise ValueError(f"{path}:{reader.line_num}: expected a number in column {missing[0]!r}, got none")
    return rows


def write_confidence(path: Path, recipe: Recipe, options: dict[str, Any]) -> None:
    """Writes options of a run's task into both its checkpoint's recipe and its config.yaml.

    Args:
        path: the run's folder, or a checkpoint in it, as in `write_recipe`.
        recipe: the new recipe of the checkpoints.
        options: the options of the task.

    Raises:
        ValueError: not a prernn checkpoint, a configuration without a task.
        OSError: a file can't be written.
    """
    config = run_folder_of(path) / "config.yaml"
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    try:
        task = values["data"]["task"]
        task["init_args"] = {**(task.get("init_args") or {}), **options}
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{config}: expected a configuration with data.task, found another file") from None
    write_recipe(path, recipe)
    write_text(config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Gives a run another recipe.

    Args:
        path: the run's folder, of which ``model.safetensors`` and ``checkpoints/last.ckpt``, which has the same
            weights, are changed; or a checkpoint in it, of which only that is changed.
        recipe: the new recipe.

    Raises:
        ValueError: not a prernn checkpoint.
        OSError: a file can't be written.
    """
    files = [path / checkpoint.FILE_NAME, path / "checkpoints" / "last.ckpt"] if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            checkpoint.rewrite_recipe(file, recipe)


def _number(text: Any, path: Path, line: int, column: str | None) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        place = "more values than columns" if column is None else f"{text!r} in column {column!r}"
        raise ValueError(f"{path}:{line}: expected a number, got {place}") from None


def read_errors(path: Path) -> tuple[list[float], list[float]] | None:
    rows = read_table(path, ["error", "share"])
    return ([row["error"] for row in rows], [row["share"] for row in rows]) if rows else None
