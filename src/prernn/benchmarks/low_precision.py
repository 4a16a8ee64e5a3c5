"""A step of a recurrent layer with weights of few bits, compared with torch.nn's.

Each step continues from the state of the last, with random weights; all ways take turns within one run, so that each
finds its weights in memory and not in the processor's caches. Figures are medians; errors are those of the outputs
after ten steps relative to the float32 layer's, divided by its largest.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.timing import Stopwatch, threads
from prernn.conversion.lighter.low_precision import low_precision
from prernn.layers.rnn import LSTM
from prernn.ops.narrow import TYPES
from prernn.reports.files import write_table
from prernn.reports.plots import curves

BASE = "torch.nn.LSTMCell, float32"

Step = Callable[[Any], tuple[Tensor, Any]]


def run(options: argparse.Namespace) -> None:
    """Times all layers and writes ``low_precision.csv``, ``low_precision.md`` and ``low_precision.png``.

    Raises:
        ValueError: own time was requested with several threads.
    """
    if options.own_time and options.threads > 1:
        raise ValueError(f"expected --threads 1 with --own-time, got {options.threads}")
    clock = time.thread_time if options.own_time else time.perf_counter
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    lines: list[dict[str, Any]] = []
    with torch.inference_mode(), threads(options.threads):
        for batch in options.batches:
            x = torch.randn(batch, options.size)
            steps = {**_of_torch(x), **_of_prernn(x, options.structures)}
            times = Stopwatch("cpu", options.repeats, clock).interleaved(
                {name: _going_on(step) for name, step in steps.items()}
            )
            for name, found in times.items():
                error = _error(steps[f"{name.partition(',')[0]}, float32"], steps[name])
                lines.append(
                    {
                        "batch": batch,
                        "layer": name,
                        **report.milliseconds(found),
                        "times as fast": f"{times[BASE].median / found.median:.3g}",
                        "error": f"{error:.1e}",
                    }
                )
    write_table(out / "low_precision.csv", lines)
    title = f"A step of an LSTM, {options.size} units and inputs, threads: {options.threads}; ms"
    report.show([report.machine("cpu"), report.table(title, lines, ["batch", "layer"])], out / "low_precision.md")
    _plot(lines, out / "low_precision.png", options)
    print(f"written to {out}")


def _of_torch(x: Tensor) -> dict[str, Step]:
    cell = nn.LSTMCell(x.shape[1], x.shape[1])
    half = nn.LSTMCell(x.shape[1], x.shape[1]).bfloat16()
    half.load_state_dict(cell.state_dict())
    steps: dict[str, Step] = {
        BASE: lambda state: _twice(cell(x, state)),
        "torch.nn.LSTMCell, bfloat16": lambda state: _twice(half(x.bfloat16(), state)),
    }
    try:
        from torch.ao.quantization import quantize_dynamic

        dynamic = quantize_dynamic(nn.Sequential(cell), {nn.LSTMCell}, dtype=torch.qint8)[0]
        dynamic(x)
    except (ImportError, AttributeError, RuntimeError):  # torch is about to move it to another package
        return steps
    return {**steps, "torch.nn.LSTMCell, int8 dynamic": lambda state: _twice(dynamic(x, state))}


def _twice(state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return state[0], state


def _of_prernn(x: Tensor, structures: list[str]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for structure in structures:
        layer = LSTM(x.shape[1], x.shape[1], hidden=structure).eval()
        made = {"float32": layer} | {precision: low_precision(layer, precision) for precision in TYPES}
        for precision, each in made.items():
            steps[f"prernn.LSTM {structure}, {precision}"] = partial(each.step, x)
    return steps


def _going_on(step: Step) -> Callable[[], None]:
    """A call that steps from the state of the last call."""
    state: list[Any] = [None]

    def once() -> None:
        _, state[0] = step(state[0])

    return once


def _error(exact: Step, step: Step) -> float:
    results = []
    for each in (exact, step):
        state = None
        for _ in range(10):
            out, state = each(state)
        results.append(out.float())
    return float((results[1] - results[0]).abs().max() / results[0].abs().max())


def _plot(lines: list[dict[str, Any]], path: Path, options: argparse.Namespace) -> None:
    """Plots the layers for the first batch size."""
    bars: dict[str, dict[str, float]] = {}
    for line in lines:
        if line["batch"] == options.batches[0]:
            layer, _, precision = line["layer"].partition(", ")
            bars.setdefault(layer, {})[precision] = float(line["times as fast"])
    title = f"a step of an LSTM, {options.size} units, batch {options.batches[0]}, threads: {options.threads}"
    curves.ratio_bars(bars, path, label="times as fast as torch.nn.LSTMCell", title=title)
