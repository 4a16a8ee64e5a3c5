"""What is known of a trained run: its network, the gates of it over videos, and the tables in its folder."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.models import checkpoint
from prernn.conversion.accounting import recurrent_parameters
from prernn.layers.cells import LinearCell
from prernn.studies.runs.gates import GateCounts, bounded_gates, gate_counts
from prernn.layers.input_to_hidden import SingleInput
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.structures.parse import hidden_structure

BANDS = ("diagonal", "band:1%", "band:5%", "band:10%", "full")
"""Structures of the talk's BandRNN tables."""

LONGEST = 256
"""Frames that `video_batches` reads of a video at most."""

Batches = Callable[[Path, RecurrentNetwork], Iterable[dict[str, Any]]]
"""From a run's folder and its network to batches of videos for it."""


@dataclass
class Run:
    """What is known of one run; the network itself is not kept.

    Attributes:
        name: short and unique.
        folder: that holds its files.
        recipe: of its network.
        weights: that recurrence introduced.
        cells: the name of each recurrent layer's cell.
        gates: ``[{gate: counts}]``, an entry for each recurrent layer; empty where they were not looked at.
        grid: ``{structure: {network: weights}}``, what the converted layers would introduce; empty where none is.
        metrics: scalars of ``metrics.json``.
        history: ``history.csv``.
        errors: ``ced.csv``: errors and shares.
        notes: what could not be looked at, and why.
    """

    name: str
    folder: Path
    recipe: dict[str, Any]
    weights: int
    cells: list[str]
    gates: list[dict[str, GateCounts]]
    grid: dict[str, dict[str, int]]
    metrics: dict[str, float]
    history: list[dict[str, float]]
    errors: tuple[list[float], list[float]] | None
    notes: list[str] = field(default_factory=list)


def _folder(path: Path) -> Path:
    """The run folder of a path: itself, or where the checkpoint file belongs to."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def look_at(path: Path, name: str, batches: Batches | None = None, limit: int | None = None) -> Run:
    """Loads a run, runs its network over videos, and reads its tables. Arguments and errors as in `analyze`."""
    net, folder = checkpoint.load(path), _folder(path)
    run = Run(
        name=name,
        folder=folder,
        recipe=net.recipe,
        weights=recurrent_parameters(net).introduced,
        cells=[_cell(layer) for layer in net.recurrent_layers],
        gates=[],
        grid=weight_grid(net),
        metrics=_read_metrics(folder / "metrics.json"),
        history=_read_table(folder / "history.csv", ["epoch"]),
        errors=_read_errors(folder / "ced.csv"),
    )
    if batches is not None:
        run.gates = _gates(run, net, batches, limit)
    return run


def _cell(layer: RecurrentLayer) -> str:
    return type(layer.cell).__name__.removesuffix("Cell")


def _gates(run: Run, net: RecurrentNetwork, batches: Batches, limit: int | None) -> list[dict[str, GateCounts]]:
    if not net.recurrent_layers:
        run.notes.append("no recurrent layer, hence no gates")
        return []
    if not any(map(bounded_gates, net.recurrent_layers)):
        run.notes.append("none of its gates has bounds, hence no histogram")
        return []
    try:
        counts = list(gate_counts(net, first_videos(batches(run.folder, net), limit)).values())
    except NotImplementedError as error:
        run.notes.append(f"gates: {error}")
        return []
    if any(count.times == 0 for gates in counts for count in gates.values()):
        run.notes.append("gates: expected at least one video, got none")
        return []
    return counts


def first_videos(batches: Iterable[dict[str, Any]], limit: int | None) -> Iterator[dict[str, Any]]:
    """The batches' videos, at most ``limit`` of them; None gives all."""
    left = math.inf if limit is None else limit
    for batch in batches:
        if "video" not in batch:
            continue
        count = int(min(left, len(batch["video"])))
        yield {key: batch[key][:count] for key in ("video", "lengths")}
        left -= count
        if left <= 0:
            return


def video_batches(sources: Sequence[str | Path]) -> Batches:
    """Videos from anywhere as the batches of `analyze`: each through the network's own evaluation transform.

    Args:
        sources: video files, folders of frames, and folders of videos (with those in their folders). Of each video
            the first 256 frames are taken; a network over snippets takes them in whole snippets.

    Raises:
        VideoError, a ValueError: an absent or empty source (at once), a video that can't be read, or one that is
            shorter than a snippet (both when it is its turn).
        NotImplementedError: a network that does not see plain colour frames (when it is asked for batches).
    """
    files = [file for source in sources for file in _videos_in(Path(source))]
    return lambda folder, net: _read_batches(files, net)


