"""Online sparsity on small pictures: accuracy and speed of networks that sample their activations.

The table of the Structural Sparsity talk: the inputs of the convolutions are sampled by importance, from the first
convolution on (the picture itself), from the second, or from those with a given number of channels. Networks are
trained ResNets for CIFAR-10, whose last layer, 64 numbers to 10 classes, sees everything; or the talk's VGG16 with two
dense layers, which is trained first, on CIFAR-10's pictures or on digits. Accuracy is the mean over seeds, its spread
their standard deviation. Multiply-adds are those of non-zero activations. ``--layers`` times single layers;
``--sampled`` permanently keeps only the weights of VGG16's dense layers on paths sampled backwards from its outputs.
"""

import argparse
import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from prernn.benchmarks.measuring import cifar, report, sampled_layers, vgg
from prernn.benchmarks.measuring.path_networks.parts import parts_of, parts_table
from prernn.benchmarks.measuring.timing import Stopwatch, threads
from prernn.conversion.lighter.skipping import unskipped
from prernn.reports.files import write_table
from prernn.reports.plots.figure import COLORS, save_figure
from prernn.reports.tables import seeds_text
from prernn.sparsity.activity import activation_report
from prernn.sparsity.online import online_sparsity

STARTS = {
    "1st conv": "conv1",
    "2nd conv": "layer1.0.conv1",
    "32 channels": "layer2.0.conv1",
    "64 channels": "layer3.0.conv1",
}
"""Where sampling of a ResNet starts: the name in the tables, and the layer."""
VGG_STARTS = {
    "1st conv": "features.0",
    "2nd conv": "features.3",
    "128 channels": "features.7",
    "256 channels": "features.14",
    "512 channels": "features.24",
}
"""The same for VGG16; channels are those of the full width."""
VGG_LINEAR = 0.05
"""The talk's share of activations in dense layers."""
TIMED = "2nd conv"


@dataclass(frozen=True)
class Subject:
    """A network to sample, and the layers from which sampling starts."""

    name: str
    net: nn.Module
    starts: dict[str, str]

    def sampled(self, start: str, share: float, options: argparse.Namespace, seed: int) -> nn.Module:
        """The network sampled from one of the starts on; at a share of 1 nothing is sampled."""
        linear = None if share == 1 else options.linear
        first, drawn = self.starts[start], {"values": options.values, "per": options.per}
        return online_sparsity(self.net, share, linear, start=first, seed=seed, **drawn)


def run(options: argparse.Namespace) -> None:
    """Measures all networks and writes ``cifar_online.csv``, ``cifar_online.md``, ``cifar_online.png``, and times.csv.

    Raises:
        ValueError: numbers below 1, shares outside (0, 1], the folder lacks the data.
    """
    numbers = (options.seeds, options.threads, options.repeats, 1 if options.pictures is None else options.pictures)
    if min(numbers) < 1:
        raise ValueError("expected --seeds, --pictures, --threads and --repeats of at least 1")
    if options.sampled and (options.network != "vgg16" or options.layers):
        raise ValueError("expected --sampled with --network vgg16, whose dense layers it is of, and without --layers")
    given = [*options.shares, *options.sampled, *([] if options.linear is None else [options.linear])]
    if wrong := [share for share in given if not 0 < share <= 1]:
        raise ValueError(f"expected --shares, --sampled and --linear in (0, 1], got {wrong[0]}")
    if options.own_time and options.threads > 1:
        raise ValueError(f"expected --threads 1 with --own-time, got {options.threads}")
    if not options.data and not options.layers:
        raise ValueError("expected --data, or --layers alone")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    with threads(options.threads):
        measure = _layers if options.layers else _sampled if options.sampled else _networks
        measure(options, out)
    print(f"written to {out}")


def _layers(options: argparse.Namespace, out: Path) -> None:
    lines = sampled_layers.lines(options.shares, _stopwatch(options))
    write_table(out / "layers.csv", lines)
    title = f"ms (times as fast as dense), by share of samples; {report.machine('cpu')}, threads: {options.threads}"
    report.show([report.table(title, lines, ["layer"])], out / "layers.md")


def _sampled(options: argparse.Namespace, out: Path) -> None:
    (subject,), pictures, labels = _subjects(options, out)

    def accuracy(net: nn.Module) -> float:
        return cifar.accuracy(net, pictures, labels)

    found = [list(parts_of(subject.net, options.sampled, seed, accuracy)) for seed in range(options.seeds)]
    level = accuracy(subject.net)
    title = f"{subject.name}: a part of its dense layers' weights"
    table = parts_table({subject.name: found}, options.sampled, level, out, title)
    heading = (
        f"{report.machine('cpu')}; {len(labels)} pictures, {seeds_text(options.seeds)}; all weights: {level:.2f} %"
    )
    report.show([heading, table], out / "sampled.md")


