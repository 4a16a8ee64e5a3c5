"""The inside of trained runs: gates, curves, errors and weights on one page (``prernn analyze``)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from prernn.models.describe import describe
from prernn.reports.files import write_table, write_text
from prernn.reports.page import page, picture, table
from prernn.reports.plots import curves
from prernn.reports.plots.gates import histograms, saturation
from prernn.studies.runs.gates import GateCounts
from prernn.studies.runs.run import Run, look_at
from prernn.studies.runs.videos import Batches

SATURATION_TEXT = (
    "One point per unit: the fraction of time that its gate is below 0.1 (left saturated) and above 0.9 (right "
    "saturated). On the diagonal a gate is always saturated, at the origin never. Large points are the networks' means "
    "(PreRNN, Figure 2)."
)
BANDS_TEXT = (
    "Weights that recurrence introduces with recurrent matrices from diagonal to full, with one input per gate and "
    "with one for all (SIH), relative to PreRNN full, to which traditional RNNs are matched (PreRNN, Table 3; BandRNN)."
)


def analyze(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    batches: Batches | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes pictures and tables of some runs into a folder, and a page ``index.html`` that shows them together.

    ``runs.csv`` (one row per run); ``training.png`` and ``.csv`` (PreRNN, Figure 4); ``errors.png`` and ``.csv``
    (Figure 3); for each cell ``saturation_CELL.png`` and ``histogram_CELL.png``, with ``saturation.csv`` and
    ``histogram.csv`` (Figure 2); ``weights.png``, and for each kind of converted network ``bands_1.png`` and so on,
    with ``bands.csv`` (Table 3; the talk's bars for BandRNN). Parts that no run has are omitted.

    Args:
        runs: run folders or checkpoints (see `prernn.models.checkpoint.load`).
        out: the folder.
        batches: from a run's folder and network to the videos over which gates are plotted; None omits the gates.
        limit: maximum number of videos for each run.
        say: called with a line of progress for each run.

    Returns:
        The page.

    Raises:
        ValueError: no runs, one given twice, one that can't be loaded; a table in a run's folder that can't be read,
            with file and line; a video that can't be read.
    """
    paths = [Path(path) for path in runs]
    if not paths:
        raise ValueError("expected at least one run, got none")
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 video, got {limit}")
    seen = []
    for path, name in zip(paths, short_names(paths), strict=True):
        say(f"{name}: looking at {path}")
        seen.append(look_at(path, name, batches, limit))
    out = Path(out)
    rows = _rows(seen)
    write_table(out / "runs.csv", rows)
    body = [table(rows, link="runs.csv")]
    for draw in (_draw_training, _draw_errors, _draw_gates, _draw_weights, _draw_bands):
        body += draw(seen, out)
    notes = [f"{run.name}: {note}" for run in seen for note in run.notes]
    return write_text(out / "index.html", page("prernn analyze", body, notes))


def short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, long enough to distinguish them; a run folder stands for its model.

    Raises:
        ValueError: a path that is given twice.
    """
    resolved = [path.resolve() for path in paths]
    for path, whole in zip(paths, resolved, strict=True):
        if resolved.count(whole) > 1:
            raise ValueError(f"{path}: expected different runs, got this one twice")
    places = [whole if whole.is_dir() else whole.with_suffix("") for whole in resolved]
    places = [place.parent if place.name == "model" else place for place in places]
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The table of runs: what each is, its weights and metrics; blank if a run lacks a metric."""
    metrics = list(dict.fromkeys(key for run in runs for key in run.metrics))
    rows = []
    for run in runs:
        reference = _reference(run, runs)
        row: dict[str, Any] = {
            "run": run.name,
            "task": run.recipe.task.name if run.recipe.task else "",
            "backbone": run.recipe.backbone or "",
            "network": describe(run.recipe),
            "recurrent weights": run.weights,
            "to PreRNN full": f"{run.weights / reference:.3g}" if reference else "",
        }
        rows.append(row | {key: _short(run.metrics[key]) if key in run.metrics else "" for key in metrics})
    return rows


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _reference(run: Run, runs: Sequence[Run]) -> int | None:
    """Weights of PreRNN with full ``W_hh`` on this run's layers; for a traditional run, those of a similar run."""
    for other in [run, *runs]:
        alike = other.recipe.backbone == run.recipe.backbone and set(other.cells) == set(run.cells)
        if other.grid and alike:
            return next(iter(other.grid["full"].values()))
    return None


def _names(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs]


# Each of these draws a part, writes its tables, and returns its HTML; nothing if no run has the data.


def _draw_training(runs: Sequence[Run], out: Path) -> list[str]:
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    rows = []
    for run in runs:
        for row in run.history:
            for metric, value in row.items():
                if metric != "epoch" and not metric.startswith("lr_"):
                    epochs, values = series.setdefault(metric, {}).setdefault(run.name, ([], []))
                    epochs.append(row["epoch"])
                    values.append(value)
                    rows.append({"run": run.name, "epoch": int(row["epoch"]), "metric": metric, "value": value})
    if not rows:
        return []
    write_table(out / "training.csv", rows)
    # losses first, beginning with that of training
    ordered = dict(sorted(series.items(), key=lambda item: (not item[0].endswith("_loss"), item[0] != "train_loss")))
    path = curves.training(ordered, out / "training.png", names=_names(runs))
    return [picture(path, "Training curves", "Each run's history, by epoch (PreRNN, Figure 4).", ["training.csv"])]