def _videos_in(source: Path) -> list[Path]:
    from prernn.media.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError

    if not source.is_dir():
        if not source.is_file():
            raise VideoError(f"{source}: no such file or folder")
        return [source]
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in source.glob("[!.]*")):
        return [source]
    files = sorted(file for file in source.rglob("[!.]*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise VideoError(f"{source}: expected videos or frames in this folder, found none")
    return files


def _read_batches(files: Sequence[Path], net: RecurrentNetwork) -> Iterator[dict[str, Any]]:
    from prernn.media.transforms import Sampling, TransformSpec, clip_transform
    from prernn.media.video import read_clip

    channels, transform = net.frame_shape[0], net.recipe.get("transform")
    if channels != 3 or not transform or transform.get("flow"):
        seen = f"{channels} channels" if transform else "a network without a transform"
        raise NotImplementedError(f"expected a network over colour frames for videos from anywhere, got {seen}")
    prepare = clip_transform(TransformSpec.from_dict(transform), train=False)
    for file in files:
        frames = prepare(read_clip(file, Sampling(frames=LONGEST, rule="all")))  # (T, C, H, W)
        video = _snippets(frames, net.frame_shape[1], file) if len(net.frame_shape) == 4 else frames
        yield {"video": video[None], "lengths": torch.tensor([len(video)])}


def _snippets(frames: Tensor, depth: int, file: Path) -> Tensor:
    """``(T*D, C, H, W)`` to whole snippets ``(T, C, D, H, W)``; VideoError where there is not one."""
    from prernn.media.video import VideoError

    count = len(frames) // depth
    if not count:
        raise VideoError(f"{file}: expected at least a snippet of {depth} frames, got {len(frames)}")
    return frames[: count * depth].unflatten(0, (count, depth)).transpose(1, 2)


def weight_grid(net: RecurrentNetwork, structures: Sequence[str] = BANDS) -> dict[str, dict[str, int]]:
    """Weights that recurrence would introduce into the layers that `prernn.convert` made recurrent in this network.

    Layers on top of them count as they are.

    Returns:
        ``{structure: {"PreLSTM": weights, "PreLSTM-SIH": weights}}``, VRNN with one bar; empty where no layer is
        converted or where the converted layers have different cells.
    """
    converted = [
        layer
        for layer in net.recurrent_layers
        if isinstance(layer.input_to_hidden, SingleInput) and not isinstance(layer.cell, LinearCell)
    ]
    cells = {_cell(layer) for layer in converted}
    if len(cells) != 1:
        return {}
    (cell,) = cells
    count = recurrent_parameters(net)
    pairs = zip(count.layers, net.recurrent_layers, strict=True)
    on_top = sum(c.input_to_hidden + c.hidden_to_hidden for c, layer in pairs if layer not in converted)
    copies = sum((len(x.cell.gates) - 1) * _layer_weights(x) for x in converted)
    grid = {}
    for spec in structures:
        structure = hidden_structure(spec)
        recurrent = sum(len(x.cell.gates) * structure.weight_count(x.hidden_size) for x in converted) + on_top
        # a VRNN has one gate, which keeps the CNN's weights: nothing to simplify
        forms = {f"Pre{cell}": copies + recurrent} | ({f"Pre{cell}-SIH": recurrent} if copies else {})
        grid[spec] = forms
    return grid


def _layer_weights(layer: RecurrentLayer) -> int:
    """Weights of the CNN's own layer inside a converted one."""
    weight = layer.input_to_hidden.layer.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight.numel()


def describe(recipe: dict[str, Any]) -> str:
    """A network's steps in words: "PreLSTM-SIH at fc7, band:1%"."""
    steps = " + ".join(_describe_step(step) for step in recipe.get("steps", []))
    return f"inflated to 3-D, {steps}" if recipe.get("inflate") is not None else steps


def _describe_step(step: dict[str, Any]) -> str:
    if step["step"] == "framewise":
        return "frame-wise"
    if step["step"] == "rcn":
        return _describe_rcn(step)
    cell, hidden = step["cell"].upper(), step.get("hidden", "full")
    structure = "" if hidden == "full" else f", {hidden}"
    if step["step"] == "traditional":
        layers = "1 layer" if step["num_layers"] == 1 else f"{step['num_layers']} layers"
        size = f" of {step['hidden_size']}" if step.get("hidden_size") else ""
        return f"traditional {cell}, {layers}{size}{structure}"
    form = "-SIH" if step["input"] == "single" and cell != "VRNN" else ""
    drawn = "" if step.get("pretrained", True) else ", drawn anew"
    return f"Pre{cell}{form} at {', '.join(step['layer'])}{structure}{drawn}"


def _describe_rcn(step: dict[str, Any]) -> str:
    hidden, mix = step.get("hidden", "full"), step.get("mix", "mean")
    parts = [f"RCN of {len(step['layers'])} layers"]
    parts += [hidden] if hidden != "full" else []
    parts += [mix] if mix != "mean" else []
    parts += [f"{step['init']} start"] if step.get("init", "identity") != "identity" else []
    return ", ".join(parts + ([] if step.get("pretrained", True) else ["drawn anew"]))


def _read_metrics(path: Path) -> dict[str, float]:
    """Scalars of a ``metrics.json``; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return {key: v for key, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _read_table(path: Path, needed: Sequence[str]) -> list[dict[str, float]]:
    """Rows of a CSV of numbers, blanks left out; nothing where there is no file.

    Raises ValueError, naming file and line, for what is no number, or a table without the ``needed`` columns.
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


def _number(text: Any, path: Path, line: int, column: str | None) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        place = "more values than columns" if column is None else f"{text!r} in column {column!r}"
        raise ValueError(f"{path}:{line}: expected a number, got {place}") from None


def _read_errors(path: Path) -> tuple[list[float], list[float]] | None:
    rows = _read_table(path, ["error", "share"])
    return ([row["error"] for row in rows], [row["share"] for row in rows]) if rows else None
