"""A recurrent network's accuracy over the bits of its weights: samples, corrected or not, and rounding to nearest."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.quantized.rounding import coded_and_nonzero, nearest, rounded_network
from prernn.conversion.modes import channels_last
from prernn.reports.plots.curves import lines as draw_lines
from prernn.reports.tables import mean_text
from prernn.sparsity.quantization.correction import correct, layer_statistics
from prernn.studies.quantization import mean_and_spread, sweep

WAYS: dict[str, dict[str, Any]] = {"quantized": {}, "quantized, corrected": {"correct": True}}
ROUNDED = "rounded to nearest, per channel"
MEASURES = ("bits", "coded", "nonzero")


def sampled(
    net: nn.Module,
    samples: Sequence[float],
    seeds: Sequence[int],
    judge: Callable[[nn.Module], float],
    inputs: Tensor,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """A line for each way and number of samples a weight: means over the draws, and their standard deviation."""

    def score(quantized: nn.Module) -> float:
        return judge(channels_last(quantized))

    for amount in samples:
        for way, chosen in WAYS.items():
            trials = sweep(net, [amount], seeds=seeds, judge=score, advance=advance, inputs=inputs, **chosen)
            means = {name: mean_and_spread([getattr(trial, name) for trial in trials])[0] for name in MEASURES}
            mean, spread = mean_and_spread([trial.score for trial in trials if trial.score is not None])
            yield {"way": way, "amount": amount, "draws": len(trials), **means, "accuracy": mean, "spread": spread}


def rounded(
    net: nn.Module,
    bits: Sequence[int],
    judge: Callable[[nn.Module], float],
    inputs: Tensor,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """A line for each number of bits, corrected or not."""
    wanted = layer_statistics(net, inputs) if bits else {}
    for each in bits:
        copy, integers = rounded_network(net, nearest(each))
        coded, nonzero = coded_and_nonzero(integers)
        line = {"amount": each, "draws": 1, "bits": each, "coded": coded, "nonzero": nonzero, "spread": 0.0}
        yield {"way": ROUNDED, **line, "accuracy": judge(channels_last(copy))}
        advance()
        correct(copy, wanted, inputs)
        yield {"way": f"{ROUNDED}, corrected", **line, "accuracy": judge(channels_last(copy))}
        advance()


def curve_table(lines: Sequence[dict[str, Any]]):
    """All lines as a table; those of sampled activations have no bits."""
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
    """Accuracy over the bits of a weight in a file."""
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
