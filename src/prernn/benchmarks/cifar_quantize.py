"""Instant quantization of residual networks trained on CIFAR-10: accuracy, bits and non-zero weights.

The talk "Structural Sparsity", its table of ResNet-20/32/44/56: the table at one number of samples a weight, the whole
curve for each way of sampling, what each part of the method contributes, and rounding to the nearest number for
comparison. No training picture is looked at. Accuracy that is lost is in points against the same network before, on the
test pictures that there are; means and standard deviations over draws.
"""

import argparse
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from prernn.benchmarks.measuring import cifar, report
from prernn.benchmarks.measuring.timing import threads
from prernn.conversion.modes import channels_last
from prernn.reports.files import write_table
from prernn.reports.plots.curves import lines as draw_lines
from prernn.reports.tables import mean_text
from prernn.sparsity.counts import SAMPLERS
from prernn.sparsity.normalize import normalized
from prernn.sparsity.quantize import quantization_report, quantize, weights_of
from prernn.studies.quantization import mean_and_spread

PAPER = {20: (0.67, 5.0, 67.51), 32: (0.54, 4.85, 68.24), 44: (0.52, 4.93, 68.69), 56: (0.57, 4.78, 68.92)}
"""The talk's figures: accuracy lost in points, bits, percent of non-zero weights; of the whole test set."""
OLD = {"order": "natural", "allocation": 0.0}
"""The weights as they lie, and every layer with the same samples a weight."""
CLOSE = 5
"""Points lost up to which a second panel shows the curves."""
PARTS: dict[str, dict[str, Any]] = {
    "systematic, by sign, allocated": {},
    "systematic, by sign": {"allocation": 0.0},
    "systematic, allocated": {"order": "natural"},
    "systematic": OLD,
    "jittered": {"sampler": "jittered", **OLD},
    "random": {"sampler": "random", **OLD},
    "a scale for each neuron": {"scale": "neuron"},
    "normalized, factors carried": {"normalized": True},
    "normalized, a scale for each neuron": {"normalized": True, "scale": "neuron"},
}
"""Rows of the table of what each part contributes."""


def run(options: argparse.Namespace) -> None:
    """Quantizes all networks and writes ``quantize.csv``, ``quantize.md``, ``quantize.png`` and ``bits.png``.

    Raises:
        ValueError: absent data, numbers out of range.
    """
    if min(options.draws, options.sweep_draws, options.threads) < 1:
        raise ValueError("expected --draws, --sweep-draws and --threads of at least 1")
    if not all(amount >= 0 for amount in (options.samples, *options.sweep)) or min(options.bits, default=2) < 2:
        raise ValueError("expected --samples and --sweep from 0 on and --bits from 2 on")
    if odd := [name for name in options.samplers if name not in SAMPLERS]:
        raise ValueError(f"expected --samplers among {', '.join(SAMPLERS)}, got {odd[0]!r}")
    pictures, labels = cifar.read(options.data)
    nets: dict[int, nn.Module] = {depth: cifar.network(options.data, depth) for depth in options.depths}
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)

    def accuracy(net: nn.Module) -> float:
        return cifar.accuracy(channels_last(net), pictures, labels)

    jobs = list(_jobs(options))
    lines = []
    with Progress(console=Console(stderr=True), transient=True) as progress, threads(options.threads):
        full = {depth: accuracy(net) for depth, net in nets.items()}
        for job in progress.track(jobs, description="quantize"):
            lines.append({**job, **_measured(nets[job["depth"]], job, full[job["depth"]], accuracy)})
            write_table(out / "quantize.csv", lines)
    tables = [_talk_table(lines, full, options), _parts_table(lines, options), _rounding_table(lines)]
    counted = f"{len(labels)} test pictures: one is {100 / len(labels):.2f} points"
    report.show([report.machine("cpu"), counted, *tables], out / "quantize.md")
    _draw(lines, out)
    print(f"written to {out}")


