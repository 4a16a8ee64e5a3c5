"""Figures as tables, CSV and pictures."""

import datetime
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from prernn import ops
from prernn.benchmarks.measuring.candidates import PROJECTION, TORCH, Shape
from prernn.benchmarks.measuring.timing import Times
from prernn.ops import backends
from prernn.reports.files import write_text
from prernn.reports.plots.figure import COLORS, save_figure

BASE = {"layer": TORCH, "recurrence": "full"}
"""The candidates with which the others in a group are compared."""
TITLES = {"layer": "whole layer", "recurrence": "recurrence alone"}


@dataclass(frozen=True)
class Row:
    """One figure; ``times`` is None if there is none, and ``note`` says why."""

    threads: int
    part: str
    mode: str
    cell: str
    shape: Shape
    candidate: str
    times: Times | None
    note: str = ""

    def key(self) -> tuple:
        """What distinguishes it from other rows."""
        return (self.threads, self.part, self.mode, self.cell, self.shape, self.candidate)

    def line(self) -> dict:
        """A line of the CSV."""
        steps, batch, size = self.shape
        group = {"threads": self.threads, "part": self.part, "mode": self.mode, "cell": self.cell}
        where = {"T": steps, "B": batch, "D": size, "candidate": self.candidate}
        return {**group, **where, **milliseconds(self.times), "note": self.note}


def milliseconds(times: Times | None) -> dict:
    """Median, quartiles and number of calls, as columns of a CSV."""
    values = (times.median, times.low, times.high) if times else (math.nan,) * 3
    texts = ["" if math.isnan(value) else f"{1e3 * value:.5g}" for value in values]
    return {**dict(zip(("median_ms", "low_ms", "high_ms"), texts, strict=True)), "calls": times.count if times else 0}


def machine(device: str) -> str:
    """Date, processor or GPU, versions and kernels, in one line."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    kernels = "triton" if device == "cuda" else "native"
    had = ops.missing(kernels) or kernels
    if had == "native":
        had = f"native, {backends.kernels('native').instructions()}"
    return f"{datetime.date.today()}, {name}, {os.cpu_count()} cores, torch {torch.__version__}, kernels: {had}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(parts: Iterable[RenderableType], path: Path) -> None:
    """Prints tables and lines, and writes the same as Markdown."""
    whole = Group(*parts)
    console = Console(record=True)
    # a narrow terminal or a pipe may wrap lines, but must not cut numbers
    console.width = max(console.width, Console(width=1000).measure(whole).maximum)
    console.print(whole, highlight=False)
    lines = console.export_text().splitlines()
    write_text(path, "\n".join(line.rstrip() for line in lines) + "\n")


def table(title: str, lines: Sequence[dict], texts: Sequence[str] = ()) -> Group:
    """A table of lines with the same columns, those in ``texts`` aligned left and the others right."""
    made = Table(box=box.MARKDOWN)
    for name in lines[0] if lines else ():
        made.add_column(name, justify="left" if name in texts else "right", no_wrap=True)
    for line in lines:
        made.add_row(*map(str, line.values()))
    return Group(f"\n{title}\n", made)


def row_tables(rows: Sequence[Row]) -> list[Group]:
    """One table per number of threads, cell, part and mode: candidates as rows, shapes as columns."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell, row.part, row.mode, row.threads), []).append(row)
    return [_group_table(key, group) for key, group in sorted(groups.items())]


def _group_table(key: tuple, rows: Sequence[Row]) -> Group:
    cell, part, mode, threads = key
    base = BASE[part]
    found = {(row.candidate, row.shape): row for row in rows}
    lines = []
    for candidate in dict.fromkeys(row.candidate for row in rows):
        texts = {_text(shape): _cell(found, candidate, shape, base) for shape in dict.fromkeys(r.shape for r in rows)}
        lines.append({"candidate": candidate, **texts})
    title = f"{cell.upper()}, {TITLES[part]}, {mode}, threads: {threads}; ms (times as fast as {base})"
    return table(title, lines, ["candidate"])