def _draw_errors(runs: Sequence[Run], out: Path) -> list[str]:
    series = {run.name: run.errors for run in runs if run.errors is not None}
    if not series:
        return []
    rows = [
        {"run": name, "error": error, "share": share}
        for name, (errors, shares) in series.items()
        for error, share in zip(errors, shares, strict=True)
    ]
    write_table(out / "errors.csv", rows)
    path = curves.cumulative_errors(series, out / "errors.png", names=_names(runs))
    text = "Share of frames whose error is at most this large (PreRNN, Figure 3)."
    return [picture(path, "Cumulative error curves", text, ["errors.csv"])]


def _draw_gates(runs: Sequence[Run], out: Path) -> list[str]:
    _write_gates(runs, out)
    parts = []
    for cell in dict.fromkeys(cell for run in runs if run.gates for cell in run.cells):
        parts += _draw_saturation(runs, cell, out)
        parts += _draw_histogram(runs, cell, out)
    return parts


def _draw_saturation(runs: Sequence[Run], cell: str, out: Path) -> list[str]:
    own = [entry for entry in _counts(runs, cell) if entry[3].switches]
    grid = _grid((number, gate, name, counts.saturation()) for number, gate, name, counts in own)
    if not grid:
        return []
    path = saturation(grid, out / f"saturation_{cell.lower()}.png", names=_names(runs))
    return [picture(path, f"{cell}: gate saturation", SATURATION_TEXT, ["saturation.csv"])]


def _draw_histogram(runs: Sequence[Run], cell: str, out: Path) -> list[str]:
    own = list(_counts(runs, cell))
    grid = _grid((number, gate, name, counts.histogram()) for number, gate, name, counts in own)
    if not grid:
        return []
    ranges = {gate: (counts.low, counts.high) for _, gate, _, counts in own}
    path = histograms(grid, ranges, out / f"histogram_{cell.lower()}.png", names=_names(runs))
    text = "The activations of all units at all times, as shares in each of 10 bins (PreRNN, Figure 2)."
    return [picture(path, f"{cell}: gate activations", text, ["histogram.csv"])]


def _counts(runs: Sequence[Run], cell: str | None = None) -> Iterator[tuple[int, str, str, GateCounts]]:
    """Layer, gate, run and counts of every gate (of a cell); layers by number, as networks name them differently."""
    for run in runs:
        for number, (own, gates) in enumerate(zip(run.cells, run.gates, strict=False), 1):
            for gate, counts in gates.items():
                if cell in (None, own):
                    yield number, gate, run.name, counts


def _grid(cells: Iterable[tuple[int, str, str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """``{layer: {gate: {run: value}}}``, values as numpy arrays."""
    grid: dict[str, dict[str, dict[str, Any]]] = {}
    for number, gate, name, value in sorted(cells, key=lambda cell: cell[0]):
        arrays = tuple(v.numpy() for v in value) if isinstance(value, tuple) else value.numpy()
        grid.setdefault(f"layer {number}", {}).setdefault(gate, {})[name] = arrays
    return grid


def _write_gates(runs: Sequence[Run], out: Path) -> None:
    units, bins = [], []
    for number, gate, name, counts in _counts(runs):
        place = {"run": name, "layer": number, "gate": gate}
        if counts.switches:
            for unit, (left, right) in enumerate(zip(*map(Tensor.tolist, counts.saturation()), strict=True)):
                units.append({**place, "unit": unit, "left": f"{left:.6g}", "right": f"{right:.6g}"})
        shares = counts.histogram().tolist()
        width = (counts.high - counts.low) / len(shares)
        for k, share in enumerate(shares):
            edges = {"from": f"{counts.low + k * width:.1f}", "to": f"{counts.low + (k + 1) * width:.1f}"}
            bins.append({**place, **edges, "share": f"{share:.6g}"})
    for path, rows in ((out / "saturation.csv", units), (out / "histogram.csv", bins)):
        if rows:
            write_table(path, rows)


def _draw_weights(runs: Sequence[Run], out: Path) -> list[str]:
    ratios = {run.name: run.weights / reference for run in runs if (reference := _reference(run, runs))}
    if not ratios:
        return []
    bars = {name: {"": ratio} for name, ratio in ratios.items()}
    path = curves.ratio_bars(bars, out / "weights.png", label="recurrent weights,\nto PreRNN full")
    text = "Weights that recurrence introduced, relative to PreRNN with full recurrent matrices on the same layers."
    return [picture(path, "Recurrent weights of the runs", text, ["runs.csv"])]


def _draw_bands(runs: Sequence[Run], out: Path) -> list[str]:
    parts: list[str] = []
    rows: list[dict[str, Any]] = []
    kinds = {(_place(run), next(iter(run.grid["full"]))): run.grid for run in runs if run.grid}
    for (place, network), grid in kinds.items():
        full = grid["full"][network]
        ratios = {structure: {name: w / full for name, w in forms.items()} for structure, forms in grid.items()}
        for structure, forms in grid.items():
            for name, weights in forms.items():
                kind = {"place": place, "network": name, "hidden": structure}
                rows.append({**kind, "weights": weights, "ratio": f"{weights / full:.6g}"})
        title, label = f"{network} at {place}", f"recurrent weights,\nto {network} full"
        path = curves.ratio_bars(ratios, out / f"bands_{len(parts) + 1}.png", label=label, title=title)
        parts.append(picture(path, f"Recurrent weights: {title}", BANDS_TEXT, ["bands.csv"]))
    if rows:
        write_table(out / "bands.csv", rows)
    return parts


def _place(run: Run) -> str:
    """The layers that were made recurrent, and their backbone."""
    steps = [step for step in run.recipe.steps if step.name == "convert"]
    layers = ", ".join(layer for step in steps for layer in step.arguments["layer"])
    return f"{layers} of {run.recipe.backbone or 'a CNN'}"
