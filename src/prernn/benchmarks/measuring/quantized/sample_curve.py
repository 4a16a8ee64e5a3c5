"""A recurrent network's accuracy over the bits of its weights: samples, corrected or not, and rounding to nearest."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.quantized.rounding import coded_and_nonzero, nearest, rounded_network
from prernn.conversion.modes import channels_last
from prernn.conversion.network import RecurrentNetwork
from prernn.engines.opening import opened
from prernn.reports.plots.curves import lines as draw_lines
from prernn.reports.tables import mean_text
from prernn.sparsity.quantization.correction import correct, layer_statistics
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from prernn.studies.quantization import mean_and_spread

SAMPLED = ("quantized", "quantized, corrected")
ROUNDED = "rounded to nearest, per channel"
MEASURES = ("bits", "coded", "nonzero")
Judge = Callable[[nn.Module], float]


def sampled(
    net: RecurrentNetwork,
    samples: Sequence[float],
    seeds: Sequence[int],
    judge: Judge,
    inputs: Tensor,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Two lines per number of samples per weight, the second one corrected: means over the draws, and their spread.

    Args:
        net: the trained network.
        seeds: seeds of the draws.
        inputs: inputs on which corrections are measured.
    """
    wanted = layer_statistics(net, inputs)
    for amount in samples:
        shapes, scores = [], []
        for seed in seeds:
            quantized = quantize(net, amount, seed=seed)
            about = quantization_report(quantized)
            shapes.append([getattr(about, name) for name in MEASURES])
            plain = _score(quantized, judge)
            correct(quantized, wanted, inputs)  # the counts stay the same: quantize(..., correct=True) of this draw
            scores.append((plain, _score(quantized, judge)))
            advance()
        means = dict(zip(MEASURES, (statistics.fmean(column) for column in zip(*shapes, strict=True)), strict=True))
        for way, column in zip(SAMPLED, zip(*scores, strict=True), strict=True):
            mean, spread = mean_and_spread(column)
            yield {"way": way, "amount": amount, "draws": len(column), **means, "accuracy": mean, "spread": spread}


def _score(net: nn.Module, judge: Judge) -> float:
    """The score, computed with fused convolutions, which take half the time."""
    assert isinstance(net, RecurrentNetwork)
    channels_last(net)
    return judge(opened(net, "torch"))


def rounded(
    net: RecurrentNetwork,
    bits: Sequence[int],
    judge: Judge,
    inputs: Tensor,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """One line per number of bits, corrected or not."""
    wanted = layer_statistics(net, inputs) if bits else {}
    for each in bits:
        copy, integers = rounded_network(net, nearest(each))
        coded, nonzero = coded_and_nonzero(integers)
        line = {"amount": each, "draws": 1, "bits": each, "coded": coded, "nonzero": nonzero, "spread": 0.0}
        yield {"way": ROUNDED, **line, "accuracy": _score(copy, judge)}
        advance()
        correct(copy, wanted, inputs)
        yield {"way": f"{ROUNDED}, corrected", **line, "accuracy": _score(copy, judge)}
        advance()


def curve_table(lines: Sequence[dict[str, Any]]):
    """All lines as a table; those for sampled activations have no bits."""
    rows = []
    for line in lines:
        figures = {name: f"{line[name]:.2f}" if line[name] != "" else "" for name in ("bits", "coded")}
        nonzero = f"{100 * line['nonzero']:.1f}" if line["nonzero"] != "" else ""
        rows.append(
            {
                "way": line["way"],
                "amount": f"{line['amount']:g}",
                "bits": figures["bits"],
                "in a file": figures["coded"],
                "non-zero, %": nonzero,
                "accuracy, %": mean_text(100 * line["accuracy"], 100 * line["spread"], line["draws"], ".1f"),
            }
        )
    return report.table("samples a weight, bits, and share of activations, against accuracy", rows, ("way",))


def draw_bits(lines: Sequence[dict[str, Any]], full: float, path: Path) -> None:
    """Plots accuracy over the bits per weight in a file."""
    series: dict[str, list] = {}
    for line in lines:
        if line["coded"] != "":
            point = (line["coded"], 100 * line["accuracy"], 100 * line["spread"])
            series.setdefault(line["way"], []).append(point)
    if series:
        panels, levels = {"accuracy, %": series}, {"accuracy, %": {"as trained": 100 * full}}
        title = "PreGRU-SIH on the demo's task"
        along = "bits a weight in a file"
        draw_lines(panels, path, along=along, title=title, levels=levels, logarithmic=False)
