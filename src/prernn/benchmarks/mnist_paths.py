"""Networks made of paths on MNIST: accuracy over the number of paths, for Sobol', random and dense networks.

The figure of the talk "Structural Sparsity" for the network 784/300/300/10, trained sparse from the start; and a sparse
autoencoder with pictures of what it makes of digits. All networks of a figure are trained alike: Adam with one learning
rate, one cycle over the same epochs and batches. The seed draws the order of the pictures, the paths of random
networks, and the weights of dense ones; a Sobol' network draws nothing else. Coincident paths are merged. Of trained
dense networks ``--sampled`` keeps the weights on paths sampled backwards from the outputs, and the largest ones.
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
from prernn.benchmarks.measuring.digits import BATCH, DENSE, SAMPLED, SHOWN, Job, Result, options_of, read, train
from prernn.reports.files import write_table
from prernn.reports.plots import curves
from prernn.reports.plots.figure import save_figure
from prernn.reports.tables import mean_text, seeds_text
from prernn.studies.comparison.side_by_side import side_by_side
from prernn.studies.quantization import mean_and_spread


def run(options: argparse.Namespace) -> None:
    """Trains all networks and writes ``mnist.csv``, ``mnist.md``, ``mnist.png``, ``autoencoder.png``, ``sampled.png``.

    Raises:
        ValueError: absent data, numbers out of range.
    """
    if min(options.epochs, options.jobs, *options.paths) < 1 or not options.rate > 0:
        raise ValueError("expected --paths, --epochs and --jobs of at least 1 and --rate above 0")
    if not all(0 <= share <= 1 for share in options.sampled):
        raise ValueError("expected --sampled from 0 to 1")
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
    if any(result.sampled for result in classified):
        parts.append(_sampled_table(classified, out))
    if coded := [result for result in results if result.job.autoencoder]:
        parts.append(report.table("autoencoder", [_code_line(result) for result in coded], ("sampler",)))
        _draw_codes(coded, read(options.data)[2][:SHOWN], out / "autoencoder.png")
    report.show(parts, out / "mnist.md")
    print(f"written to {out}")


def _check(options: argparse.Namespace, data: Sequence[Tensor]) -> None:
    """Says now what a training would say after hours."""
    for name in options.samplers:
        options_of(name)
    pictures, labels = data[0], data[1]
    inputs, classes = pictures.shape[1], int(labels.max()) + 1
    if len(options.widths) < 2 or options.widths[0] != inputs or options.widths[-1] < classes:
        raise ValueError(f"expected --widths from {inputs} pixels to {classes} classes, got {options.widths}")
    if options.code_paths and (len(options.code) < 2 or {options.code[0], options.code[-1]} != {inputs}):
        raise ValueError(f"expected --code from {inputs} pixels to as many, got {options.code}")
    if (count := min(len(pictures), options.pictures or len(pictures))) < BATCH:
        raise ValueError(f"expected at least {BATCH} training pictures, got {count}")


def _jobs(options: argparse.Namespace) -> list[Job]:
    shared = {name: getattr(options, name) for name in ("data", "epochs", "rate", "pictures")}
    jobs = []
    for sampler in options.samplers:
        dense = sampler.startswith(DENSE)
        counts, steps = ([0], [None]) if dense else (options.paths, options.steps or [None])
        own = {**shared, "shares": tuple(options.sampled) if dense else ()}
        for paths, seed, step in itertools.product(counts, options.seeds, steps):
            jobs.append(Job(widths=tuple(options.widths), sampler=sampler, paths=paths, seed=seed, step=step, **own))
    jobs.sort(key=lambda job: (-job.paths, job.sampler))  # long ones first
    if options.code_paths:
        for sampler in options.samplers:
            paths = 0 if sampler.startswith(DENSE) else options.code_paths
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
            lines.sort(key=lambda line: (line["sampler"], line["paths"], line.get("step", 0), line["seed"]))
            write_table(out / "mnist.csv", lines)
    return results


def _groups(results: Sequence[Result]) -> dict[tuple[str, int, float | None], list[Result]]:
    """Trainings that differ in their seeds alone, by network, paths and step size."""
    keys = {id(result): (result.job.sampler, result.job.paths, result.job.step) for result in results}
    groups: dict[tuple[str, int, float | None], list[Result]] = {}
    for result in sorted(results, key=lambda result: (*keys[id(result)][:2], result.job.step or 0)):
        groups.setdefault(keys[id(result)], []).append(result)
    return groups


def _spread(results: Sequence[Result]) -> tuple[float, float]:
    return mean_and_spread([result.score for result in results])


def _table(results: Sequence[Result]):
    full = sum(a * b for a, b in zip(results[0].job.widths, results[0].job.widths[1:], strict=False))
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
        lines.append({"network": sampler, **texts, "coincident": f"{coincident:,}", "accuracy, %": accuracy})
    widths = "/".join(map(str, results[0].job.widths))
    title = f"{widths} on MNIST, {results[0].job.epochs} epochs, {seeds_text(len(group))}"
    return report.table(title, lines, ("network",))


def _draw(results: Sequence[Result], path: Path) -> None:
    """Accuracy over the number of paths, or over the step size of residual layers."""
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
            series.setdefault(f"{sampler} paths", []).append((paths, *_spread(group)))
    whole, close = "test accuracy (%)", "test accuracy (%), close to dense"
    panels = {whole: series}
    near = {name: [point for point in points if point[1] > 93] for name, points in series.items()}
    if not stepped and any(near.values()):
        panels[close] = {name: points for name, points in near.items() if points}
    widths = "/".join(map(str, results[0].job.widths))
    title = f"{widths} trained sparse from the start, MNIST"
    along = "step size h of residual layers" if stepped else "paths"
    curves.lines(panels, path, along=along, title=title, levels=dict.fromkeys(panels, levels))


def _sampled_table(results: Sequence[Result], out: Path):
    """Accuracy over the share of a trained dense network's weights; writes ``sampled.csv`` and ``sampled.png``."""
    groups: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
    for result in results:
        for number, (method, used, accuracy) in enumerate(result.sampled):
            share = result.job.shares[number // len(SAMPLED)]
            groups.setdefault((result.job.sampler, method, share), []).append((used, accuracy))
    lines = []
    series: dict[str, list] = {}
    for (network, method, share), values in groups.items():
        mean, spread = mean_and_spread([accuracy for _, accuracy in values])
        used = 100 * statistics.fmean(used for used, _ in values)
        texts = {"at most, %": f"{100 * share:g}", "used, %": f"{used:.2f}"}
        lines.append(
            {"network": network, "sampled": method, **texts, "accuracy, %": mean_text(mean, spread, len(values))}
        )
        series.setdefault(f"{network}, {method}", []).append((100 * share, mean, spread))
    write_table(out / "sampled.csv", lines)
    title = "a trained network with a part of its weights, MNIST"
    level = {"all weights": statistics.fmean(result.score for result in results if result.sampled)}
    panels = {"test accuracy (%)": series}
    curves.lines(
        panels, out / "sampled.png", along="weights used, at most (%)", title=title, levels={"test accuracy (%)": level}
    )
    return report.table("Paths sampled backwards from the outputs", lines, ("network", "sampled"))


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
