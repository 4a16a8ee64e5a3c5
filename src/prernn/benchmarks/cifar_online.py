"""Online sparsity on CIFAR-10: how accurate trained residual networks stay when their activations are sampled.

The table of the Structural Sparsity talk, which has VGG16, for ResNet-20 to 56: the inputs of the convolutions are
sampled by importance, from the first convolution on (the picture itself), from the second, from those of 32 and from
those of 64 channels. The last layer, 64 numbers to 10 classes, sees all. Accuracy is the mean over seeds, its spread
their standard deviation. Multiply-adds are those that would be left where zeros are skipped: no dense convolution skips
them, so that the sampled network takes longer than the dense one, as the timing shows.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from prernn.benchmarks.measuring import cifar, report
from prernn.benchmarks.measuring.timing import Stopwatch, threads
from prernn.reports.files import write_table
from prernn.reports.plots.figure import COLOURS, save_figure
from prernn.reports.tables import seeds_text
from prernn.sparsity.activity import activation_report
from prernn.sparsity.online import online_sparsity

STARTS = {
    "1st conv": "conv1",
    "2nd conv": "layer1.0.conv1",
    "32 channels": "layer2.0.conv1",
    "64 channels": "layer3.0.conv1",
}
"""Where sampling starts: the name in the tables, and the layer."""
TIMED = "2nd conv"


def run(options: argparse.Namespace) -> None:
    """Measures all networks and writes ``cifar_online.csv``, ``cifar_online.md``, ``cifar_online.png``, and times.csv.

    Raises:
        ValueError: numbers below 1, shares outside (0, 1], a folder without the data.
    """
    numbers = (options.seeds, options.threads, options.repeats, 1 if options.pictures is None else options.pictures)
    if min(numbers) < 1:
        raise ValueError("expected --seeds, --pictures, --threads and --repeats of at least 1")
    if wrong := [share for share in options.shares if not 0 < share <= 1]:
        raise ValueError(f"expected --shares in (0, 1], got {wrong[0]}")
    pictures, labels = (tensor[: options.pictures] for tensor in cifar.read(options.data))
    nets = {depth: cifar.network(options.data, depth) for depth in options.depths}
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    lines, times = [], []
    with threads(options.threads), Progress(console=Console(stderr=True), transient=True) as progress:
        cases = [(depth, start, share) for depth in nets for start in STARTS for share in options.shares]
        for depth, start, share in progress.track(cases, description="accuracy"):
            lines.append({"network": f"ResNet-{depth}", **_line(nets[depth], start, share, pictures, labels, options)})
            write_table(out / "cifar_online.csv", lines)  # it takes long, and may be stopped
        for depth, net in nets.items():
            times += [{"network": f"ResNet-{depth}", **line} for line in _times(net, pictures[:1], options)]
    write_table(out / "times.csv", times)
    heading = f"{report.machine('cpu')}; {len(labels)} pictures, {seeds_text(options.seeds)}, values: {options.values}"
    tables = [_table(lines, depth) for depth in nets]
    report.show(
        [heading, *tables, report.table("One picture at a time, ms", times, ["network", "input"])],
        out / "cifar_online.md",
    )
    _plot(lines, out / "cifar_online.png", f"{len(labels)} pictures of CIFAR-10, {seeds_text(options.seeds)}")
    print(f"written to {out}")


def _line(net: nn.Module, start: str, share: float, pictures: Tensor, labels: Tensor, options) -> dict:
    """One network, from one layer on, at one share of samples."""
    # at a share of 1 nothing is sampled, so that all seeds agree
    seeds = range(options.seeds if share < 1 else 1)
    sampled = [_sampled(net, start, share, options.values, seed) for seed in seeds]
    accuracies = [cifar.accuracy(each, pictures, labels) for each in sampled]
    report = activation_report(sampled[0], pictures[: cifar.BATCH])
    return {
        "from": start,
        "share": share,
        "used, %": f"{100 * report.used:.2f}",
        "used of non-zero, %": f"{100 * report.used_of_non_zero:.2f}",
        "non-zero before, %": f"{100 * report.non_zero:.2f}",
        "accuracy, %": f"{statistics.mean(accuracies):.2f}",
        "spread": f"{statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else "",
        "multiply-adds": round(report.multiply_adds),
        "left": round(report.remaining),
        "left, %": f"{100 * report.remaining / report.multiply_adds:.1f}",
    }


def _sampled(net: nn.Module, start: str, share: float, values: str, seed: int) -> nn.Module:
    return online_sparsity(net, share, None, values=values, start=STARTS[start], seed=seed)


def _times(net: nn.Module, picture: Tensor, options: argparse.Namespace) -> list[dict]:
    """Dense and sampled network, in turns."""
    share = min(options.shares)
    nets = {"dense": net, f"sampled, {share:g}": _sampled(net, TIMED, share, options.values, 0)}
    calls = {name: lambda each=each: each(picture) for name, each in nets.items()}
    with torch.inference_mode():
        times = Stopwatch(repeats=options.repeats).interleaved(calls)
    return [{"input": name, **report.milliseconds(value)} for name, value in times.items()]


def _table(lines: list[dict], depth: int):
    keys = [key for key in lines[0] if key not in ("network", "multiply-adds", "left")]
    own = [line for line in lines if line["network"] == f"ResNet-{depth}"]
    title = f"ResNet-{depth}, {own[0]['multiply-adds']:,} multiply-adds a picture"
    return report.table(title, [{key: line[key] for key in keys} for line in own], ["from"])


def _plot(lines: list[dict], path: Path, title: str) -> None:
    """Accuracy over the share of samples: a panel for each network, a line for each start, its spread as bars."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    figure, axes = plt.subplots(
        1, len(networks), figsize=(1 + 3.4 * len(networks), 4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, network in zip(axes[0], networks, strict=True):
        for colour, start in zip(COLOURS, STARTS, strict=False):
            own = sorted(
                (line["share"], float(line["accuracy, %"]), float(line["spread"] or 0))
                for line in lines
                if (line["network"], line["from"]) == (network, start)
            )
            shares, means, spreads = zip(*own, strict=True)
            axis.errorbar(shares, means, spreads, label=start, color=colour, marker="o", markersize=4, capsize=2)
        axis.set_xscale("log")
        ticks = sorted({line["share"] for line in lines})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(network, fontsize=10)
        axis.set_xlabel("samples per activation")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, title="sampled from", fontsize=8, loc="outside right center")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
