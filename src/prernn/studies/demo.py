"""``prernn demo``: the whole workflow in one command, on an embedded data set.

It renders short videos whose classes come in reversed pairs, so that no single frame tells them apart; makes a
pre-trained CNN recurrent in several ways; trains each on cached features of the frozen trunk, on rows of clips whose
state carries over; compares them on pictures that were not trained on, with the state reset before each video and live,
one video after the other without resets; and streams one held-out video frame by frame.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from prernn.conversion.accounting import matched_hidden_size, recurrent_parameters
from prernn.conversion.graph.ending import find_output_layer
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.dropout import Dropout, drop
from prernn.media import sample_videos
from prernn.media.sampling import Sampling
from prernn.media.video import read_frames
from prernn.models import checkpoint
from prernn.models.backbones import DEFAULT_BACKBONE, backbone, input_spec
from prernn.models.from_config import NetworkSpec
from prernn.reports.files import without_nan, write_json, write_table, write_text
from prernn.reports.numbers import plain
from prernn.reports.plots import curves
from prernn.reports.plots.classes import strip
from prernn.reports.progress import bars
from prernn.reports.tables import print_whole
from prernn.streaming.prediction import predictions
from prernn.streaming.stream import Stream
from prernn.tasks.action.lists import class_folder
from prernn.tasks.action.task import Action
from prernn.tasks.task import Subset
from prernn.training.continuity import SINGLE_CLIPS, Continuity
from prernn.training.dataset import VideoDataset
from prernn.training.frozen_trunk.epochs import batches_in_epoch, in_rows
from prernn.training.frozen_trunk.features import FURTHER, cached
from prernn.training.frozen_trunk.learner import Items, Learner, calibrate_behind, learner, sgd
from prernn.training.frozen_trunk.train import train as train_behind
from prernn.training.live import evaluate_live, random_orders

SIZE, FRAMES, BATCH = 96, 12, 32


OPTIONS: dict[str, Any] = {"sampling": {"frames": FRAMES, "rule": "consecutive"}, "size": SIZE, "flip": False}
"""Options of the task over the rendered videos, as in a configuration."""


LEARNING_RATE = 0.3
"""The same for every row."""


DROPOUT = Dropout(inputs=0.3)
"""The same for every row: the gates never see all that is in a clip."""


CONTINUITY = Continuity(clips=2, carry=True, onset=0.5)
"""States as old as in use, and no loss where the answer can't be known yet."""


ORDERS = 5
"""Number of random orders of the test videos, one after the other as on a camera."""


MAIN = "PreGRU-SIH"


CONVERTED = NetworkSpec(pretrained=True, input="single", keep_activation=True)
"""The network of that row."""


STACKED = "traditional GRU, matched"


LIVE = ("clip_accuracy", "late_accuracy", "frame_accuracy", "frames_until_right")
"""Metrics that are reported for the stream that is never reset."""


@dataclass
class Contestant:
    """One row of the table."""

    name: str
    spec: NetworkSpec
    net: RecurrentNetwork = field(init=False)
    history: dict[str, list[float]] = field(default_factory=lambda: {"train loss": [], "test accuracy": []})
    metrics: dict[str, Any] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    milliseconds: float = 0.0

    def build(self, classes: int, seed: int) -> None:
        """Makes the network; its new part is initialized from the seed."""
        torch.manual_seed(seed)
        self.net = self.spec.build(classes)


@dataclass(frozen=True)
class Features:
    """The frozen trunk's outputs for each video: everything that the networks read, from one pass.

    Attributes:
        vectors: items with the vectors after the pooling, ``(T, D)``.
        maps: items with the inputs of the converted layer, ``(T, C, H, W)``.
    """

    vectors: Items
    maps: Items

    def read_by(self, row: Contestant) -> Items:
        """The items that a network reads."""
        return self.maps if row.spec.method == "prernn" else self.vectors