def _networks(options: argparse.Namespace, out: Path) -> None:
    subjects, pictures, labels = _subjects(options, out)
    lines, times = [], []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        cases = [(each, start, share) for each in subjects for start in each.starts for share in options.shares]
        for subject, start, share in progress.track(cases, description="accuracy"):
            lines.append({"network": subject.name, **_line(subject, start, share, pictures, labels, options)})
            write_table(out / "cifar_online.csv", lines)  # written after each line, because a long run may be stopped
        for subject in subjects:
            times += [{"network": subject.name, **line} for line in _times(subject, pictures[:1], options)]
    write_table(out / "times.csv", times)
    drawn = f"values: {options.values}, per {options.per}"
    heading = f"{report.machine('cpu')}; {len(labels)} pictures, {seeds_text(options.seeds)}, {drawn}"
    tables = [_table(lines, subject.name) for subject in subjects]
    report.show(
        [heading, *tables, report.table("One picture at a time, ms", times, ["network", "input"])],
        out / "cifar_online.md",
    )
    _plot(lines, out / "cifar_online.png", f"{len(labels)} pictures, {seeds_text(options.seeds)}")


def _subjects(options: argparse.Namespace, out: Path) -> tuple[list[Subject], Tensor, Tensor]:
    """The networks, and test pictures with their classes."""
    if options.network == "vgg16":
        if options.linear is None:
            options.linear = VGG_LINEAR
        data = vgg.read(options.data)
        weights = Path(options.weights) if options.weights else out / "vgg16.pt"
        net = vgg.trained(data, weights, options.width, options.epochs, options.rate, seed=0)
        subjects, (pictures, labels) = [Subject(f"VGG16, width {options.width}", net, VGG_STARTS)], data.test
    else:
        pictures, labels = cifar.read(options.data)
        subjects = [Subject(f"ResNet-{d}", cifar.network(options.data, d), STARTS) for d in options.depths]
    return subjects, pictures[: options.pictures], labels[: options.pictures]


def _line(subject: Subject, start: str, share: float, pictures: Tensor, labels: Tensor, options) -> dict:
    """One network, from one layer on, at one share of samples."""
    # at a share of 1 nothing is sampled, so all seeds agree
    seeds = range(options.seeds if share < 1 else 1)
    sampled = [subject.sampled(start, share, options, seed) for seed in seeds]
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


def _times(subject: Subject, picture: Tensor, options: argparse.Namespace) -> list[dict]:
    """Dense and sampled network, taking turns; the latter also as it was before, with zeros multiplied."""
    share = min(options.shares)
    sampled = subject.sampled(TIMED, share, options, 0)
    multiplied = copy.deepcopy(sampled)
    for part in multiplied.modules():
        unskipped(part)
    nets = {
        "dense": subject.net,
        f"sampled, {share:g}": sampled,
        f"sampled, {share:g}, zeros multiplied": multiplied,
    }
    calls = {name: lambda each=each: each(picture) for name, each in nets.items()}
    with torch.inference_mode():
        times = _stopwatch(options).interleaved(calls)
    return [{"input": name, **report.milliseconds(value)} for name, value in times.items()]


def _stopwatch(options: argparse.Namespace) -> Stopwatch:
    return Stopwatch(repeats=options.repeats, clock=time.thread_time if options.own_time else time.perf_counter)


def _table(lines: list[dict], network: str):
    keys = [key for key in lines[0] if key not in ("network", "multiply-adds", "left")]
    own = [line for line in lines if line["network"] == network]
    title = f"{network}, {own[0]['multiply-adds']:,} multiply-adds a picture"
    return report.table(title, [{key: line[key] for key in keys} for line in own], ["from"])


def _plot(lines: list[dict], path: Path, title: str) -> None:
    """Accuracy over the share of samples: one panel per network, one line per start, its spread as bars."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    figure, axes = plt.subplots(
        1, len(networks), figsize=(1 + 3.4 * len(networks), 4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, network in zip(axes[0], networks, strict=True):
        for color, start in zip(COLORS, dict.fromkeys(line["from"] for line in lines), strict=False):
            own = sorted(
                (line["share"], float(line["accuracy, %"]), float(line["spread"] or 0))
                for line in lines
                if (line["network"], line["from"]) == (network, start)
            )
            shares, means, spreads = zip(*own, strict=True)
            axis.errorbar(shares, means, spreads, label=start, color=color, marker="o", markersize=4, capsize=2)
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
