"""Instant quantization of residual networks trained on CIFAR-10: accuracy, bits and non-zero weights.

As in the table for ResNet-20/32/44/56 in the talk "Structural Sparsity": the table at one number of samples per weight,
the whole curve for each way of sampling, the contribution of each part of the method, rounding to nearest and ternary
weights for comparison, and files in 8-bit integers. No training picture is used: corrections are measured on inputs
that batch normalization remembers (`prernn.synthetic_inputs`). Lost accuracy is in points relative to the same network
before, on the available test pictures; means and standard deviations are over draws.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from prernn.benchmarks.measuring import cifar, report
from prernn.benchmarks.measuring.quantized.integer_files import files_table
from prernn.benchmarks.measuring.quantized.rounding import coded_and_nonzero, nearest, rounded_network, ternary
from prernn.benchmarks.measuring.timing import threads
from prernn.conversion.modes import channels_last
from prernn.reports.files import write_table
from prernn.reports.plots.curves import lines as draw_lines
from prernn.reports.tables import mean_text
from prernn.sparsity.normalize import normalized
from prernn.sparsity.quantization.correction import correct, layer_statistics
from prernn.sparsity.quantization.counts import SAMPLERS
from prernn.sparsity.quantization.quantize import OUTPUTS, TALK, quantization_report, quantize
from prernn.sparsity.quantization.synthetic_inputs import synthetic_inputs
from prernn.studies.quantization import mean_and_spread

PAPER = {20: (0.67, 5.0, 67.51), 32: (0.54, 4.85, 68.24), 44: (0.52, 4.93, 68.69), 56: (0.57, 4.78, 68.92)}
"""The talk's figures: accuracy lost in points, bits, percent of non-zero weights; on the whole test set."""
OLD = {"order": "natural", "allocation": 0.0}
"""Weights in their original order, and the same number of samples per weight in every layer."""
CORRECTED = "systematic, corrected"
CLOSE = 5
"""Points lost up to which a second panel shows the curves."""
MAIN = "systematic, by sign, allocated"
PARTS: dict[str, dict[str, Any]] = {
    MAIN: {},
    "systematic, by sign": {"allocation": 0.0},
    "systematic, allocated": {"order": "natural"},
    "systematic": OLD,
    "jittered": {"sampler": "jittered", **OLD},
    "random": {"sampler": "random", **OLD},
    "a scale for each neuron": {"scale": "neuron"},
    "normalized, factors carried": {"normalized": True},
    "normalized, a scale for each neuron": {"normalized": True, "scale": "neuron"},
    "samples by their noise in the outputs": {"allocation": OUTPUTS},
    "corrected": {"correct": True},
    "corrected, samples by their noise": {"correct": True, "allocation": OUTPUTS},
    "the talk: random, by neuron, as they lie": TALK,
    "the talk, corrected": {**TALK, "correct": True},
}
"""Rows of the table with the contribution of each part."""
NOT, MADE, SEEN, NOISE = "not corrected", "inputs made from the network", "256 test pictures", "noise"
"""The inputs on which corrections are measured, at the fewest samples of the sweep."""
KINDS = ("table", "part", "curve", "rounding", "inputs")
CURVES: dict[str, dict[str, Any]] = {name: {"sampler": name} for name in SAMPLERS} | {CORRECTED: {"correct": True}}
ROUNDED, TERNARY = "to nearest, per channel", "ternary, per channel"
"""Weights with three values: 0 below 0.7 times the mean magnitude of a channel (Li et al., ternary weight networks)."""