def _jobs(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """What is measured: the table, the curves, the parts, rounding."""
    main = next(iter(PARTS))
    for depth in options.depths:
        yield _job("table", depth, main, options.samples, options.draws)
    for name in list(PARTS)[1:]:
        yield _job("part", options.depths[0], name, options.samples, options.draws)
    for depth in options.depths:
        for samples in options.sweep:
            yield _job("curve", depth, "systematic", samples, options.sweep_draws)
    for sampler in options.samplers:
        for samples in options.sweep if sampler != "systematic" else ():
            yield _job("curve", options.depths[0], sampler, samples, options.sweep_draws)
    for depth in options.depths:
        for bits in options.bits:
            yield _job("rounding", depth, "to nearest, per channel", bits, 1)


def _job(kind: str, depth: int, name: str, samples: float, draws: int) -> dict[str, Any]:
    return {"kind": kind, "depth": depth, "method": name, "samples": samples, "draws": draws}


def _measured(net: nn.Module, job: dict[str, Any], full: float, accuracy: Callable[[nn.Module], float]) -> dict:
    if job["kind"] == "rounding":
        rounded, nonzero = round_to_nearest(net, int(job["samples"]))
        return {"lost": full - accuracy(rounded), "spread": 0.0, "bits": job["samples"], "nonzero": 100 * nonzero}
    chosen = dict(PARTS[job["method"]] if job["kind"] != "curve" else {"sampler": job["method"]})
    if chosen.pop("normalized", False):
        net = normalized(net)
    lost, reports = [], []
    for seed in range(job["draws"]):
        quantized = quantize(net, job["samples"], seed=seed, **chosen)
        lost.append(full - accuracy(quantized))
        reports.append(quantization_report(quantized))
    bits, _ = mean_and_spread([report.bits for report in reports])
    nonzero, _ = mean_and_spread([100 * report.nonzero for report in reports])
    mean, spread = mean_and_spread(lost)
    return {"lost": mean, "spread": spread, "bits": bits, "nonzero": nonzero}


def round_to_nearest(net: nn.Module, bits: int) -> tuple[nn.Module, float]:
    """A copy with weights rounded to ``bits`` bits, one scale for each output channel; and its share of non-zeros.

    ``q = round(w / s)`` with ``s = max |w| / (2**(bits-1) - 1)``: symmetric, no data, no retraining.
    """
    net = copy.deepcopy(net)
    nonzero = count = 0
    with torch.no_grad():
        for weight in weights_of(net):
            values = weight.values
            top = values.flatten(1).abs().amax(1).view(-1, *[1] * (values.ndim - 1))
            scale = (top / (2 ** (bits - 1) - 1)).clamp(min=1e-30)
            integers = (values / scale).round()
            values.copy_(integers * scale)
            nonzero, count = nonzero + int((integers != 0).sum()), count + integers.numel()
    return net, nonzero / count


def _of(lines: Sequence[dict], kind: str, depth: int | None = None) -> list[dict]:
    return [line for line in lines if line["kind"] == kind and depth in (None, line["depth"])]


def _lost(line: Mapping[str, Any]) -> str:
    return mean_text(line["lost"], line["spread"], 1 if line["kind"] == "rounding" else line["draws"])


def _talk_table(lines: Sequence[dict], full: Mapping[int, float], options: argparse.Namespace):
    rows = []
    for line in _of(lines, "table"):
        depth = line["depth"]
        own = {"accuracy, %": f"{full[depth]:.2f}", "lost": _lost(line), "bits": f"{line['bits']:.2f}"}
        row = {"network": f"ResNet-{depth}", **own, "non-zero, %": f"{line['nonzero']:.1f}"}
        talk = "{:.2f}, {:.2f} bits, {:.1f} %".format(*PAPER[depth]) if depth in PAPER else ""
        rows.append({**row, "talk: lost": talk})
    title = f"{options.samples:g} systematic samples a weight, {options.draws} draws"
    return report.table(title, rows, ("network",))


def _parts_table(lines: Sequence[dict], options: argparse.Namespace):
    depth = options.depths[0]
    rows = [
        {
            "method": line["method"],
            "lost": _lost(line),
            "bits": f"{line['bits']:.2f}",
            "non-zero, %": f"{line['nonzero']:.1f}",
        }
        for line in [*_of(lines, "table", depth), *_of(lines, "part", depth)]
    ]
    return report.table(f"ResNet-{depth}, what the parts contribute", rows, ("method",))


def _rounding_table(lines: Sequence[dict]):
    rows = []
    for depth in dict.fromkeys(line["depth"] for line in lines):
        for line in [*_of(lines, "curve", depth), *_of(lines, "rounding", depth)]:
            ways = ("systematic", "to nearest, per channel")
            if line["method"] in ways:
                samples = f"{line['samples']:g}" if line["kind"] == "curve" else ""
                row = {"network": f"ResNet-{depth}", "method": line["method"], "samples a weight": samples}
                figures = {"bits": f"{line['bits']:.2f}", "non-zero, %": f"{line['nonzero']:.1f}"}
                rows.append({**row, **figures, "lost": _lost(line)})
    return report.table("the whole curve, and rounding at the same bits", rows, ("network", "method"))


def _draw(lines: Sequence[dict], out: Path) -> None:
    """Over the samples a weight, all samplers of the first network; over bits, all networks and rounding."""
    first = lines[0]["depth"]
    curves = _of(lines, "curve", first)
    lost = _series(curves, "method", "samples", "lost")
    panels = {
        "points lost": lost,
        **({f"points lost, below {CLOSE}": _close(lost)} if _close(lost) != lost else {}),  # not the same twice
        "bits a weight": _series(curves, "method", "samples", "bits"),
        "non-zero weights (%)": _series(curves, "method", "samples", "nonzero"),
    }
    title = f"ResNet-{first}, CIFAR-10, quantized without retraining"
    draw_lines(panels, out / "quantize.png", along="samples a weight", title=title)
    both = {}
    for depth in dict.fromkeys(line["depth"] for line in lines):
        ways = {"systematic": "systematic samples", "to nearest, per channel": "rounded to nearest, per channel"}
        chosen = [line for line in lines if line["depth"] == depth and line["kind"] in ("curve", "rounding")]
        named = [{**line, "method": ways[line["method"]]} for line in chosen if line["method"] in ways]
        both[f"ResNet-{depth}: points lost, below {CLOSE}"] = _close(_series(named, "method", "bits", "lost"))
    title = "accuracy lost over bits a weight, CIFAR-10, no retraining"
    draw_lines(both, out / "bits.png", along="bits a weight", title=title, logarithmic=False)


def _series(lines: Sequence[dict], name: str, along: str, measure: str) -> dict[str, list]:
    series: dict[str, list] = {}
    for line in lines:
        spread = line["spread"] if measure == "lost" else 0.0
        series.setdefault(line[name], []).append((line[along], line[measure], spread))
    return series


def _close(series: dict[str, list]) -> dict[str, list]:
    near = {name: [point for point in points if point[1] < CLOSE] for name, points in series.items()}
    return {name: points for name, points in near.items() if points}
