"""``prernn confidence``: calibrates the confidence of a trained run on videos that it was not trained on.

On held-out videos it fits the temperature, and the probability below which an answer is "unknown"; on videos of other
things, the probability that an event must reach, for a given number of false events per hour.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real
from prernn.media.source import videos_in
from prernn.media.video import probe
from prernn.models import checkpoint
from prernn.reports.files import say_written, write_json
from prernn.reports.plots.confidence import false_events, reliability
from prernn.reports.progress import bars
from prernn.reports.tables import print_whole
from prernn.streaming.events import EventSpan
from prernn.streaming.prediction import predictions
from prernn.streaming.stream import Stream
from prernn.studies.runs.videos import held_out_videos
from prernn.tasks import restore
from prernn.tasks.confidence import Confidence, temperature, threshold
from prernn.tasks.task import Task
from prernn.training.evaluation import Batch, onward, scalars
from prernn.training.run.run_files import run_folder_of, write_confidence

BINS = 15
"""Number of bins of the expected calibration error, as in Guo et al."""

FILE = "confidence.json"

STEPS = 20
"""Number of thresholds that are tried, from 0 to 1."""

Held = Sequence[tuple[Tensor, Batch]]
"""Outputs ``(B, T, K)`` of batches of held-out videos, and the batches."""


class Watched(NamedTuple):
    """What a network output for one video of other things, as a stream."""

    times: list[float]  # seconds, T of them
    probabilities: Tensor  # (T, K), as output by the network


@dataclass
class Others:
    """Videos that show nothing the network knows.

    Attributes:
        videos: each as a stream saw it, one after the other and never reset.
        hours: their total duration.
    """

    videos: list[Watched]
    hours: float

    def events(self, task: Task, *, everything: bool = False) -> list[EventSpan]:
        """The events that the task finds in them, all of which are false."""
        return [
            event
            for video in self.videos
            if video.times
            for event in task.events_in(video.times, video.probabilities, everything=everything)
        ]

    def rate(self, task: Task) -> float:
        """False events per hour."""
        return len(self.events(task)) / self.hours


def fit_confidence(
    run: str | Path,
    *,
    others: Sequence[str | Path] = (),
    check: Sequence[str | Path] = (),
    per_hour: float = 10.0,
    unknown: float = 0.05,
    write: bool = True,
) -> dict[str, Any]:
    """Fits a run's confidence, writes it into the run, prints a table and plots the results.

    Args:
        run: run folder, or a checkpoint file in one.
        others: videos, and folders of them, that show nothing the network knows; without any, the threshold of events
            stays unchanged.
        check: further such videos, on which false events are counted but nothing is fitted.
        per_hour: tolerated number of false events per hour.
        unknown: share of the correct answers on held-out videos that may become "unknown".
        write: whether the run is changed; otherwise only the report is written.

    Returns:
        The contents of ``confidence.json``.

    Raises:
        ValueError: a run without held-out videos, videos that can't be read, numbers out of range.
        NotImplementedError: the run's task has no probabilities and events, its input is flow, or its data is missing.
    """
    real("false alarms", per_hour, 0)
    real("unknown", unknown, 0, 1)
    begun, path = time.time(), Path(run)
    net, folder = checkpoint.load(path), run_folder_of(path)
    before = restore(net.recipe)
    before.confident(1.0, 0.0, None)  # raises for a task without confidence
    files, more = ([file for source in sources for file in videos_in(Path(source))] for sources in (others, check))
    loader, which = held_out_videos(folder, net)
    with evaluating(channels_last(net)), bars() as progress:
        batches = _held_out(net, loader, _shown(progress, "held-out videos", len(loader)))
        seen = _watched(net, before, files, _shown(progress, "videos of other things", len(files)))
        checked = _watched(net, before, more, _shown(progress, "and others to check", len(more)))
    logits, label = _answers(before, batches)
    options = _fitted(net.recipe, before, logits, label, batches, seen, per_hour, unknown)
    after = restore(with_options(net.recipe, options))
    found = {
        "held_out": which,
        "answers": len(label),
        "false_alarms_borne": per_hour,
        **{f"hours_{name}": part.hours for name, part in (("others", seen), ("check", checked)) if part},
        "options": options,
        "before": _figures(before, logits, label, batches, seen, checked),
        "after": _figures(after, logits, label, batches, seen, checked),
    }
    if write:
        write_confidence(path, with_options(net.recipe, options), options)
    write_json(folder / FILE, found)
    _draw(folder, before, after, logits, label, seen, per_hour)
    print_whole(table(found))
    say_written(folder, begun)
    return found


def with_options(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """The recipe with other options of its task."""
    assert recipe.task is not None
    task = dataclasses.replace(recipe.task, options={**recipe.task.options, **options})
    return dataclasses.replace(recipe, task=task)


def _shown(progress: Any, name: str, total: int) -> Callable[[], None]:
    return partial(progress.advance, progress.add_task(name, total=total, note="")) if total else lambda: None


def _held_out(net: SequenceNetwork, loader: Any, advance: Callable[[], None]) -> list[tuple[Tensor, Batch]]:
    """Outputs ``(B, T, K)`` of each batch, and the batch without its videos."""
    found, outputs = [], onward(net)
    with torch.inference_mode():
        for batch in loader:
            advance()
            if "input" in batch:
                out = outputs(batch).float()
                found.append((out, {name: value for name, value in batch.items() if name != "input"}))
    if not found:
        raise ValueError("expected held-out videos that can be read, got none")
    return found


def _watched(net: SequenceNetwork, task: Task, files: Sequence[Path], advance: Callable[[], None]) -> Others | None:
    """Videos as a stream through the network, one after the other and never reset; None without any."""
    if not files:
        return None
    if (net.recipe.transform or {}).get("flow"):
        raise NotImplementedError("expected a network over color frames for videos of other things, got optical flow")
    stream, videos, seconds = Stream(net), [], 0.0
    for file in files:
        seen = list(predictions(stream, file, deinterlace=task.deinterlace))
        rows = [one.probabilities for one in seen]
        videos.append(Watched([one.time for one in seen], torch.stack(rows) if rows else torch.empty(0)))
        info = probe(file)
        seconds += info.frames / info.fps if info.frames else (seen[-1].time if seen else 0.0)
        advance()
    return Others(videos, seconds / 3600)


def _answers(task: Task, batches: Held) -> tuple[Tensor, Tensor]:
    logits, labels = zip(*(task.answers(out, batch) for out, batch in batches), strict=True)
    return torch.cat(logits), torch.cat(labels)


def _fitted(
    recipe: Recipe,
    task: Task,
    logits: Tensor,
    label: Tensor,
    batches: Held,
    seen: Others | None,
    per_hour: float,
    unknown: float,
) -> dict[str, Any]:
    """The new options of the run."""
    warmth = round(temperature(logits, label), 4)
    sure, best = (logits / warmth).softmax(-1).max(-1)
    right = sure[best == label]
    below = math.floor(1e4 * float(right.quantile(unknown))) / 1e4 if len(right) and unknown else 0.0
    if seen is None:
        return task.confident(warmth, below, None)

    def at(threshold: float | None) -> Task:
        return restore(with_options(recipe, task.confident(warmth, below, threshold)))

    exact = threshold(seen.events(at(None), everything=True), seen.hours, per_hour)
    least = math.ceil(1e4 * exact) / 1e4
    if least > 1:
        print(
            "prernn: on the videos of other things even events of probability 1 are more than "
            f"{per_hour:g} an hour; the threshold is 1, and the table shows what is left"
        )
        return task.confident(warmth, below, 1.0)
    return task.confident(warmth, below, _best_threshold(at, _high(task), least, batches))


def _best_threshold(at: Callable[[float], Task], present: float, least: float, batches: Held) -> float:
    """From ``least`` on, the threshold with the best event F1 on held-out videos, the highest of equals.

    Videos of other things are few, and say nothing about false events among true ones. For a task whose held-out videos
    have no events, it is the present threshold, or ``least`` if that is higher.
    """
    tried = {}
    for high in (least, *(step / STEPS for step in range(1, STEPS) if step / STEPS > least)):
        values = _metrics(at(high), batches)
        if "event_f1_50" not in values:
            return max(present, least)
        tried[high] = values["event_f1_50"]
    best = max(tried.values())
    return max(high for high, value in tried.items() if value == best)


def _metrics(task: Task, batches: Held) -> dict[str, float]:
    metrics = task.metrics()
    for out, batch in batches:
        metrics.update(out, batch)
    return scalars(metrics.compute())


def _figures(task: Any, logits: Tensor, label: Tensor, batches: Held, *others: Others | None) -> dict[str, float]:
    """The figures before and after: on held-out videos, and on those of other things."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities = (logits / task.temperature).softmax(-1)
    sure, best = probabilities.max(-1)
    unknown = sure < task.unknown_below
    figures = {
        "calibration_error": float(multiclass_calibration_error(probabilities, label, logits.shape[-1], n_bins=BINS)),
        "cross_entropy": float(torch.nn.functional.cross_entropy(logits / task.temperature, label)),
        "accuracy": float((best == label).float().mean()),
        "unknown": float(unknown.float().mean()),
        "accuracy_of_the_known": float((best == label)[~unknown].float().mean()),
        **{name: v for name, v in _metrics(task, batches).items() if name in ("event_f1_50", "mean_iou")},
    }
    for name, part in zip(("others", "check"), others, strict=True):
        if part is not None:
            figures[f"false_events_an_hour_{name}"] = part.rate(task)
            figures[f"unknown_{name}"] = _unknown(task, part)
    return figures