def run(options: argparse.Namespace) -> None:
    """Quantizes all networks and writes ``quantize.csv``, ``quantize.md``, ``quantize.png`` and ``bits.png``.

    Raises:
        ValueError: missing data, numbers out of range.
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

    jobs = [job for job in _jobs(options) if job["kind"] in options.kinds and _is_asked(job["method"], options)]
    lines: list[dict] = []
    inputs = {depth: synthetic_inputs(net, pictures.shape[1:], count=options.inputs) for depth, net in nets.items()}
    with Progress(console=Console(stderr=True), transient=True) as progress, threads(options.threads):
        full = {depth: accuracy(net) for depth, net in nets.items()}
        for job in progress.track(jobs, description="quantize"):
            depth = job["depth"]
            shown = _shown(job, inputs[depth], pictures)
            lines.append({**job, **_measured(nets[depth], shown, job, full[depth], accuracy)})
            write_table(out / "quantize.csv", lines)
    tables = [_talk_table(lines, full, options), _parts_table(lines, options), _rounding_table(lines)]
    tables += [_inputs_table(lines)] if "inputs" in options.kinds else []
    tables += [files_table(nets, inputs, pictures, labels, options)] if options.files else []
    counted = f"{len(labels)} test pictures: one is {100 / len(labels):.2f} points"
    report.show([report.machine("cpu"), counted, *tables], out / "quantize.md")
    _draw(lines, out)
    print(f"written to {out}")


def _jobs(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """The measurements: the table, the curves, the parts, rounding."""
    for depth in options.depths:
        for name in (MAIN, "corrected"):
            yield _job("table", depth, name, options.samples, options.draws)
    for name in PARTS:
        if name in (MAIN, "corrected"):  # in the table
            continue
        yield _job("part", options.depths[0], name, options.samples, options.draws)
    for depth in options.depths:
        for name in ("systematic", CORRECTED):
            for samples in options.sweep:
                yield _job("curve", depth, name, samples, options.sweep_draws)
    for sampler in options.samplers:
        for samples in options.sweep if sampler != "systematic" else ():
            yield _job("curve", options.depths[0], sampler, samples, options.sweep_draws)
    for depth in options.depths:
        for bits in options.bits:
            yield _job("rounding", depth, ROUNDED, bits, 1)
        for name in (TERNARY, f"{TERNARY}, corrected"):
            yield _job("rounding", depth, name, 1.58, 1)
    for name in (NOT, MADE, SEEN, NOISE) if options.sweep else ():
        yield _job("inputs", options.depths[0], name, min(options.sweep), options.sweep_draws)


def _is_asked(method: str, options: argparse.Namespace) -> bool:
    return not options.methods or any(part in method for part in options.methods)


def _shown(job: Mapping[str, Any], made: Tensor, pictures: Tensor) -> Tensor:
    """The inputs on which corrections are measured."""
    others = {SEEN: pictures[:256], NOISE: torch.randn(made.shape, generator=torch.Generator().manual_seed(0))}
    return others.get(job["method"], made)


def _job(kind: str, depth: int, name: str, samples: float, draws: int) -> dict[str, Any]:
    return {"kind": kind, "depth": depth, "method": name, "samples": samples, "draws": draws}


def _measured(
    net: nn.Module, inputs: Tensor, job: dict[str, Any], full: float, accuracy: Callable[[nn.Module], float]
) -> dict:
    if job["kind"] == "rounding":
        return _measured_rounding(net, inputs, job, full, accuracy)
    chosen = _options(job)
    if chosen.pop("normalized", False):
        net = normalized(net)
    lost, reports = [], []
    for seed in range(job["draws"]):
        quantized = quantize(net, job["samples"], seed=seed, inputs=inputs, **chosen)
        lost.append(full - accuracy(quantized))
        reports.append(quantization_report(quantized))
    mean, spread = mean_and_spread(lost)
    means = {name: mean_and_spread([getattr(report, name) for report in reports])[0] for name in ("bits", "coded")}
    nonzero, _ = mean_and_spread([100 * report.nonzero for report in reports])
    return {"lost": mean, "spread": spread, **means, "nonzero": nonzero}


def _options(job: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `quantize`."""
    if job["kind"] == "inputs":
        return {} if job["method"] == NOT else {"correct": True}
    return dict(PARTS[job["method"]] if job["kind"] != "curve" else CURVES[job["method"]])


def _measured_rounding(
    net: nn.Module, inputs: Tensor, job: dict[str, Any], full: float, accuracy: Callable[[nn.Module], float]
) -> dict:
    round_off = nearest(int(job["samples"])) if job["method"] == ROUNDED else ternary
    rounded, integers = rounded_network(net, round_off)
    if job["method"].endswith("corrected"):
        correct(rounded, layer_statistics(net, inputs), inputs)
    coded, nonzero = coded_and_nonzero(integers)
    lost = full - accuracy(rounded)
    return {"lost": lost, "spread": 0.0, "bits": job["samples"], "coded": coded, "nonzero": 100 * nonzero}


def _of(lines: Sequence[dict], kind: str, depth: int | None = None) -> list[dict]:
    return [line for line in lines if line["kind"] == kind and depth in (None, line["depth"])]


