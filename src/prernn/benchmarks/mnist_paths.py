"""Networks made of paths on MNIST: accuracy over the number of paths, for Sobol', random and dense networks.

It makes the figure of the talk "Structural Sparsity" for the network 784/300/300/10, trained sparse from the start, and
a sparse autoencoder with pictures of its reconstructions of digits. All networks of a figure are trained in the same
way: Adam with one learning rate, one cycle over the same epochs and batches. The seed determines the order of the
pictures, the paths of random networks, and the weights of dense ones, but nothing else of a Sobol' network. Coincident
paths are merged. From trained dense networks ``--sampled`` keeps the weights on paths sampled backwards from the
outputs, and the largest ones. ``--diagnosis`` counts what paths connect, instead of training classifiers. With
``--network convolutions`` the paths go through the channels of a small VGG, for CIFAR-10's pictures: stochastic
gradient descent, batch normalization, shifted and mirrored pictures.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

import matplotlib.pyplot as plt
from rich.console import Console, RenderableType
from rich.progress import Progress
from torch import Tensor

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.path_networks import convolutions, diagnosis, digits
from prernn.benchmarks.measuring.path_networks.digits import BATCH, SHOWN
from prernn.benchmarks.measuring.path_networks.jobs import DENSE, Job, Result, options_of
from prernn.benchmarks.measuring.path_networks.parts import parts_table
from prernn.reports.files import write_table
from prernn.reports.plots import curves
from prernn.reports.plots.figure import save_figure
from prernn.reports.tables import mean_text, seeds_text
from prernn.studies.comparison.side_by_side import side_by_side
from prernn.studies.quantization import mean_and_spread


def run(options: argparse.Namespace) -> None:
    """Trains all networks and writes ``mnist.csv``, ``mnist.md``, ``mnist.png``, ``autoencoder.png``, ``sampled.png``.

    Raises:
        ValueError: missing data, numbers out of range.
    """
    if min(options.epochs, options.jobs, *options.paths) < 1 or not options.rate > 0:
        raise ValueError("expected --paths, --epochs and --jobs of at least 1 and --rate above 0")
    if not all(0 <= share <= 1 for share in options.sampled):
        raise ValueError("expected --sampled from 0 to 1")
    for name in options.samplers:
        options_of(name)
    (_check_convolutions if _of_maps(options) else _check)(options)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.diagnosis:
        report.show([report.machine("cpu"), *diagnosis.tables(options, _widths(options), out)], out / "diagnosis.md")
        print(f"written to {out}")
        return
    jobs = _jobs(options)
    results = _train_all(jobs, options.jobs, out)
    classified = [result for result in results if not result.job.autoencoder]
    parts: list[RenderableType] = [report.machine("cpu")]
    if classified:
        data = "CIFAR-10" if _of_maps(options) else "MNIST"
        parts.append(_table(classified, data))
        _draw(classified, out / "mnist.png", data, by_share=_of_maps(options))
    if sampled := [result for result in classified if result.sampled]:
        parts.append(_parts_table(sampled, options.sampled, out))
    if coded := [result for result in results if result.job.autoencoder]:
        parts.append(report.table("autoencoder", [_code_line(result) for result in coded], ("sampler",)))
        _draw_codes(coded, digits.read(options.data)[2][:SHOWN], out / "autoencoder.png")
    report.show(parts, out / "mnist.md")
    print(f"written to {out}")


def _of_maps(options: argparse.Namespace) -> bool:
    return bool(options.network == "convolutions")


def _widths(options: argparse.Namespace) -> list[int]:
    usual = convolutions.WIDTHS if _of_maps(options) else digits.WIDTHS
    return list(options.widths or usual)


def _check(options: argparse.Namespace) -> None:
    """Raises now the errors that a training would raise after hours."""
    pictures, labels, *_ = digits.read(options.data)
    inputs, classes = pictures.shape[1], int(labels.max()) + 1
    widths = _widths(options)
    if len(widths) < 2 or widths[0] != inputs or widths[-1] < classes:
        raise ValueError(f"expected --widths from {inputs} pixels to {classes} classes, got {widths}")
    if options.code_paths and (len(options.code) < 2 or {options.code[0], options.code[-1]} != {inputs}):
        raise ValueError(f"expected --code from {inputs} pixels to as many, got {options.code}")
    if (count := min(len(pictures), options.pictures or len(pictures))) < BATCH:
        raise ValueError(f"expected at least {BATCH} training pictures, got {count}")


def _check_convolutions(options: argparse.Namespace) -> None:
    convolutions.read(options.data)
    widths = _widths(options)
    if not 2 <= len(widths) <= 6 or min(widths) < 1:
        raise ValueError(f"expected --widths of 2 to 6 layers of channels, got {widths}")
    if options.sampled or options.steps or options.diagnosis:
        raise ValueError("expected no --sampled, --steps or --diagnosis with --network convolutions")
    if any(part in name for name in options.samplers for part in ("dropout", "dropconnect", "least")):
        raise ValueError("expected no dropout, dropconnect or least with --network convolutions")


def _jobs(options: argparse.Namespace) -> list[Job]:
    shared = {name: getattr(options, name) for name in ("data", "epochs", "rate", "pictures")}
    shared |= {"widths": tuple(_widths(options)), "taps": convolutions.TAPS if _of_maps(options) else 1}
    jobs = []
    for sampler in options.samplers:
        dense = sampler.startswith(DENSE)
        counts, steps = ([0], [None]) if dense else (options.paths, options.steps or [None])
        own = {**shared, "shares": tuple(options.sampled) if dense else ()}
        for paths, seed, step in itertools.product(counts, options.seeds, steps):
            jobs.append(Job(sampler=sampler, paths=paths, seed=seed, step=step, **own))
    jobs.sort(key=lambda job: (-job.paths, job.sampler))  # long ones first
    if options.code_paths and not _of_maps(options):
        for sampler in options.samplers:
            paths = 0 if sampler.startswith(DENSE) else options.code_paths
            code = {**shared, "widths": tuple(options.code)}
            jobs.append(Job(sampler=sampler, paths=paths, seed=0, autoencoder=True, **code))
    return jobs


def train(job: Job) -> Result:
    """One training."""
    return (convolutions if job.taps > 1 else digits).train(job)


def _train_all(jobs: Sequence[Job], at_once: int, out: Path) -> list[Result]:
    """Trains in processes of one thread; the CSV has the results so far."""
    results: list[Result] = []
    with side_by_side(at_once) as pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("trainings", total=len(jobs))
        futures = [pool.submit(train, job) for job in jobs]
        for future in as_completed(futures):
            results.append(future.result())
            progress.advance(bar)
            lines = [result.line() for result in results if not result.job.autoencoder]
            lines.sort(key=lambda line: (line["sampler"], line["paths"], line.get("step", 0), line["seed"]))
            write_table(out / "mnist.csv", lines)
    return results


def _groups(results: Sequence[Result]) -> dict[tuple[str, int, float | None], list[Result]]:
    """Trainings that differ only in their seeds, by network, paths and step size."""
    keys = {id(result): (result.job.sampler, result.job.paths, result.job.step) for result in results}
    groups: dict[tuple[str, int, float | None], list[Result]] = {}
    for result in sorted(results, key=lambda result: (*keys[id(result)][:2], result.job.step or 0)):
        groups.setdefault(keys[id(result)], []).append(result)
    return groups


def _spread(results: Sequence[Result]) -> tuple[float, float]:
    return mean_and_spread([result.score for result in results])


def _table(results: Sequence[Result], data: str = "MNIST"):
    full = results[0].job.full
    lines = []
    stepped = any(result.job.step is not None for result in results)
    for (sampler, paths, step), group in _groups(results).items():
        mean, spread = _spread(group)
        weights = round(statistics.fmean(result.weights for result in group))
        share = f"{weights / full:.2%}"
        accuracy = mean_text(mean, spread, len(group))
        steps = {"step size h": "" if step is None else f"{step:g}"} if stepped else {}
        texts = {"paths": f"{paths:,}" if paths else "", **steps, "weights": f"{weights:,}", "of all": share}
        coincident = round(statistics.fmean(result.coincident for result in group))
        counts = {"coincident": f"{coincident:,}", "accuracy, %": accuracy}
        seconds = statistics.median(result.seconds for result in group)
        lines.append({"network": sampler, **texts, **counts, "training, s": f"{seconds:.0f}"})
    widths = "/".join(map(str, results[0].job.widths))
    title = f"{widths} on {data}, {results[0].job.epochs} epochs, {seeds_text(len(group))}"
    return report.table(title, lines, ("network",))


def _draw(results: Sequence[Result], path: Path, data: str = "MNIST", *, by_share: bool = False) -> None:
    """Accuracy over the number of paths, the share of the weights, or the step size of residual layers."""
    groups = _groups(results)
    stepped = any(step is not None for *_, step in groups)
    series: dict[str, list] = {}
    levels = {}
    for (sampler, paths, step), group in groups.items():
        if not paths:
            levels[sampler] = _spread(group)[0]
        elif stepped:
            series.setdefault(f"{sampler}, {paths:,} paths", []).append((step, *_spread(group)))
        else:
            at = _share(group) if by_share else paths
            series.setdefault(f"{sampler} paths", []).append((at, *_spread(group)))
    whole, close = "test accuracy (%)", "test accuracy (%), close to dense"
    panels = {whole: series}
    least = max(levels.values(), default=100.0) - 5
    near = {name: [point for point in points if point[1] > least] for name, points in series.items()}
    if not stepped and any(near.values()):
        panels[close] = {name: points for name, points in near.items() if points}
    widths = "/".join(map(str, results[0].job.widths))
    title = f"{widths} trained sparse from the start, {data}"
    along = "step size h of residual layers" if stepped else "weights, % of dense" if by_share else "paths"
    curves.lines(panels, path, along=along, title=title, levels=dict.fromkeys(panels, levels))


def _share(results: Sequence[Result]) -> float:
    """Weights over those of a dense network, in percent."""
    return round(100 * statistics.fmean(result.weights / result.job.full for result in results), 1)


def _parts_table(results: Sequence[Result], shares: Sequence[float], out: Path):
    found: dict[str, list] = {}
    for result in results:
        found.setdefault(result.job.sampler, []).append(result.sampled)
    level = statistics.fmean(result.score for result in results)
    return parts_table(found, shares, level, out, "a trained network with a part of its weights, MNIST")


def _code_line(result: Result) -> dict:
    texts = {"paths": f"{result.job.paths:,}", "weights": f"{result.weights:,}"}
    return {"sampler": result.job.sampler, **texts, "mean squared error": f"{result.score:.5f}"}


def _draw_codes(results: Sequence[Result], digits: Tensor, path: Path) -> None:
    """Digits in the first row, each autoencoder's reconstructions below."""
    rows = [("digits", digits.numpy()), *((_name(result), result.pictures) for result in results)]
    figure, axes = plt.subplots(len(rows), len(digits), figsize=(len(digits), 1.15 * len(rows)), squeeze=False)
    side = round(digits.shape[1] ** 0.5)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        assert pictures is not None  # the result is an autoencoder's
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
