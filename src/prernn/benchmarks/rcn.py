"""The cost of a frame in a stream: RCN and its 2-D network step by step, 3-D networks over a moving window.

All see pictures of the same size, one stream, with random weights, in evaluation mode and with channels last. They take
turns within one run; figures are medians, and the CSV has the quartiles. A 3-D network must run over the whole window
for every new frame: its temporal convolutions look ahead, so that a new frame changes its results for the previous
ones.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.stream_costs import stepper
from prernn.benchmarks.measuring.timing import Stopwatch, Times, threads
from prernn.conversion.accounting import frame_cost, recurrent_parameters, total_weights
from prernn.conversion.convert import framewise
from prernn.conversion.inflate import inflate
from prernn.conversion.modes import channels_last
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.rcn import convert_rcn
from prernn.models.backbones import backbone
from prernn.reports.files import write_table
from prernn.reports.plots import curves

CLIP_NETWORKS = ("r3d_18", "mc3_18", "r2plus1d_18")
BASE = "r3d_18"


@dataclass(frozen=True)
class Contestant:
    """A network, and whether it runs over a window of frames."""

    name: str
    net: RecurrentNetwork
    window: bool


def run(options: argparse.Namespace) -> None:
    """Times all networks and writes ``rcn.csv``, ``rcn.md`` and ``rcn.png``.

    Raises:
        ValueError: numbers below 1, an unknown network, no GPU for ``--device cuda``.
    """
    if min(options.size, options.window, options.repeats, *options.threads) < 1:
        raise ValueError("expected --size, --window, --repeats and --threads of at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a GPU for --device cuda, found none")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    contestants = _contestants(options)
    stopwatch = Stopwatch(options.device, options.repeats)
    lines = []
    counts = options.threads if options.device == "cpu" else options.threads[:1]  # a GPU has no threads to choose
    with Progress(console=Console(stderr=True), transient=True) as progress, torch.inference_mode():
        calls = {each.name: stepper(each.net, _frame(each, options)) for each in contestants}
        sizes = {each.name: _sizes(each, options) for each in contestants}
        for count in progress.track(counts, description="frames"):
            with threads(count):
                times = stopwatch.interleaved(calls)
            lines += [_line(name, sizes[name], times, count, options) for name in calls]
    write_table(out / "rcn.csv", lines)
    tables = [_table(lines, count, options) for count in counts]
    report.show([report.machine(options.device), *tables], out / "rcn.md")
    base = "times as fast"
    bars = {f"threads: {n}": {x["network"]: float(x[base]) for x in lines if x["threads"] == n} for n in counts}
    title = f"a frame of a stream, {options.size} pixels, against {_base(options)} over a window of {options.window}"
    curves.ratio_bars(bars, out / "rcn.png", label=base, title=title)
    print(f"written to {out}")


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    name = options.backbone
    cnn = backbone(name)
    nets = {f"{name}, frame by frame": framewise(cnn)}
    nets |= {f"{name} as RCN, {hidden}": convert_rcn(cnn, hidden=hidden) for hidden in options.hidden}
    clips = {f"{name}, inflated": framewise(inflate(cnn, frames=options.window))}
    clips |= {clip: framewise(backbone(clip)) for clip in options.clips}
    for net in (*nets.values(), *clips.values()):
        channels_last(net.eval().to(options.device))
    steps = [Contestant(key, net, False) for key, net in nets.items()]
    return steps + [Contestant(key, net, True) for key, net in clips.items()]


def _base(options: argparse.Namespace) -> str:
    return BASE if BASE in options.clips else f"{options.backbone}, inflated"


def _frame(contestant: Contestant, options: argparse.Namespace) -> Tensor:
    shape = (options.window,) if contestant.window else ()
    return torch.randn(1, 3, *shape, options.size, options.size, device=options.device)


def _sizes(contestant: Contestant, options: argparse.Namespace) -> dict:
    """The columns that are counted rather than timed."""
    net = contestant.net
    cost = frame_cost(net, (*([options.window] if contestant.window else []), options.size, options.size))
    # a window keeps the frames themselves from frame to frame
    kept = 4 * 3 * options.window * options.size**2 if contestant.window else cost.state_bytes
    return {
        "weights": total_weights(net),
        "of W_hh": recurrent_parameters(net).introduced,
        "multiply-adds": cost.multiply_adds,
        "state, MB": f"{kept / 1e6:.2f}",
    }


def _line(name: str, sizes: dict, times: dict[str, Times], count: int, options: argparse.Namespace) -> dict:
    return {
        "network": name,
        "threads": count,
        **sizes,
        **report.milliseconds(times[name]),
        "times as fast": f"{times[_base(options)].median / times[name].median:.4g}",
    }


def _table(lines: list[dict], count: int, options: argparse.Namespace):
    title = f"One frame of a stream, {options.size} pixels, window {options.window}, threads: {count}"
    keys = ("network", "weights", "of W_hh", "multiply-adds", "state, MB", "median_ms", "times as fast")
    chosen = [{key: _text(line[key]) for key in keys} for line in lines if line["threads"] == count]
    return report.table(title, chosen, keys[:1])


def _text(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value
