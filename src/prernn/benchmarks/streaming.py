"""The cost of a frame of a stream in each engine, compared with the alternative: clip networks on moving windows.

One stream at a time, random weights, evaluation mode; PreGRU-SIH with a diagonal recurrence on each backbone. All of
them take turns within one run; figures are medians, and the CSV has the quartiles. "eager" is the network's own step in
torch with channels last, as streams ran it before there were engines. Clip networks process 16 frames for every new
one, except one of them, with continual-inference, which processes only the new one.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from prernn.benchmarks.measuring import report, stream_costs
from prernn.benchmarks.measuring.continual_network import ContinualClip
from prernn.benchmarks.measuring.stream_costs import stepper
from prernn.benchmarks.measuring.timing import Stopwatch, Times, threads
from prernn.conversion.convert import convert, framewise, traditional
from prernn.conversion.modes import channels_last
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines.opening import ENGINES, PRECISIONS, opened
from prernn.models.backbones import backbone
from prernn.reports.files import write_table
from prernn.reports.plots import curves

EAGER = "eager"

Calls = dict[str, Callable[[], Any]]


def run(options: argparse.Namespace) -> None:
    """Times all; writes ``streaming.csv``, ``streaming.md`` and ``streaming.png``; with ``--flat`` ``flat.csv``.

    Raises:
        ValueError: an unknown network.
    """
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stopwatch, lines, missing = Stopwatch("cpu", options.repeats), [], dict[str, str]()
    networks = {name: _network(name) for name in options.backbones}
    with Progress(console=Console(stderr=True), transient=True) as progress, torch.inference_mode():
        work = [(name, count) for count in options.threads for name in options.backbones]
        for name, count in progress.track(work, description="backbones"):
            with threads(count):
                calls = _of_backbone(name, networks[name], options.size, count, missing)
                lines += _lines(name, stopwatch.interleaved(calls), count, EAGER)
        for count in progress.track(options.threads if options.clips else [], description="clip networks"):
            with threads(count):
                calls = _of_clips(options, missing)
                lines += _lines("window", stopwatch.interleaved(calls), count, next(iter(calls), ""))
        flat = [
            line
            for engine in (ENGINES if options.flat else ())
            for line in stream_costs.flatness(networks[options.backbones[0]], engine, options.flat, options.size)
        ]
        peaks = [
            line for name in options.backbones for line in stream_costs.peaks(name, options.size) if options.memory
        ]
    write_table(out / "streaming.csv", lines)
    tables = [_table(lines, count, options) for count in options.threads]
    for found, file, title in (
        (flat, "flat", f"{options.flat} frames of {options.backbones[0]}, {options.size} pixels"),
        (peaks, "memory", "peak of a process that runs one engine alone"),
    ):
        if found:
            write_table(out / f"{file}.csv", found)
            tables.append(report.table(title, found, list(found[0])[:2]))
    notes = [f"not run: {name}: {reason}" for name, reason in missing.items()]
    report.show([report.machine("cpu"), *tables, *notes], out / "streaming.md")
    _plot(lines, out / "streaming.png", options)
    print(f"written to {out}")


def _network(name: str) -> SequenceNetwork:
    net = convert(backbone(name), cell="gru", input="single", hidden="diagonal", outputs=10).eval()
    channels_last(net)
    return net


@torch.inference_mode(False)  # in inference mode, changed weights can't be detected
@torch.no_grad()
def _of_backbone(name: str, net: SequenceNetwork, size: int, count: int, missing: dict[str, str]) -> Calls:
    """Steps of one network in each engine and precision, and of its references on the same backbone."""
    cnn = backbone(name).eval()
    frame = torch.randn(1, 3, size, size)
    alone = framewise(cnn).eval()
    channels_last(alone)
    calls = {
        EAGER: stepper(net, frame),
        f"the CNN alone, {EAGER}": stepper(alone, frame),
        "nn.LSTM on the CNN, eager": stepper(channels_last(traditional(cnn, cell="lstm", outputs=10).eval()), frame),
        "its recurrence alone": stream_costs.recurrence(net),
    }
    for engine in ENGINES:
        for precision in PRECISIONS:
            try:
                made = opened(net, engine, precision, count)
                made.step(frame)
            except (NotImplementedError, ImportError) as error:
                missing[f"{engine}, {precision}"] = str(error)
                continue
            calls[f"{engine}, {precision}"] = stepper(made, frame)
        if f"{engine}, {PRECISIONS[0]}" in calls:
            calls[f"the CNN alone, {engine}"] = stepper(opened(alone, engine, threads=count), frame)
    return calls


def _of_clips(options: argparse.Namespace, missing: dict[str, str]) -> Calls:
    """Whole windows through clip networks, in eager torch and in the engines that support them."""
    calls: Calls = {}
    for name in options.clips:
        module = backbone(name).eval()
        window = torch.randn(1, 3, options.window, *([options.size] * 2))
        try:
            module(window)
        except (ValueError, RuntimeError) as error:  # some accept only one size
            missing[name] = str(error).splitlines()[0]
            continue
        channels_last(module)
        calls[f"{name}, {EAGER}"] = partial(module, window)
        for engine in ENGINES[1:] if options.clip_engines else ():
            try:
                made = opened(framewise(module), engine, threads=torch.get_num_threads())
                made.step(window)
            except (NotImplementedError, ImportError, ValueError) as error:
                missing[f"{name}, {engine}"] = str(error)
                continue
            calls[f"{name}, {engine}"] = stepper(made, window)
    if "r3d_18" in options.clips:
        frame = torch.randn(1, 3, options.size, options.size)
        try:
            calls["r3d_18, continual-inference"] = partial(ContinualClip(options.window).filled(frame), frame)
        except ImportError as error:
            missing["continual-inference"] = str(error)
    return calls


def _lines(group: str, times: dict[str, Times], count: int, base: str) -> list[dict]:
    return [
        {
            "network": group,
            "how": name,
            "threads": count,
            **report.milliseconds(found),
            "times as fast": f"{times[base].median / found.median:.3g}",
        }
        for name, found in times.items()
    ]


def _table(lines: list[dict], count: int, options: argparse.Namespace) -> Any:
    """Ways as rows, networks as columns."""
    chosen = [line for line in lines if line["threads"] == count]
    networks = list(dict.fromkeys(line["network"] for line in chosen))
    found = {(line["how"], line["network"]): f"{line['median_ms']} ({line['times as fast']})" for line in chosen}
    rows = [
        {"how": how, **{name: found.get((how, name), "") for name in networks}}
        for how in dict.fromkeys(line["how"] for line in chosen)
    ]
    title = f"One frame, {options.size} pixels, threads: {count}; ms (times as fast as the first of its column)"
    return report.table(title, rows, ["how"])


def _plot(lines: list[dict], path: Path, options: argparse.Namespace) -> None:
    """Plots the engines of each backbone, with the first number of threads."""
    bars: dict[str, dict[str, float]] = {name: {} for name in options.backbones}
    for line in lines:
        if line["threads"] == options.threads[0] and line["how"].partition(",")[0] in ENGINES:
            bars[line["network"]][line["how"]] = float(line["times as fast"])
    title = f"a frame of a stream, {options.size} pixels, threads: {options.threads[0]}, against eager torch"
    curves.ratio_bars(bars, path, label="times as fast", title=title)