def _cell(found: Mapping, candidate: str, shape: Shape, base: str) -> str:
    row = found.get((candidate, shape))
    if row is None or row.times is None:
        return row.note if row else ""
    compared = found.get((base, shape))
    ratio = f" ({compared.times.median / row.times.median:.3g})" if compared else ""
    return f"{1e3 * row.times.median:.3g}{ratio}"


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def growth_table(found: Mapping[str, Mapping[int, Times]], threads: int) -> Group:
    """Structures as rows, hidden sizes as columns, and the slope."""
    sizes = sorted({size for values in found.values() for size in values})
    lines = []
    for hidden, values in found.items():
        texts = {str(size): f"{1e3 * values[size].median:.3g}" if size in values else "" for size in sizes}
        lines.append({"hidden": hidden, **texts, "exponent of D": f"{slope(values):.2f}"})
    return table(f"LSTM, recurrence alone over D, forward, T=16, B=8, threads: {threads}; ms", lines, ["hidden"])


def slope(values: Mapping[int, Times]) -> float:
    """The exponent of D that fits the medians best, over the upper half of the sizes: fixed costs distort the lower."""
    sizes = sorted(values)[-max(2, (len(values) + 1) // 2) :]
    if len(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log([values[size].median for size in sizes]), 1)[0])


def growth_plot(found: Mapping[str, Mapping[int, Times]], path: Path, title: str) -> None:
    """Time over D, both logarithmic, with slopes and with the quartiles as shading."""
    figure, axis = plt.subplots(figsize=(7, 5))
    for color, (hidden, values) in zip(COLORS, found.items(), strict=False):
        sizes, times = list(values), list(values.values())
        label = f"{hidden}: D^{slope(values):.2f}"
        axis.plot(sizes, [1e3 * value.median for value in times], label=label, color=color, marker="o", markersize=4)
        low, high = (
            [1e3 * value for value in column] for column in zip(*((t.low, t.high) for t in times), strict=True)
        )
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("hidden size D (exponents: upper half of the sizes)")
    axis.set_ylabel("ms")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=9)
    axis.set_title(title, fontsize=10)
    save_figure(figure, path)


def ratio_plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Bars: speedup of the first cell's layers over torch.nn, one panel per mode and number of threads."""
    layers = [row for row in rows if row.part == "layer" and row.cell == rows[0].cell and row.times]
    panels = list(dict.fromkeys((row.threads, row.mode) for row in layers))
    names = [name for name in dict.fromkeys(row.candidate for row in layers) if name not in (TORCH, PROJECTION)]
    figure, axes = plt.subplots(len(panels), 1, figsize=(11, 3.4 * len(panels)), squeeze=False, layout="constrained")
    for axis, (threads, mode) in zip(axes[:, 0], panels, strict=True):
        _bars(axis, [row for row in layers if (row.threads, row.mode) == (threads, mode)], names)
        axis.set_title(f"{mode}, threads: {threads}", fontsize=10)
        axis.set_ylabel("times as fast as torch.nn")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=4, loc="outside lower center")
    figure.suptitle(f"{rows[0].cell.upper()} layers; {title}", fontsize=11)
    save_figure(figure, path)


def _bars(axis, rows: Sequence[Row], names: Sequence[str]) -> None:
    shapes = list(dict.fromkeys(row.shape for row in rows))
    medians = {(row.candidate, row.shape): row.times.median for row in rows if row.times}
    width = 0.84 / len(names)
    for k, name in enumerate(names):
        places = np.arange(len(shapes)) + (k - (len(names) - 1) / 2) * width
        ratios = [medians[TORCH, shape] / medians.get((name, shape), math.nan) for shape in shapes]
        bars = axis.bar(places, np.array(ratios) - 1, width * 0.92, bottom=1, label=name, color=COLORS[k % len(COLORS)])
        axis.bar_label(bars, [_short(ratio) for ratio in ratios], fontsize=7, padding=1)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.margins(y=0.12)
    axis.set_xticks(range(len(shapes)), [f"T={steps} B={batch} D={size}" for steps, batch, size in shapes])
    axis.grid(alpha=0.3, axis="y")


def _short(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