def run(
    root: str | Path = "runs/demo", *, clips: int = 70, epochs: int = 5, seed: int = 0, single_clips: bool = False
) -> dict[str, Any]:
    """Runs the demo and writes checkpoint, metrics, curves and per-frame predictions into ``root``.

    Args:
        root: run folder.
        clips: training clips per class; a quarter as many, of other pictures, are for testing.
        epochs: number of epochs of each network.
        seed: seed of the data and of all weights.
        single_clips: train on each clip from a zero state with the loss on all frames, as the papers do, to see how
            that affects a stream that is never reset.

    Returns:
        The contents of ``metrics.json``.

    Raises:
        ImportError: the packages of the ``demo`` extra are missing.
    """
    root, console = Path(root), Console()
    continuity = SINGLE_CLIPS if single_clips else CONTINUITY
    begin = time.perf_counter()
    with bars(console) as progress:
        data = render(root / "data", clips, seed, progress)
        task = open_task(data)
        labels = task.labels or []
        contestants = _contestants(len(labels), seed)
        by_name = {contestant.name: contestant.net for contestant in contestants}
        train, test = (features(task, part, by_name[STACKED], by_name[MAIN], progress) for part in ("train", "test"))
        for contestant in contestants:
            train_head(contestant, train, test, task, epochs, seed, progress, continuity)
    main = next(contestant for contestant in contestants if contestant.name == MAIN)
    main.net.recipe = task.noted(main.net.recipe)
    checkpoint.save(main.net, root)
    write_text(root / "config.yaml", _config(main.spec, data, seed))
    time_streams(contestants)
    results = _write(root, contestants, labels, data)
    results = without_nan(results)
    results["seconds"] = time.perf_counter() - begin
    results |= {"seed": seed, "clips": clips, "epochs": epochs, "threads": torch.get_num_threads()}
    results["single_clips"] = single_clips
    write_json(root / "metrics.json", results)
    print_whole(_table(contestants))
    console.print(f"{results['seconds']:.0f} s on {torch.get_num_threads()} threads; results in {root}")
    return results


def prepare(root: Path, clips: int, seed: int = 0) -> Path:
    """Renders the videos into ``root/data`` and writes a configuration of the demo's network; returns its path."""
    with bars() as progress:
        data = render(root / "data", clips, seed, progress)
    path = root / "config.yaml"
    write_text(path, _config(CONVERTED, data, seed))
    return path


def render(root: Path, clips: int, seed: int, progress: Progress) -> Path:
    """Renders ``clips`` training clips per class and a quarter as many for the test; returns their folder."""
    task = progress.add_task("render videos", total=None, note="")
    return sample_videos.render(
        root,
        clips_per_class_train=clips,
        clips_per_class_test=max(1, clips // 4),
        size=SIZE,
        frames=FRAMES,
        seed=seed,
        progress=lambda done, total: progress.update(task, completed=done, total=total),
    )


def open_task(data: Path) -> Action:
    """The task over rendered videos."""
    task = Action(**{**OPTIONS, "sampling": Sampling(**OPTIONS["sampling"])})
    task.open(data, input_spec(DEFAULT_BACKBONE))
    return task


def _config(spec: NetworkSpec, data: Path, seed: int) -> str:
    """The configuration that makes a run of the folder, for ``prernn test`` and related commands."""
    task = {"class_path": "prernn.tasks.Action", "init_args": {"layout": "folders", **OPTIONS}}
    model = {"recipe": asdict(spec), "learning": {"dropout": asdict(DROPOUT)}}
    values = {"model": model, "data": {"root": str(data.resolve()), "task": task}}
    return yaml.safe_dump({"seed_everything": seed, **values}, sort_keys=False)


def _contestants(classes: int, seed: int) -> list[Contestant]:
    cnn = backbone("efficientnet_lite0", device="meta")
    matched = matched_hidden_size(cnn, cell="gru", outputs=classes)
    rows = [
        Contestant("frame-wise CNN", NetworkSpec(pretrained=True, method="framewise")),
        # its gate inputs are calibrated too, so that all networks are treated equally
        Contestant(STACKED, NetworkSpec(pretrained=True, method="traditional", hidden_size=matched, calibrate="all")),
        Contestant("PreGRU", replace(CONVERTED, input="gate")),
        Contestant(MAIN, CONVERTED),
        Contestant(f"{MAIN}, band:1%", replace(CONVERTED, hidden="band:1%")),
    ]
    for row in rows:
        row.build(classes, seed)
    return rows


def features(
    task: Action, part: Subset, stacked: RecurrentNetwork, main: RecurrentNetwork, progress: Progress
) -> Features:
    """Runs the frozen trunk once over all frames.

    Args:
        task: opened.
        part: part of the data set.
        stacked: a traditional network, which reads the vectors.
        main: a network with one converted layer, which reads that layer's inputs.
        progress: shows a bar.
    """
    trunk = split(stacked, [*inputs_of(main), *inputs_of(stacked)])[0].eval().to(memory_format=torch.channels_last)

    def both(frames: Tensor) -> tuple[Tensor, ...]:
        values: tuple[Tensor, ...] = trunk(frames.contiguous(memory_format=torch.channels_last))
        return values

    dataset = VideoDataset(task, task.records(part))
    bar = progress.add_task(f"features, {part}", total=len(dataset), note="")
    items = cached(both, dataset, at_once=8, advance=lambda: progress.advance(bar))
    further = f"{FURTHER}0"
    maps = [{name: value for name, value in item.items() if name != further} for item in items]
    vectors = [{**item, "input": other[further]} for item, other in zip(maps, items, strict=True)]
    return Features(vectors, maps)


def train_head(
    row: Contestant,
    train: Features,
    test: Features,
    task: Action,
    epochs: int,
    seed: int,
    progress: Progress,
    continuity: Continuity = CONTINUITY,
) -> None:
    """Trains the part behind the frozen trunk, and evaluates it on the test items after each epoch."""
    torch.manual_seed(seed)
    learns, items, shown = head(row), train.read_by(row), test.read_by(row)
    calibrate_behind(row.net, learns, items)
    drop(row.net.recurrent_layers, DROPOUT)
    order = [in_rows(items, task, continuity, BATCH, seed, epoch) for epoch in range(epochs)]
    steps = epochs * batches_in_epoch(len(items), continuity, BATCH)
    optimizer = sgd(learns, LEARNING_RATE)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.2)
    bar = progress.add_task(row.name, total=steps, note="")

    def report(values: dict[str, Tensor]) -> None:
        progress.update(bar, note=f"test accuracy {float(values['clip_accuracy']):.3f}")

    ways: dict[str, Any] = {"advance": lambda: progress.advance(bar), "report": report, "continuity": continuity}
    history, values = train_behind(learns, task, order, shown, schedule, **ways)
    row.history = {"train loss": history["train loss"], "test accuracy": history["clip_accuracy"]}
    live = evaluate_live(learns.advance, task.metrics(), shown, random_orders(len(shown), ORDERS, seed))
    row.metrics, row.live = ({name: plain(value) for name, value in each.items()} for each in (values, live))
    row.net.eval()


