"""Early prediction: how often a network is right after seeing only the first part of each video."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric

from prernn.conversion.clip_network import answers_once, clip_outputs
from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.models import checkpoint
from prernn.reports.files import say_written, write_table
from prernn.reports.plots.curves import early as draw_early
from prernn.reports.progress import bars
from prernn.reports.tables import print_whole
from prernn.studies.runs.page import short_names
from prernn.studies.runs.videos import own_videos
from prernn.tasks import restore
from prernn.tasks.classification import answers, clip_scores
from prernn.tasks.task import valid_steps
from prernn.training.batches import none_readable
from prernn.training.run.run_files import run_folder_of

FRACTIONS = tuple(tenth / 10 for tenth in range(1, 11))
"""Shares of a video after which a network's answer is evaluated."""

Curves = Mapping[str, Sequence[Sequence[float]]]
"""From a network's name to S lists of F accuracies, one list for each of its trainings."""


def frames_seen(lengths: Tensor, fraction: float) -> Tensor:
    """Number of frames that make up a fraction of each video, ``ceil(fraction * length)`` and at least 1: ``(B,)``.

    Args:
        lengths: frames of each video, int64 ``(B,)``.
        fraction: above 0 and at most 1; it is rounded to the nearest ratio of integers up to a million, so that neither
            0.3 nor 3 * 0.1 of 10 frames makes 4.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: expected above 0 and at most 1, got {fraction}")
    ratio = Fraction(fraction).limit_denominator(1_000_000)
    return ((lengths * ratio.numerator + ratio.denominator - 1) // ratio.denominator).clamp(min=1)


def early_scores(
    net: SequenceNetwork,
    video: Tensor,
    lengths: Tensor,
    fractions: Sequence[float] = FRACTIONS,
) -> Tensor:
    """Class probabilities ``(B, F, K)`` from the first ``n = ceil(fraction * length)`` frames of each video.

    A network that answers at every frame is causal, so one pass over the videos yields all its answers: the mean of
    ``softmax(out_t)`` over ``t <= n`` (`prernn.tasks.classification.clip_scores`). If it takes snippets, each snippet
    counts as a frame. A clip network (`prernn.conversion.clip_network`) runs again on the first n frames for each
    fraction that adds a frame.
    frame.

    Args:
        net: any network whose outputs are classes; it keeps its mode (training or evaluation).
        video: ``(B, T, C, H, W)``, snippets ``(B, T, C, D, H, W)``.
        lengths: valid steps of each video ``(B,)``; what follows is padding and is ignored.
        fractions: F shares of a video.

    Raises:
        ValueError: lengths outside 1..T, a fraction outside (0, 1], a video that does not fit the network.
    """
    valid_steps(lengths, video.shape[1])
    seen = [frames_seen(lengths, fraction) for fraction in fractions]
    if not answers_once(net, video):  # snippets of a network without recurrence are its steps too
        out, _ = net(video)  # (B, T, K)
        return torch.stack([clip_scores(out, count) for count in seen], dim=1)
    known: dict[tuple[int, ...], Tensor] = {}
    for count in seen:
        if (key := tuple(count.tolist())) not in known:  # a short video has fewer frames than there are fractions
            known[key] = clip_outputs(net, video, count).softmax(-1)  # (B, K)
    return torch.stack([known[tuple(count.tolist())] for count in seen], dim=1)


class EarlyAccuracy(Metric):
    """Running share of videos whose class is recognized, for each fraction that was seen.

    Move it with ``.to(device)``; torchmetrics sums over processes in `compute`.

    Args:
        fractions: their number F.
    """

    full_state_update = False
    hits: Tensor
    videos: Tensor

    def __init__(self, fractions: int = len(FRACTIONS)) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(fractions, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, label: Tensor) -> None:
        """Adds videos: ``scores`` ``(B, F, K)`` and ``label`` ``(B,)``. ValueError for other shapes."""
        if scores.ndim != 3 or scores.shape[1] != len(self.hits) or label.shape != scores.shape[:1]:
            shapes = f"{tuple(scores.shape)} and {tuple(label.shape)}"
            raise ValueError(f"expected scores (B, {len(self.hits)}, K) and label (B,), got {shapes}")
        self.hits += (answers(scores) == label[:, None]).sum(0)
        self.videos += len(label)

    def compute(self) -> Tensor:
        """Accuracies ``(F,)``, float64; for one fraction torchmetrics makes it a scalar. ValueError without a video."""
        if not self.videos:
            raise ValueError("early accuracy: expected at least one video, got none")
        return self.hits.double() / self.videos


@torch.inference_mode()
def early_accuracy(
    net: SequenceNetwork,
    batches: Iterable[dict[str, Any]],
    fractions: Sequence[float] = FRACTIONS,
    *,
    advance: Callable[[int], None] = lambda videos: None,
) -> dict[str, Any]:
    """Runs a network over videos in evaluation mode, and evaluates it after each fraction of them.

    Args:
        net: as in `early_scores`; each of its modules keeps the mode it is in.
        batches: as made by `prernn.training.batches.collate`, with ``input``, ``lengths`` and ``label``; batches whose
            videos were all skipped are left out. Several clips of a video count separately.
        fractions: F shares of a video.
        advance: called with the number of videos, read or skipped, after each batch.

    Returns:
        ``fractions``, ``accuracy`` and ``frames`` (seen on average; snippets for a network that takes them), F numbers
        each, and ``videos``, their number.

    Raises:
        ValueError: no video at all; as in `early_scores`.
    """
    device = next(net.parameters()).device
    metric = EarlyAccuracy(len(fractions)).to(device)
    total, skipped = torch.zeros(len(fractions), dtype=torch.int64), {}
    with evaluating(net):
        for batch in batches:
            if "input" in batch:
                video, lengths, label = (batch[key].to(device) for key in ("input", "lengths", "label"))
                metric.update(early_scores(net, video, lengths, fractions), label)
                total += torch.stack([frames_seen(batch["lengths"], fraction).sum() for fraction in fractions])
            skipped.update(batch.get("skipped", ()))
            advance(len(batch["path"]) + len(batch.get("skipped", ())))
    if skipped and not metric.videos:
        raise none_readable(skipped)
    accuracy, videos = metric.compute().reshape(-1).tolist(), int(metric.videos)
    return {
        "fractions": list(fractions),
        "accuracy": accuracy,
        "frames": (total / videos).tolist(),
        "videos": videos,
    }


def ask_runs(runs: Sequence[str | Path], out: str | Path, limit: int | None = None) -> Path:
    """Evaluates trained runs after each tenth of their test videos; prints a table, writes table and curves.

    Args:
        runs: run folders or checkpoint files, of a task whose videos have one class each.
        out: folder for ``early.csv`` and ``early.png``.
        limit: number of videos for each run, spread over its test list; None takes all.

    Returns:
        The picture.

    Raises:
        ValueError: a run that can't be read, or test videos that don't fit its network.
        NotImplementedError: a run of another kind of task, or one that does not say where its test videos are.
    """
    begun, paths = time.time(), [Path(run) for run in runs]
    names = short_names(paths)
    nets = [checkpoint.load(path) for path in paths]
    loaders = [_test_videos(path, net, limit) for path, net in zip(paths, nets, strict=True)]
    results = {}
    with bars() as progress:
        for name, net, loader in zip(names, nets, loaders, strict=True):
            bar = progress.add_task(name, total=len(loader.dataset), note="")  # type: ignore[arg-type]
            results[name] = early_accuracy(net, loader, advance=partial(progress.advance, bar))
    curves = {name: [result["accuracy"]] for name, result in results.items()}
    videos, frames = ({name: result[key] for name, result in results.items()} for key in ("videos", "frames"))
    picture = write_curves(curves, Path(out), videos=videos, frames=frames)
    print_whole(curve_table(curves))
    say_written(out, begun)
    return picture


def _test_videos(path: Path, net: SequenceNetwork, limit: int | None) -> DataLoader:
    task = restore(net.recipe) if net.recipe.task else None
    if task is None or not task.one_answer:
        got = "no task" if task is None else f"task {task.name!r}"
        raise NotImplementedError(f"{path}: expected a run with one answer a video for early prediction, got {got}")
    return some_videos(own_videos(run_folder_of(path), net), limit)


def some_videos(loader: DataLoader, limit: int | None) -> DataLoader:
    """``limit`` of a loader's videos, spread evenly over its data set: the first in a list cover few classes."""
    count = len(loader.dataset)  # type: ignore[arg-type]
    if limit is None or limit >= count:
        return loader
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1 video, got {limit}")
    chosen = Subset(loader.dataset, [(2 * k + 1) * count // (2 * limit) for k in range(limit)])
    size = getattr(loader.batch_sampler, "batch_size", None)
    return DataLoader(chosen, batch_size=size, collate_fn=loader.collate_fn, num_workers=loader.num_workers)


def write_curves(
    curves: Curves,
    out: Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    videos: int | Mapping[str, int] | None = None,
    frames: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Writes ``early.csv``, one row per network and fraction, and ``early.png``, one curve per network.

    For several trainings of a network both show the mean and the (sample) standard deviation.

    Args:
        curves: accuracies by network, F of them for each of its S trainings.
        out: the folder.
        fractions: F shares of a video.
        videos: number of videos in the accuracies, the same for all or by network.
        frames: number seen on average after each fraction, by network.

    Returns:
        The picture.

    Raises:
        ValueError: no network, one without a training, or not F accuracies.
    """
    mean, spread = _mean(curves, fractions), _spread(curves)
    rows = []
    for name, runs in curves.items():
        count = videos.get(name) if isinstance(videos, Mapping) else videos
        for place, fraction in enumerate(fractions):
            rows.append(
                {
                    "network": name,
                    "fraction": f"{fraction:g}",
                    "frames": f"{frames[name][place]:.6g}" if frames and name in frames else "",
                    "accuracy": f"{mean[name][place]:.6g}",
                    "spread": f"{spread[name][place]:.6g}" if len(runs) > 1 else "",
                    "trainings": len(runs),
                    "videos": "" if count is None else count,
                }
            )
    write_table(out / "early.csv", rows)
    return draw_early({name: (mean[name], spread[name]) for name in curves}, fractions, out / "early.png")


def curve_table(curves: Curves, fractions: Sequence[float] = FRACTIONS) -> Table:
    """The curves as a table: one row per network, one column per fraction. Arguments as in `write_curves`."""
    mean, spread = _mean(curves, fractions), _spread(curves)
    several = max(map(len, curves.values())) > 1
    table = Table(title="accuracy after a share of each video" + (", ± standard deviation" if several else ""))
    table.add_column("network", no_wrap=True)
    for fraction in fractions:
        table.add_column(f"{100 * fraction:g}%", justify="right", no_wrap=True)
    for name in curves:
        pairs = zip(mean[name], spread[name], strict=True)
        own = len(curves[name]) > 1
        table.add_row(name, *(f"{m:.3f} ±{s:.3f}" if own else f"{m:.3f}" for m, s in pairs))
    return table


def _mean(curves: Curves, fractions: Sequence[float]) -> dict[str, list[float]]:
    """Mean over the trainings, F numbers per network."""
    if not curves:
        raise ValueError("expected the curve of at least one network, got none")
    for name, runs in curves.items():
        if not runs or any(len(values) != len(fractions) for values in runs):
            got = [len(values) for values in runs]
            raise ValueError(f"{name}: expected {len(fractions)} accuracies for each training, got {got}")
    return {name: [statistics.fmean(values) for values in zip(*runs, strict=True)] for name, runs in curves.items()}


def _spread(curves: Curves) -> dict[str, list[float]]:
    """Standard deviation over the trainings, 0 if there is only one."""
    return {
        name: [statistics.stdev(values) if len(values) > 1 else 0.0 for values in zip(*runs, strict=True)]
        for name, runs in curves.items()
    }