def _lost(line: Mapping[str, Any]) -> str:
    return mean_text(line["lost"], line["spread"], 1 if line["kind"] == "rounding" else line["draws"])


def _talk_table(lines: Sequence[dict], full: Mapping[int, float], options: argparse.Namespace):
    rows = []
    for line in _of(lines, "table"):
        depth = line["depth"]
        network = {"network": f"ResNet-{depth}", "accuracy, %": f"{full[depth]:.2f}"}
        row = {**network, "corrected": "yes" if line["method"] == "corrected" else "", **_figures(line)}
        talk = "{:.2f}, {:.2f} bits, {:.1f} %".format(*PAPER[depth]) if depth in PAPER else ""
        rows.append({**row, "talk: lost": talk})
    title = f"{options.samples:g} systematic samples a weight, {options.draws} draws"
    return report.table(title, rows, ("network",))


def _parts_table(lines: Sequence[dict], options: argparse.Namespace):
    depth = options.depths[0]
    both = [*_of(lines, "table", depth), *_of(lines, "part", depth)]
    rows = [{"method": line["method"], **_figures(line)} for line in both]
    return report.table(f"ResNet-{depth}, what the parts contribute", rows, ("method",))


def _inputs_table(lines: Sequence[dict]):
    rows = [{"measured on": line["method"], **_figures(line)} for line in _of(lines, "inputs")]
    return report.table("what corrections are measured on, at the fewest samples", rows, ("measured on",))


def _figures(line: Mapping[str, Any]) -> dict[str, str]:
    bits = {"bits": f"{line['bits']:.2f}", "in a file": f"{line['coded']:.2f}"}
    return {"lost": _lost(line), **bits, "non-zero, %": f"{line['nonzero']:.1f}"}


def _rounding_table(lines: Sequence[dict]):
    rows = []
    for depth in dict.fromkeys(line["depth"] for line in lines):
        for line in [*_of(lines, "curve", depth), *_of(lines, "rounding", depth)]:
            if line["kind"] == "rounding" or line["method"] in ("systematic", CORRECTED):
                samples = f"{line['samples']:g}" if line["kind"] == "curve" else ""
                row = {"network": f"ResNet-{depth}", "method": line["method"], "samples a weight": samples}
                rows.append({**row, **_figures(line)})
    return report.table("the whole curve, and rounding at the same bits", rows, ("network", "method"))


def _draw(lines: Sequence[dict], out: Path) -> None:
    """Over samples per weight, all samplers of the first network; over bits, all networks and rounding."""
    if not _of(lines, "curve"):
        return
    first = lines[0]["depth"]
    curves = _of(lines, "curve", first)
    lost = _series(curves, "method", "samples", "lost")
    panels = {
        "points lost": lost,
        **(
            {f"points lost, below {CLOSE}": _close(lost)} if _close(lost) != lost else {}
        ),  # avoids showing the same panel twice
        "bits a weight in a file": _series(curves, "method", "samples", "coded"),
        "non-zero weights (%)": _series(curves, "method", "samples", "nonzero"),
    }
    title = f"ResNet-{first}, CIFAR-10, quantized without retraining"
    draw_lines(panels, out / "quantize.png", along="samples a weight", title=title)
    both = {}
    for depth in dict.fromkeys(line["depth"] for line in lines):
        ways = {"systematic": "systematic samples", CORRECTED: CORRECTED, ROUNDED: "rounded to nearest, per channel"}
        chosen = [line for line in lines if line["depth"] == depth and line["kind"] in ("curve", "rounding")]
        named = [{**line, "method": ways[line["method"]]} for line in chosen if line["method"] in ways]
        both[f"ResNet-{depth}: points lost, below {CLOSE}"] = _close(_series(named, "method", "coded", "lost"))
    title = "accuracy lost over bits a weight in a file, CIFAR-10, no retraining"
    draw_lines(both, out / "bits.png", along="bits a weight in a file", title=title, logarithmic=False)


def _series(lines: Sequence[dict], name: str, along: str, measure: str) -> dict[str, list]:
    series: dict[str, list] = {}
    for line in lines:
        spread = line["spread"] if measure == "lost" else 0.0
        series.setdefault(line[name], []).append((line[along], line[measure], spread))
    return series


def _close(series: dict[str, list]) -> dict[str, list]:
    near = {name: [point for point in points if point[1] < CLOSE] for name, points in series.items()}
    return {name: points for name, points in near.items() if points}
