"""``prernn quantize``: quantized copies of trained networks, their loss, and the curve over the number of samples."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from prernn.conversion.modes import evaluating
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.names import short
from prernn.models.backbones import backbone, input_spec
from prernn.models.checkpoint import FILE_NAME, load, save
from prernn.models.describe import describe
from prernn.reports.files import say_written, write_table
from prernn.reports.plots import curves
from prernn.reports.progress import bars
from prernn.reports.tables import mean_text, print_whole
from prernn.sparsity.quantization.packing import save_quantized
from prernn.sparsity.quantization.quantize import OUTPUTS, quantization_report, quantize
from prernn.sparsity.quantization.synthetic_inputs import synthetic_inputs
from prernn.sparsity.quantization.weights import weights_of
from prernn.studies.early import some_videos
from prernn.studies.runs.videos import own_videos
from prernn.tasks.task import Task
from prernn.training.evaluation import evaluate, onward
from prernn.training.run.run_files import run_folder_of


@dataclass(frozen=True)
class Trial:
    """One quantized copy.

    Attributes:
        samples: samples per weight.
        coded: bits per weight in a file.
        error: error of the weights, ``||q - w|| / ||w||`` over all of them.
        score: score of the task on its test videos, or None without videos.
    """

    samples: float
    seed: int
    bits: float
    coded: float
    nonzero: float
    error: float
    score: float | None

    def line(self) -> dict[str, Any]:
        """A line of the CSV."""
        return {**vars(self), "score": "" if self.score is None else self.score}


@torch.no_grad()
def weight_error(trained: nn.Module, quantized: nn.Module) -> float:
    """``||q - w|| / ||w||`` over all quantized weights."""
    off = size = 0.0
    for before, after in zip(weights_of(trained), weights_of(quantized), strict=True):
        inside = before.neuron >= 0  # outside a band there are numbers that are not weights
        off += float((after.values - before.values)[inside].double().square().sum())
        size += float(before.values[inside].double().square().sum())
    return (off / size) ** 0.5 if size else 0.0


class Judge:
    """Scores networks by a task on its test videos.

    Args:
        loader: loader of test items, as made by `prernn.training.data_module`.

    Attributes:
        name: name of the score, such as ``clip_accuracy``.
    """

    def __init__(self, loader: DataLoader):
        dataset: Any = loader.dataset
        self.loader = loader
        self.task: Task = getattr(dataset, "dataset", dataset).task  # also for a subset
        self.name = self.task.score[0]

    def __call__(self, net: nn.Module) -> float:
        """The score; batches whose videos were all skipped are left out.

        Raises:
            ValueError: no video could be read.
        """
        assert isinstance(net, SequenceNetwork)
        with evaluating(net):
            values = evaluate(onward(net), self.task.metrics(), self.loader)
        return float(values[self.name])


def sweep(
    net: nn.Module,
    samples: Sequence[float],
    *,
    seeds: Sequence[int] = (0,),
    judge: Callable[[nn.Module], float] | None = None,
    advance: Callable[[], None] = lambda: None,
    **options: Any,
) -> list[Trial]:
    """Quantizes a network with each number of samples and each seed.

    Args:
        net: a trained network.
        samples: numbers of samples per weight.
        judge: returns a network's score; None measures only the weights.
        advance: called after each trial.
        options: of `prernn.quantize`.
    """
    trials = []
    for amount in samples:
        for seed in seeds:
            quantized = quantize(net, amount, seed=seed, **options)
            report = quantization_report(quantized)
            found = None if judge is None else judge(quantized)
            error = weight_error(net, quantized)
            trials.append(Trial(amount, seed, report.bits, report.coded, report.nonzero, error, found))
            advance()
    return trials


def summary(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """Means over the seeds, and the spread of the score, one row per number of samples."""
    rows = []
    for amount in dict.fromkeys(trial.samples for trial in trials):
        own = [trial for trial in trials if trial.samples == amount]
        row = {"samples a weight": f"{amount:g}", "draws": str(len(own))}
        for name, form in (("bits", ".2f"), ("coded", ".2f"), ("nonzero", ".1%"), ("error", ".3f")):
            row[name] = format(statistics.fmean(getattr(trial, name) for trial in own), form)
        if own[0].score is not None:
            mean, spread = mean_and_spread([trial.score for trial in own if trial.score is not None])
            row["score"] = mean_text(mean, spread, len(own), ".4f")
        rows.append(row)
    return rows


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def draw(trials: Sequence[Trial], path: Path, *, score_name: str, full: float | None, title: str) -> Path:
    """Plots score (or the weights' error), bits and share of non-zero weights over the samples per weight."""
    measure, name = ("error", "error of the weights") if full is None else ("score", score_name.replace("_", " "))
    shape = (("coded", "bits a weight in a file"), ("nonzero", "share of non-zero weights"))
    panels = {label: _line(trials, key) for key, label in ((measure, name), *shape)}
    levels = None if full is None else {name: {"before": full}}
    shown = {label: {"quantized": points} for label, points in panels.items()}
    return curves.lines(shown, path, along="samples a weight", title=title, levels=levels)


def _line(trials: Sequence[Trial], name: str) -> list[tuple[float, float, float]]:
    amounts = sorted({trial.samples for trial in trials})
    return [(a, *mean_and_spread([getattr(t, name) for t in trials if t.samples == a])) for a in amounts]


def folder_beside(network: Path) -> Path:
    """The folder for a quantized copy, beside a run or checkpoint, or among the runs for a backbone."""
    where = network.resolve() if network.exists() else Path("runs") / network.name
    return where.with_name(f"{where.stem if where.is_file() else where.name}-quantized")


def read_backbone(name: str, weights: str | Path | None = None) -> nn.Module:
    """A backbone in evaluation mode, with the weights of a file or those that its library offers.

    Raises:
        ValueError: no such backbone.
    """
    try:
        input_spec(name)
    except ValueError as error:
        raise ValueError(f"{name}: expected a run folder or checkpoint, found none; {error}") from error
    return backbone(name, pretrained=weights is None, weights=weights).eval()


def read_run(
    path: Path, out: Path, *, config: str | Path | None = None, limit: int | None = None
) -> tuple[nn.Module, "Judge | None"]:
    """A run's network, and its judge on its test videos; None if there are none.

    Args:
        path: run folder or checkpoint.
        out: folder for the quantized copy.
        config: configuration that names the test videos; None means the run's own config.yaml.
        limit: number of test videos, spread over the list; 0 means none.

    Raises:
        ValueError: ``out`` holds the trained network; no such config; test videos that don't fit the network.
    """
    net, folder = load(path), run_folder_of(path)
    if out.resolve() == folder.resolve() and (folder / FILE_NAME).exists():
        raise ValueError(f"--out {out} holds the trained network: expected another folder")
    file = Path(config) if config else folder / "config.yaml"
    if config and not file.is_file():
        raise ValueError(f"--config {file}: expected a file, found none")
    if limit == 0 or not file.is_file():
        return net, None
    try:
        loader = own_videos(file, net)
    except ValueError as error:
        raise ValueError(f"{error} (--limit 0 does without its videos)") from error
    return net, Judge(some_videos(loader, limit))


def run(
    net: nn.Module,
    out: str | Path,
    samples: float,
    more: Sequence[float],
    seeds: Sequence[int],
    judge: Judge | None,
    **options: Any,
) -> None:
    """Quantizes a network, reports on each layer, draws the curve, and writes everything to a folder.

    The folder contains ``model.safetensors`` (the first draw of ``samples``, readable by `prernn.load` and commands),
    ``layers.csv``, ``quantize.csv`` and ``quantize.png``.

    Args:
        net: a trained network.
        out: the folder.
        samples: samples per weight of the network that is kept.
        more: further numbers, for the curve.
        seeds: seeds of the draws.
        judge: scores networks on test videos, or None.
        options: of `prernn.quantize`.

    Raises:
        ValueError: what `prernn.quantize` raises, before anything is written; no readable test video.
    """
    out, console, begun = Path(out), Console(), time.time()
    amounts = sorted({samples, *more})
    if wrong := [amount for amount in amounts if not (math.isfinite(amount) and amount >= 0)]:
        raise ValueError(f"expected samples a weight from 0 on, got {wrong[0]}")
    options |= _inputs(net, **options)
    kept = quantize(net, samples, seed=seeds[0], **options)
    out.mkdir(parents=True, exist_ok=True)
    file = _save(kept, out)
    report = quantization_report(kept)
    write_table(out / "layers.csv", [vars(row) for row in report.rows])
    with bars(Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("quantize", total=len(amounts) * len(seeds) + (judge is not None), note="")
        advance = partial(progress.advance, bar)
        full = None if judge is None else judge(net)
        if judge is not None:
            advance()
        trials = sweep(net, amounts, seeds=seeds, judge=judge, advance=advance, **options)
    write_table(out / "quantize.csv", [trial.line() for trial in trials])
    title = f"{_name(net)}, {options.get('sampler', 'systematic')} samples"
    draw(trials, out / "quantize.png", score_name=judge.name if judge else "", full=full, title=title)
    print(report.table())  # not wrapped
    if judge is not None:
        console.print(f"{judge.name} before: {full:.4f}")
    print_whole(_table(trials))
    console.print(f"{file}: {file.stat().st_size / 1e6:.2f} MB", highlight=False)
    say_written(out, begun)


def _inputs(net: nn.Module, allocation: float | str = 0.0, correct: bool = False, **others: Any) -> dict[str, Any]:
    """Inputs made from the network, once for all draws, if they are requested."""
    if allocation != OUTPUTS and not correct:
        return {}
    shape = None if isinstance(net, RecurrentNetwork) else _input_shape(net)
    with bars(Console(stderr=True), transient=True) as progress:
        progress.add_task("inputs from the network", total=None, note="")
        return {"inputs": synthetic_inputs(net, shape)}


def _input_shape(net: nn.Module) -> tuple[int, ...]:
    """Shape of a backbone's picture, or clip of 16 frames. NotImplementedError if it takes neither."""
    first = next((part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)), None)
    if first is None:
        raise NotImplementedError(f"expected a backbone that takes pictures, got {_name(net)} without a convolution")
    size = input_spec(net)["size"]
    return (first.in_channels, *((16,) if isinstance(first, nn.Conv3d) else ()), size, size)


def _name(net: nn.Module) -> str:
    """A network's name in a picture."""
    if isinstance(net, RecurrentNetwork):
        return f"{describe(net.recipe)} of {short(net.recipe.backbone or 'a CNN')}"
    return short(getattr(net, "recipe_of_backbone", {}).get("backbone") or type(net).__name__)


def _save(quantized: nn.Module, out: Path) -> Path:
    """A checkpoint of a recurrent network, a file of packed weights of any other."""
    if not isinstance(quantized, RecurrentNetwork):
        return save_quantized(quantized, out / FILE_NAME)
    return save(quantized, out)


def _table(trials: Sequence[Trial]) -> Table:
    rows = summary(trials)
    table = Table(title="over the samples a weight")
    for name in rows[0]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table
