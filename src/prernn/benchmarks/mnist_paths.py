"""Networks made of paths on MNIST: accuracy over the number of paths, for Sobol', random and dense networks.

The figure of the talk "Structural Sparsity" for the network 784/300/300/10, trained sparse from the start; and a sparse
autoencoder with pictures of what it makes of digits. All networks of a figure are trained alike: Adam with one learning
rate, one cycle over the same epochs and batches. The seed draws the order of the pictures, the paths of random
networks, and the weights of dense ones; a Sobol' network draws nothing else. Coincident paths are merged.
"""

import argparse
import statistics
import zipfile
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console, RenderableType
from rich.progress import Progress
from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.reports.files import write_table
from prernn.reports.plots import curves
from prernn.reports.plots.figure import save_figure
from prernn.reports.tables import mean_text, seeds_text
from prernn.sparsity.path_network import PathNetwork
from prernn.studies.comparison.side_by_side import side_by_side
from prernn.studies.quantization import mean_and_spread

DENSE = "dense"
SAMPLERS = ("sobol", "random", DENSE)
BATCH = 128
SHOWN = 10
"""Digits in the autoencoder's picture."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        sampler: "sobol", "random", or "dense", which has no paths.
        autoencoder: learn the picture itself in place of its class.
    """

    data: str
    widths: tuple[int, ...]
    sampler: str
    paths: int
    seed: int
    epochs: int
    rate: float
    autoencoder: bool = False


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent (autoencoder: mean squared error), and what the network holds."""

    job: Job
    score: float
    weights: int
    coincident: int
    pictures: np.ndarray | None = None

    def line(self) -> dict:
        """A line of the CSV."""
        job = self.job
        kept = {"sampler": job.sampler, "paths": job.paths, "seed": job.seed, "epochs": job.epochs, "rate": job.rate}
        measure = "mse" if job.autoencoder else "accuracy"
        return {**kept, "weights": self.weights, "coincident": self.coincident, measure: f"{self.score:.6g}"}


def run(options: argparse.Namespace) -> None:
    """Trains all networks and writes ``mnist.csv``, ``mnist.md``, ``mnist.png`` and ``autoencoder.png``.

    Raises:
        ValueError: absent data, numbers out of range.
    """
    if min(options.epochs, options.jobs, *options.paths) < 1 or not options.rate > 0:
        raise ValueError("expected --paths, --epochs and --jobs of at least 1 and --rate above 0")
    _check(options, read(options.data))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    jobs = _jobs(options)
    results = _train_all(jobs, options.jobs, out)
    classified = [result for result in results if not result.job.autoencoder]
    parts: list[RenderableType] = [report.machine("cpu")]
    if classified:
        parts.append(_table(classified))
        _draw(classified, out / "mnist.png")
    if coded := [result for result in results if result.job.autoencoder]:
        parts.append(report.table("autoencoder", [_code_line(result) for result in coded], ("sampler",)))
        _draw_codes(coded, read(options.data)[2][:SHOWN], out / "autoencoder.png")
    report.show(parts, out / "mnist.md")
    print(f"written to {out}")


def _check(options: argparse.Namespace, data: Sequence[Tensor]) -> None:
    """Says now what a training would say after hours."""
    if odd := [name for name in options.samplers if name not in SAMPLERS]:
        raise ValueError(f"expected --samplers among {', '.join(SAMPLERS)}, got {odd[0]!r}")
    pictures, labels = data[0], data[1]
    inputs, classes = pictures.shape[1], int(labels.max()) + 1
    if len(options.widths) < 2 or options.widths[0] != inputs or options.widths[-1] < classes:
        raise ValueError(f"expected --widths from {inputs} pixels to {classes} classes, got {options.widths}")
    if options.code_paths and (len(options.code) < 2 or {options.code[0], options.code[-1]} != {inputs}):
        raise ValueError(f"expected --code from {inputs} pixels to as many, got {options.code}")
    if len(pictures) < BATCH:
        raise ValueError(f"expected at least {BATCH} training pictures, got {len(pictures)}")


def _jobs(options: argparse.Namespace) -> list[Job]:
    shared = {"data": options.data, "epochs": options.epochs, "rate": options.rate}
    jobs = []
    for sampler in options.samplers:
        counts = [0] if sampler == DENSE else options.paths
        for paths in counts:
            for seed in options.seeds:
                jobs.append(Job(widths=tuple(options.widths), sampler=sampler, paths=paths, seed=seed, **shared))
    jobs.sort(key=lambda job: (-job.paths, job.sampler))  # long ones first
    if options.code_paths:
        for sampler in options.samplers:
            paths = 0 if sampler == DENSE else options.code_paths
            code = Job(widths=tuple(options.code), sampler=sampler, paths=paths, seed=0, autoencoder=True, **shared)
            jobs.append(code)
    return jobs


def _train_all(jobs: Sequence[Job], at_once: int, out: Path) -> list[Result]:
    """Trains in processes of one thread; what is done so far stands in the CSV."""
    results: list[Result] = []
    with side_by_side(at_once) as pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("trainings", total=len(jobs))
        futures = [pool.submit(train, job) for job in jobs]
        for future in as_completed(futures):
            results.append(future.result())
            progress.advance(bar)
            lines = [result.line() for result in results if not result.job.autoencoder]
            lines.sort(key=lambda line: (line["sampler"], line["paths"], line["seed"]))
            write_table(out / "mnist.csv", lines)
    return results


def train(job: Job) -> Result:
    """One training."""
    pictures, labels, test, test_labels = read(job.data)
    torch.manual_seed(job.seed)
    net = build(job)
    steps = job.epochs * (len(pictures) // BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=job.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, job.rate, total_steps=steps, pct_start=0.2)
    for _ in range(job.epochs):
        for rows in torch.randperm(len(pictures)).split(BATCH)[: len(pictures) // BATCH]:
            out, x = net(pictures[rows]), pictures[rows]
            loss = F.mse_loss(out, x) if job.autoencoder else F.cross_entropy(out, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        out = net(test)
    weights = sum(p.numel() for name, p in net.named_parameters() if not name.endswith("bias"))
    coincident = job.paths * (len(job.widths) - 1) - weights if job.paths else 0
    if job.autoencoder:
        return Result(job, float(F.mse_loss(out, test)), weights, coincident, out[:SHOWN].numpy())
    return Result(job, 100 * float((out.argmax(1) == test_labels).float().mean()), weights, coincident)


def build(job: Job) -> nn.Module:
    """A network of paths, or a dense one of the same widths as torch starts it."""
    if job.sampler != DENSE:
        # one weight for each connection: coincident paths would take the steps of the optimizer several times
        return PathNetwork(job.widths, job.paths, sampler=job.sampler, seed=job.seed).merged()
    layers: list[nn.Module] = []
    for inputs, outputs in zip(job.widths, job.widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def read(folder: str | Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pictures ``(N, 784)`` from 0 to 1 and their classes, then those of the test.

    Raises:
        ValueError: no ``mnist.npz``, or one without these arrays.
    """
    path = Path(folder) / "mnist.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = [torch.from_numpy(arrays[f"{part}_{kind}"]) for part in ("train", "test") for kind in "xy"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected train_x, train_y, test_x and test_y: {error}") from error
    scaled = [value.flatten(1).float() / 255 if value.ndim > 1 else value.long() for value in found]
    return scaled[0], scaled[1], scaled[2], scaled[3]