def _unknown(task: Any, others: Others) -> float:
    """Share of the moments in videos of other things whose answer is "unknown"."""
    probabilities = torch.cat([video.probabilities for video in others.videos if video.times])
    sure = Confidence(task.temperature).calibrated(probabilities).amax(-1)
    return float((sure < task.unknown_below).float().mean())


def _draw(
    folder: Path, before: Any, after: Any, logits: Tensor, label: Tensor, seen: Others | None, per_hour: float
) -> None:
    answers = {}
    for name, task in (("before", before), ("after", after)):
        sure, best = (logits / task.temperature).softmax(-1).max(-1)
        answers[f"{name}, T = {task.temperature:.3g}"] = (sure.numpy(), (best == label).numpy())
    reliability(answers, folder / "reliability.png", bins=BINS)
    if seen is not None:
        scores = {
            name: [event.score for event in seen.events(task, everything=True)]
            for name, task in (("before", before), ("after", after))
        }
        marks = {"borne": per_hour}
        false_events(scores, seen.hours, folder / "false_events.png", marks=marks, chosen=_high(after))


def _high(task: Any) -> float:
    """The threshold of a task's events."""
    return float(task.events.high if hasattr(task, "events") else task.threshold)


def table(found: dict[str, Any]) -> Table:
    """The fitted values, and figures before and after."""
    shown = Table(title=f"confidence, fitted on {found['answers']:,} answers of {found['held_out']}")
    shown.add_column("", no_wrap=True)
    for name in ("before", "after"):
        shown.add_column(name, justify="right")
    for name in found["after"]:
        shown.add_row(name.replace("_", " "), *(f"{found[way][name]:.4g}" for way in ("before", "after")))
    hours = [f"{found[f'hours_{name}']:.3g} h ({name})" for name in ("others", "check") if f"hours_{name}" in found]
    seen = [f"videos of other things: {', '.join(hours)}"] if hours else []
    shown.caption = ", ".join([str(found["options"]), *seen])
    return shown