def head(row: Contestant) -> Learner:
    """The part of a network that trains: everything behind what it reads from the trunk."""
    if row.spec.method != "framewise":
        return learner(row.net, inputs_of(row.net))
    output = find_output_layer(row.net.cnn)
    assert output is not None  # framewise() was given outputs
    return learner(row.net, [output.all_input_nodes[0].name])


def time_streams(contestants: Sequence[Contestant], frames: int = 60) -> None:
    """Median milliseconds of ``step`` for one frame, with the networks taking turns."""
    frame = torch.randn(1, 3, SIZE, SIZE)
    states: list[Any] = [row.net.init_state(1) for row in contestants]
    times: list[list[float]] = [[] for _ in contestants]
    with torch.inference_mode():
        for _ in range(frames):
            for number, row in enumerate(contestants):
                begin = time.perf_counter()
                _, states[number] = row.net.step(frame, states[number])
                times[number].append(1000 * (time.perf_counter() - begin))
    for row, measured in zip(contestants, times, strict=True):
        row.milliseconds = statistics.median(measured[frames // 6 :])


def _write(root: Path, contestants, labels, data: Path) -> dict[str, Any]:
    """Curves, the streamed video as CSV and picture strip, and the figures as plain data."""
    series = {m: {row.name: row.history[m] for row in contestants} for m in ("train loss", "test accuracy")}
    curves.curves(series, root / "curves.png", title="embedded data set, EfficientNet-Lite0, frozen trunk")
    main = next(row for row in contestants if row.name == MAIN)
    video = class_folder(data, "test")[1][0]
    shown = list(predictions(Stream(main.net), video.path))
    rows = [
        {"frame": p.index, "time_s": f"{p.time:.3f}", "label": p.label, "probability": f"{p.probability:.4f}"}
        for p in shown
    ]
    write_table(root / "predictions.csv", rows)
    frames = [frame for _, frame in read_frames(video.path)]
    probabilities = np.stack([np.asarray(p.probabilities) for p in shown])
    title = f"{MAIN}, streamed: {Path(video.path).name} (true class: {labels[video.label]})"
    strip(frames, probabilities, labels, root / "predictions.png", title=title)
    return {"labels": labels, "rows": [_row(row) for row in contestants]}


def _row(row: Contestant) -> dict[str, Any]:
    count = recurrent_parameters(row.net)
    return {
        "network": row.name,
        "accuracy": row.metrics["clip_accuracy"],
        "late_accuracy": row.metrics["late_accuracy"],
        "frame_accuracy": row.metrics["frame_accuracy"],
        "live": {name: row.live[name] for name in LIVE},
        "class_accuracy": row.metrics["class_accuracy"],
        "recurrent_weights": count.introduced,
        "milliseconds_a_frame": row.milliseconds,
        "history": row.history,
    }


def _table(contestants: Sequence[Contestant]) -> Table:
    table = Table(
        title="classes in reversed pairs, pictures not trained on",
        caption="reset: state reset before each video; live: never, one video after the other, as on a camera; "
        "second half: of each video, where the answer can be known",
    )
    table.add_column("network", no_wrap=True)
    for name in ("reset", "live", "reset, second half", "live, second half", "recurrent weights", "ms a frame"):
        table.add_column(name, justify="right")
    for row in contestants:
        weights = recurrent_parameters(row.net).introduced
        shares = [way[name] for name in ("clip_accuracy", "late_accuracy") for way in (row.metrics, row.live)]
        table.add_row(row.name, *(f"{share:.1%}" for share in shares), f"{weights:,}", f"{row.milliseconds:.1f}")
    return table