def _groups(results: Sequence[Result]) -> dict[tuple[str, int], list[Result]]:
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in sorted(results, key=lambda result: (result.job.sampler, result.job.paths)):
        groups.setdefault((result.job.sampler, result.job.paths), []).append(result)
    return groups


def _spread(results: Sequence[Result]) -> tuple[float, float]:
    return mean_and_spread([result.score for result in results])


def _table(results: Sequence[Result]):
    full = sum(a * b for a, b in zip(results[0].job.widths, results[0].job.widths[1:], strict=False))
    lines = []
    for (sampler, paths), group in _groups(results).items():
        mean, spread = _spread(group)
        weights = round(statistics.fmean(result.weights for result in group))
        share = f"{weights / full:.2%}"
        accuracy = mean_text(mean, spread, len(group))
        texts = {"paths": f"{paths:,}" if paths else "", "weights": f"{weights:,}", "of all": share}
        coincident = round(statistics.fmean(result.coincident for result in group))
        lines.append({"network": sampler, **texts, "coincident": f"{coincident:,}", "accuracy, %": accuracy})
    widths = "/".join(map(str, results[0].job.widths))
    title = f"{widths} on MNIST, {results[0].job.epochs} epochs, {seeds_text(len(group))}"
    return report.table(title, lines, ("network",))


def _draw(results: Sequence[Result], path: Path) -> None:
    groups = _groups(results)
    series: dict[str, list] = {}
    for (sampler, paths), group in groups.items():
        if sampler != DENSE:
            series.setdefault(f"{sampler} paths", []).append((paths, *_spread(group)))
    dense = groups.get((DENSE, 0))
    levels = {} if dense is None else {"dense": _spread(dense)[0]}
    whole, close = "test accuracy (%)", "test accuracy (%), close to dense"
    panels = {whole: series}
    if near := {name: [point for point in points if point[1] > 93] for name, points in series.items()}:
        panels |= {close: {name: points for name, points in near.items() if points}} if any(near.values()) else {}
    widths = "/".join(map(str, results[0].job.widths))
    title = f"{widths} trained sparse from the start, MNIST"
    curves.lines(panels, path, along="paths", title=title, levels=dict.fromkeys(panels, levels))


def _code_line(result: Result) -> dict:
    texts = {"paths": f"{result.job.paths:,}", "weights": f"{result.weights:,}"}
    return {"sampler": result.job.sampler, **texts, "mean squared error": f"{result.score:.5f}"}


def _draw_codes(results: Sequence[Result], digits: Tensor, path: Path) -> None:
    """Digits in the first row, what each autoencoder makes of them below."""
    rows = [("digits", digits.numpy()), *((_name(result), result.pictures) for result in results)]
    figure, axes = plt.subplots(len(rows), len(digits), figsize=(len(digits), 1.15 * len(rows)), squeeze=False)
    side = round(digits.shape[1] ** 0.5)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        assert pictures is not None  # an autoencoder's result
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.reshape(side, side), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        line[0].set_title(name, fontsize=8, loc="left")
    widths = "/".join(map(str, results[0].job.widths))
    figure.suptitle(f"autoencoders {widths}, MNIST test digits", fontsize=9)
    save_figure(figure, path)


def _name(result: Result) -> str:
    paths = f"{result.job.sampler}, {result.job.paths:,} paths" if result.job.paths else "dense"
    return f"{paths}: {result.weights:,} weights, error {result.score:.4f}"
