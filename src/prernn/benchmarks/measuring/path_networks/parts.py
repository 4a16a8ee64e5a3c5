"""Parts of a trained network's fully connected weights: on paths sampled backwards from the outputs, or the largest."""

import copy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prernn.benchmarks.measuring import report
from prernn.reports.files import write_table
from prernn.reports.plots import curves
from prernn.reports.tables import mean_text
from prernn.sparsity.sampled_paths import sample_paths
from prernn.studies.quantization import mean_and_spread

SAMPLED: dict[str, dict[str, Any]] = {
    "systematic": {"sampler": "systematic"},
    "random": {"sampler": "random"},
    "systematic, counts": {"values": "counts"},
    "largest weights": {},
}
"""Ways to take a part of a trained network's weights: arguments of `sample_paths`."""
Sampled = tuple[str, float, float]
"""Method, share of the weights used, accuracy."""


@torch.inference_mode()
def parts_of(
    net: nn.Module, shares: Sequence[float], seed: int, accuracy: Callable[[nn.Module], float]
) -> Iterator[Sampled]:
    """Accuracy with only the weights on paths sampled backwards, and with only the largest ones."""
    for share in shares:
        for name, options in SAMPLED.items():
            part = sample_paths(net, share, seed=seed, **options) if options else largest(net, share)
            weights = torch.cat([layer.weight.flatten() for layer in connected(part)])
            yield name, float((weights != 0).double().mean()), accuracy(part)


def connected(net: nn.Module) -> list[nn.Linear]:
    """The fully connected layers of a network."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def largest(net: nn.Module, share: float) -> nn.Module:
    """A copy with only this share of the largest weights of all fully connected layers."""
    net = copy.deepcopy(net)
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in connected(net)])
    kept = int(share * len(sizes))
    least = sizes.topk(kept).values[-1] if kept else torch.inf
    with torch.no_grad():
        for layer in connected(net):
            layer.weight.mul_(layer.weight.abs() >= least)
    return net


def parts_table(
    found: Mapping[str, Sequence[Sequence[Sampled]]], shares: Sequence[float], level: float, out: Path, title: str
):
    """The table of each network's trainings; writes ``sampled.csv`` and ``sampled.png``."""
    lines = []
    series: dict[str, list] = {}
    for network, trainings in found.items():
        for number, values in enumerate(zip(*trainings, strict=True)):
            share, method = shares[number // len(SAMPLED)], values[0][0]
            mean, spread = mean_and_spread([accuracy for *_, accuracy in values])
            used = 100 * statistics.fmean(used for _, used, _ in values)
            texts = {"at most, %": f"{100 * share:g}", "used, %": f"{used:.2f}"}
            accuracy = mean_text(mean, spread, len(values))
            lines.append({"network": network, "sampled": method, **texts, "accuracy, %": accuracy})
            series.setdefault(f"{network}, {method}", []).append((100 * share, mean, spread))
    write_table(out / "sampled.csv", lines)
    measure = "test accuracy (%)"
    levels = {measure: {"all weights": level}}
    curves.lines({measure: series}, out / "sampled.png", along="weights used, at most (%)", title=title, levels=levels)
    return report.table("Paths sampled backwards from the outputs", lines, ("network", "sampled"))
