"""A layer of D x D made of Sobol' paths: streamed along them, in rows that are kept, as a sparse matrix, and dense.

All use the same input. "kept rows" is what `PathLinear` does without gradients, including its comparison of the
weights; "sparse rows" are torch's, of the paths' own connections, with coincident ones added up; "dense" has all
possible connections, and "matrix" makes the dense matrix of the paths for each call, as `PathLinear` does in training
when there are many paths. Training is forward and the gradients of input and weights. They take turns within one run;
figures are medians, and the CSV has the quartiles. The crossing points are the shares of the D x D connections up to
which a layer of paths is faster than a dense product, for a dense layer and for the paths' matrix. ``--maps`` only
times convolutions made of paths.
"""

import argparse
import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.path_networks import map_times
from prernn.benchmarks.measuring.timing import Stopwatch, threads
from prernn.ops import paths
from prernn.ops.sobol import network_paths
from prernn.reports.files import write_table
from prernn.reports.plots.figure import COLORS, save_figure
from prernn.sparsity.kept_product import KeptProduct

PATHS, KEPT, SPARSE, DENSE, MATRIX = "paths", "kept rows", "sparse rows", "dense", "matrix"
MODES = ("forward", "training")
Line = dict


def run(options: argparse.Namespace) -> None:
    """Times all layers and writes ``paths.csv``, ``paths.md`` and ``paths.png``.

    Raises:
        ValueError: numbers below 1.
    """
    if options.own_time and options.threads != [1]:
        raise ValueError(f"expected --threads 1 with --own-time, got {options.threads}")
    if not all(0 < share <= 1 for share in options.shares):
        raise ValueError("expected --shares in (0, 1]")
    clock = time.thread_time if options.own_time else time.perf_counter
    counts = options.paths or _doubling(512, options.size**2 // 2)
    numbers = (options.size, options.each, options.repeats, *counts)
    if min(*numbers, *options.sizes, *options.batches, *options.threads) < 1:
        raise ValueError("expected --size, --paths, --sizes, --each, --batches, --threads and --repeats of at least 1")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    over_paths = [("paths", options.size, count) for count in sorted(counts)]
    over_width = [("width", size, options.each * size) for size in sorted(options.sizes)]
    stopwatch, lines = Stopwatch(repeats=options.repeats, clock=clock), []
    if options.maps:
        _maps(stopwatch, options, out)
        return
    cases = [
        (count, batch, case)
        for count in options.threads
        for case in over_paths + over_width
        for batch in options.batches
    ]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for count, batch, case in progress.track(cases, description="layers"):
            lines += _measure(stopwatch, count, batch, *case)
    write_table(out / "paths.csv", lines)
    crossed = crossings(lines, options.size)
    tables = [
        _table(lines, over, batch, mode) for over in ("paths", "width") for batch in options.batches for mode in MODES
    ]
    title = (
        f"Share of the {options.size} x {options.size} connections up to which paths (kept rows forward) are quicker"
    )
    report.show([report.machine("cpu"), *tables, report.table(title, crossed, ["mode"])], out / "paths.md")
    _plot(lines, options, out / "paths.png")
    print(f"written to {out}")


def _maps(stopwatch: Stopwatch, options: argparse.Namespace, out: Path) -> None:
    lines = []
    with threads(options.threads[0]):
        for line in map_times.lines(options.shares, stopwatch):
            lines.append(line)
            write_table(out / "maps.csv", lines)
    title = "3x3, ms (times as fast as dense) by share of the pairs of channels; - where the layer is dense"
    report.show([report.machine("cpu"), report.table(title, lines, ["layer"])], out / "maps.md")
    print(f"written to {out}")


def _doubling(first: int, last: int) -> list[int]:
    """``first``, doubled again and again, up to ``last``."""
    return [first << k for k in range(max(1, (last // first).bit_length()))]


def _measure(stopwatch: Stopwatch, count: int, batch: int, over: str, size: int, number: int) -> list[Line]:
    found = layers(size, number)
    lines = []
    with threads(count):
        for mode in MODES:
            x = torch.randn(batch, size)
            calls = {name: _call(*layer, x, mode) for name, layer in found.items() if name != KEPT or mode == MODES[0]}
            times = stopwatch.interleaved(calls)
            where = {"over": over, "threads": count, "mode": mode, "B": batch, "D": size, "paths": number}
            lines += [{**where, "layer": name, **report.milliseconds(taken)} for name, taken in times.items()]
    return lines


def layers(size: int, number: int) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]]:
    """The products, ``(x (B, D), weight) -> (B, D)``, and their weights; all except the dense one agree."""
    source, destination = (index.int().contiguous() for index in network_paths([size, size], number).unbind(1))
    weight = torch.randn(number) / math.sqrt(max(1, number // size))
    places = torch.stack([destination, source]).long()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its compressed rows beta
        rows = torch.sparse_coo_tensor(places, weight, (size, size), check_invariants=True).coalesce().to_sparse_csr()
    layer = KeptProduct.of(source, destination, size, size, weight, dense=False)

    def kept(x: Tensor, w: Tensor) -> Tensor:
        return layer.product(x) if layer.has(w) else x

    def matrix(x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, paths.dense(w, source, destination, size, size))

    return {
        PATHS: (lambda x, w: paths.product(x, w, source, destination, size), weight),
        KEPT: (kept, weight),
        SPARSE: (lambda x, w: torch.sparse.mm(w, x.T).T, rows),
        DENSE: (F.linear, torch.randn(size, size) / math.sqrt(size)),
        MATRIX: (matrix, weight),
    }


def _call(product: Callable[[Tensor, Tensor], Tensor], weight: Tensor, x: Tensor, mode: str) -> Callable[[], None]:
    if mode == "forward":

        def forward() -> None:
            with torch.inference_mode():
                product(x, weight)

        return forward
    x, weight = x.clone().requires_grad_(), weight.detach().clone().requires_grad_()
    d_y = torch.randn_like(x)

    def training() -> None:
        torch.autograd.grad(product(x, weight), (x, weight), d_y)

    return training


def _medians(lines: Sequence[Line], **where) -> dict[tuple[int, int], dict[str, float]]:
    """``{(D, paths): {layer: ms}}`` for the lines that have these values."""
    found: dict = {}
    for line in lines:
        if all(line[key] == value for key, value in where.items()):
            found.setdefault((line["D"], line["paths"]), {})[line["layer"]] = float(line["median_ms"])
    return found


def crossings(lines: Sequence[Line], size: int) -> list[Line]:
    """The crossing points of every batch, mode and number of threads, "none" where there is none."""
    groups = dict.fromkeys((line["mode"], line["B"], line["threads"]) for line in lines)
    found = []
    for mode, batch, count in groups:
        medians = _medians(lines, over="paths", mode=mode, B=batch, threads=count)
        found.append({"mode": mode, "B": batch, "threads": count})
        own = KEPT if mode == MODES[0] else PATHS
        for other in (DENSE, MATRIX):
            times = {number / size**2: (taken[own], taken[other]) for (_, number), taken in medians.items()}
            share = crossing(times)
            found[-1] |= {f"than {other}": "none" if share is None else f"{share:.2%}"}
    return sorted(found, key=lambda line: (line["mode"], line["B"], line["threads"]))


def crossing(times: Mapping[float, tuple[float, float]]) -> float | None:
    """The share at which the first time of ``{share: (first, second)}`` last begins to exceed the second, or None.

    Between two shares the ratio of the times is interpolated linearly in logarithms.
    """
    points = [(math.log(share), math.log(first / second)) for share, (first, second) in sorted(times.items())]
    for (low, below), (high, above) in reversed(list(itertools.pairwise(points))):
        if below <= 0 < above:
            return math.exp(low - below * (high - low) / (above - below))
    return None


def _table(lines: Sequence[Line], over: str, batch: int, mode: str):
    counts = dict.fromkeys(line["threads"] for line in lines)
    found = {count: _medians(lines, over=over, B=batch, mode=mode, threads=count) for count in counts}
    rows = []
    for size, number in next(iter(found.values())):
        row = {"D": str(size), "paths": f"{number:,}", "share": f"{number / size**2:.3%}"}
        for count, medians in found.items():
            plural = "thread" if count == 1 else "threads"
            row |= {f"{name}, {count} {plural}": f"{value:.3g}" for name, value in medians[size, number].items()}
        rows.append(row)
    return report.table(f"{mode}, batch {batch}, over the {'number of paths' if over == 'paths' else over}; ms", rows)


def _plot(lines: Sequence[Line], options: argparse.Namespace, path: Path) -> None:
    """Time over the number of paths and over the width, with the first number of threads."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5.2), sharey=True, layout="constrained")
    count = options.threads[0]
    for axis, over, place in ((axes[0], "paths", 1), (axes[1], "width", 0)):
        for color, name in zip(COLORS, (PATHS, SPARSE, DENSE, KEPT, MATRIX), strict=False):
            for batch, marker in zip(options.batches, "os^Dv", strict=False):
                for mode, line in zip(MODES, ("-", "--"), strict=True):
                    medians = _medians(lines, over=over, B=batch, mode=mode, threads=count)
                    values = [taken[name] for taken in medians.values() if name in taken]
                    if not values:
                        continue
                    label = f"{name}, batch {batch}, {mode}"
                    style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4}
                    axis.plot([key[place] for key in medians], values, label=label, **style)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    axes[0].tick_params(axis="x", rotation=30)
    axes[0].set_xlabel(f"paths of a layer of {options.size} x {options.size}")
    axes[1].set_xlabel(f"width D, {options.each} D paths")
    axes[0].set_ylabel("ms")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center")
    figure.suptitle(f"A layer of Sobol' paths, threads: {count}", fontsize=11)
    save_figure(figure, path)
