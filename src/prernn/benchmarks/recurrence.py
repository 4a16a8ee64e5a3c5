"""Speed of recurrent layers: diagonal and band recurrences compared with full ones, torch.nn and other packages.

Candidates of one group (threads, cell, shape, mode) take turns within one run; figures are medians, and the CSV has the
quartiles. Inputs, weights and gradients are random. Forward is timed under torch.no_grad, for all of them; training is
forward and backward with gradients of inputs and weights. For how the floors are counted, see
`prernn.benchmarks.measuring.timing`.
"""

import argparse
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console, Group
from rich.progress import Progress

from prernn import ops
from prernn.benchmarks.measuring import candidates, goals, report
from prernn.benchmarks.measuring.report import Row
from prernn.benchmarks.measuring.timing import Ceilings, Stopwatch, Times, threads
from prernn.layers.structures.irregular import Sparse
from prernn.ops import compressed_rows
from prernn.ops.input_projection import linear
from prernn.reports.files import write_table

SHAPES = (goals.STEP, goals.MAIN, goals.LONG, (256, 1, 512))
"""``(T, B, D)``."""
MODES = ("forward", "training")
STRUCTURES = {
    "lstm": ("full", "grouped:16", "sparse:0.02", "paths:8", "band:21", "band:3", "diagonal"),
    "gru": ("full", "band:3", "diagonal"),
    "vrnn": ("full", "band:3", "diagonal"),
}
LOOPS = ("diagonal",)
"""Structures that are also timed in plain torch."""
GROWTH = ("full", "band:101", "band:21", "band:3", "diagonal")
GROWTH_SIZES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
PRODUCT_SIZES = (512, 2048)
PRODUCT_ROWS = (1, 8, 128, 2048)
INPUTS = (
    *("full", "grouped:4", "grouped:16", "band:5%", "band:1%"),
    *("sparse:0.1", "sparse:0.02", "paths:32", "paths:8", "diagonal"),
)
"""Structures of ``W_ih``."""
INPUT_GOALS = {"forward": 12, "training": 10}
"""Speedup over torch.nn.LSTM that grouped:4 should reach."""
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
BATCHES = (1, 8, 64)

Track = Callable[..., Iterable]
"""`rich.progress.Progress.track`: iterates over a sequence with a progress bar."""


def run(options: argparse.Namespace) -> None:
    """Measures what the options request, prints the tables and writes them.

    Raises:
        ValueError: no GPU, or operators that a table needs are missing.
    """
    _check(options)
    counts = options.threads if options.device == "cpu" else [1]  # a GPU has no threads to choose
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(options.device, options.repeats)
    tables: list[Group] = []
    alone = options.growth or options.linear or options.rows or options.inputs
    with warnings.catch_warnings(), Progress(console=Console(stderr=True), transient=True) as progress:
        warnings.filterwarnings("ignore", module=r"(sru|torch)\b")  # we can't change what other packages call
        if not alone:
            tables += recurrences(stopwatch, counts, _targets(options), out, progress.track)
        if options.growth or not alone:
            tables += growth(stopwatch, counts[0], options.sizes or GROWTH_SIZES, out, progress.track)
        if options.linear:
            tables += products(stopwatch, counts, options.sizes or PRODUCT_SIZES, out, progress.track)
        if options.inputs:
            tables += structured_inputs(stopwatch, counts, options.cells, options.shapes, out, progress.track)
        if options.rows:
            tables += row_products(stopwatch, counts, options.sizes or PRODUCT_SIZES, out, progress.track)
    report.show([report.machine(options.device), *tables], out / "tables.md")
    print(f"written to {out}")


def _check(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a GPU for --device cuda, found none")
    if options.device == "cuda" and (options.linear or options.rows):
        raise ValueError("expected --device cpu for --linear and --rows: they are about the CPU's operators")
    if options.linear and not torch.backends.mkldnn.is_available():
        raise ValueError("expected oneDNN in this build of torch for --linear, found none")
    if options.rows and ops.missing("native"):
        raise ValueError(f"expected the C kernels for --rows: {ops.missing('native')}")


def _targets(options: argparse.Namespace) -> list[tuple[str, candidates.Shape]]:
    """Cells and shapes: by default LSTM at all shapes and the others at one."""
    if options.cells or options.shapes:
        return list(itertools.product(options.cells or ["lstm"], options.shapes or SHAPES))
    return [("lstm", shape) for shape in SHAPES] + [(name, goals.MAIN) for name in candidates.KINDS if name != "lstm"]


def recurrences(stopwatch: Stopwatch, counts: Sequence[int], targets: Sequence, out: Path, track: Track) -> list[Group]:
    """Layers and recurrences alone, with the goals and the machine's ceilings."""
    found: list[Row] = []
    groups = list(itertools.product(counts, targets, ("layer", "recurrence")))
    for count, (cell, shape), part in track(groups, description="recurrences"):
        with threads(count):
            found += measure(stopwatch, count, part, cell, shape)
    found += estimates(found)
    ceilings = {count: Ceilings(stopwatch) for count in counts}
    reached, checked = [], []
    for count in track(counts, description="ceilings"):
        with threads(count):
            reached.append({"threads": count, **ceilings[count].measured()})
            if count == 1:
                checked = goals.check(found, goals.GOALS[stopwatch.device], ceilings[count])
    write_table(out / "recurrence.csv", [row.line() for row in found])
    write_table(out / "ceilings.csv", reached)
    write_table(out / "goals.csv", checked)
    report.ratio_plot(found, out / "ratios.png", report.machine(stopwatch.device))
    tables = [*report.row_tables(found), report.table("Ceilings of this machine", reached)]
    texts = ("part", "mode", "ours", "theirs", "floor set by")
    return [*tables, report.table("Goals, LSTM, one thread", checked, texts)] if checked else tables


def measure(stopwatch: Stopwatch, count: int, part: str, cell: str, shape: candidates.Shape) -> list[Row]:
    """Figures of one cell and shape, in both modes."""
    if part == "layer":
        found = candidates.layers(cell, shape, stopwatch.device)
    else:
        found = candidates.recurrences(cell, shape, stopwatch.device, STRUCTURES[cell], LOOPS)
    others = candidates.peers(part, shape, stopwatch.device) if cell == "lstm" else {}
    absent = {name: reason for name, reason in others.items() if isinstance(reason, str)}
    found |= {name: candidate for name, candidate in others.items() if not isinstance(candidate, str)}
    measured = []
    for mode in MODES:
        times = _times(stopwatch, found, mode)
        measured += [Row(count, part, mode, cell, shape, name, times[name]) for name in found]
        measured += [Row(count, part, mode, cell, shape, name, None, reason) for name, reason in absent.items()]
    return measured


def _times(stopwatch: Stopwatch, found: Mapping[str, candidates.Candidate], mode: str) -> dict[str, Times]:
    if mode == "training":
        return stopwatch.interleaved({name: candidate.training() for name, candidate in found.items()})
    with torch.no_grad():
        return stopwatch.interleaved({name: candidate.call for name, candidate in found.items()})


def estimates(measured: Sequence[Row]) -> list[Row]:
    """The recurrence alone of torch.nn's layers: their time minus that of the projection, which they don't report."""
    found = {row.key(): row for row in measured}
    drawn = []
    for row in measured:
        if row.part == "layer" and row.candidate == candidates.TORCH and row.times:
            projection = found[replace(row, candidate=candidates.PROJECTION).key()].times
            if projection is None:
                continue  # could not be measured
            rest = row.times.median - projection.median
            times = Times(rest, math.nan, math.nan, 0) if rest > 0 else None
            note = "estimate" if times else "less than the projection"
            drawn.append(replace(row, part="recurrence", candidate=candidates.ESTIMATE, times=times, note=note))
    return drawn


def growth(stopwatch: Stopwatch, count: int, sizes: Sequence[int], out: Path, track: Track) -> list[Group]:
    """Time of LSTM recurrences alone over D, forward, at T=16 and B=8."""
    found: dict[str, dict[int, Times]] = {hidden: {} for hidden in GROWTH}
    for size in track(sizes, description="growth"):
        with threads(count):
            times = _times(
                stopwatch, candidates.recurrences("lstm", (16, 8, size), stopwatch.device, GROWTH), "forward"
            )
        for hidden, value in times.items():
            found[hidden][size] = value
    lines = [
        {"threads": count, "hidden": hidden, "D": size, **report.milliseconds(times)}
        for hidden, values in found.items()
        for size, times in values.items()
    ]
    write_table(out / "growth.csv", lines)
    report.growth_plot(found, out / "growth.png", f"LSTM recurrence alone, forward, T=16, B=8, threads: {count}")
    return [report.growth_table(found, count)]


def products(stopwatch: Stopwatch, counts: Sequence[int], sizes: Sequence[int], out: Path, track: Track) -> list[Group]:
    """Operators for the input projection: torch's linear, oneDNN's, and oneDNN's with a packed weight."""
    shapes = [(frames, size, outputs) for size in sizes for outputs in (size, 4 * size) for frames in PRODUCT_ROWS]
    lines = []
    for count, (frames, inputs, outputs) in track(list(itertools.product(counts, shapes)), description="linear"):
        with threads(count), torch.no_grad():
            times = stopwatch.interleaved(_linear_operators(frames, inputs, outputs))
        size = {"threads": count, "rows": frames, "in": inputs, "out": outputs}
        lines.append(size | {name: f"{1e3 * value.median:.4g}" for name, value in times.items()})
    write_table(out / "linear.csv", lines)
    return [report.table("Input projection, forward, ms", lines)]


def _linear_operators(frames: int, inputs: int, outputs: int) -> dict[str, Callable]:
    x, weight, bias = torch.randn(frames, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, frames)
    onednn = torch.ops.mkldnn._linear_pointwise
    return {
        "F.linear": lambda: F.linear(x, weight, bias),
        "oneDNN": lambda: onednn(x, weight, bias, "none", [], ""),
        "oneDNN, packed": lambda: onednn(x, packed, bias, "none", [], ""),
    }


def structured_inputs(
    stopwatch: Stopwatch,
    counts: Sequence[int],
    cells: Sequence[str] | None,
    shapes: Sequence[candidates.Shape] | None,
    out: Path,
    track: Track,
) -> list[Group]:
    """Whole layers with a diagonal ``W_hh`` with each structure of ``W_ih``."""
    groups = list(itertools.product(counts, cells or ["lstm"], shapes or (goals.MAIN, goals.STEP), MODES))
    lines: list[dict] = []
    for count, cell, shape, mode in track(groups, description="inputs"):
        with threads(count):
            found = candidates.structured_inputs(cell, shape, stopwatch.device, INPUTS)
            times = _times(stopwatch, found, mode)
        base = times[candidates.TORCH].median
        group = {"cell": cell, "TxBxD": "x".join(map(str, shape)), "mode": mode, "threads": count}
        for name, value in times.items():
            goal = INPUT_GOALS[mode] if (cell, shape, name) == ("lstm", goals.MAIN, "grouped:4") else ""
            measured = {**report.milliseconds(value), "times as fast": f"{base / value.median:.3g}", "goal": goal}
            lines.append({**group, "inputs": name, **measured})
    write_table(out / "inputs.csv", lines)
    return [report.table("Layers with a diagonal W_hh, by the structure of W_ih", lines, ("cell", "mode", "inputs"))]


def row_products(
    stopwatch: Stopwatch, counts: Sequence[int], sizes: Sequence[int], out: Path, track: Track
) -> list[Group]:
    """A sparse recurrent product of four gates: compressed rows compared with the dense matrix."""
    lines = []
    for count, size, density in track(list(itertools.product(counts, sizes, DENSITIES)), description="rows"):
        weight, dense = torch.randn(4, Sparse(density).weight_count(size)), torch.randn(4 * size, size)
        for batch in BATCHES:
            h = torch.randn(batch, size)
            calls = {
                "compressed": functools.partial(compressed_rows.product, h, weight, "sparse", density),
                "F.linear": functools.partial(F.linear, h, dense),
                "prernn linear": functools.partial(linear, h, dense),
            }
            with threads(count), torch.no_grad():
                times = {name: value.median for name, value in stopwatch.interleaved(calls).items()}
            gain = min(times["F.linear"], times["prernn linear"]) / times["compressed"]
            line = {"threads": count, "D": size, "density": density, "batch": batch}
            line |= {name: f"{1e3 * value:.4g}" for name, value in times.items()}
            lines.append(line | {"dense / compressed": f"{gain:.2f}"})
    write_table(out / "rows.csv", lines)
    return [report.table("Recurrent product of four gates, forward, ms", lines)]
