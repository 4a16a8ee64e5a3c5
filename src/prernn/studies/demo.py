"""``prernn demo``: the whole way in one command, on an embedded data set.

Renders short videos whose classes come in reversed pairs, so that no single frame tells them apart; makes a
pre-trained CNN recurrent in several ways; trains each on cached features of the frozen trunk; compares them on
pictures that were not trained on; and streams one held-out video frame by frame.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from prernn.conversion.accounting import matched_hidden_size, recurrent_parameters
from prernn.conversion.cut import split
from prernn.conversion.network import RecurrentNetwork
from prernn.media import sample_videos
from prernn.media.sampling import Sampling
from prernn.media.video import read_frames
from prernn.models import checkpoint
from prernn.models.backbones import DEFAULT_BACKBONE, backbone, input_spec
from prernn.models.recipe import Recipe
from prernn.reports.files import write_json, write_table
from prernn.reports.plots import curves
from prernn.reports.plots.classes import strip
from prernn.reports.progress import bars
from prernn.streaming.prediction import predictions
from prernn.streaming.stream import Stream
from prernn.tasks.action.lists import class_folder
from prernn.tasks.action.task import Action
from prernn.tasks.classification import ClipMetrics, masked_cross_entropy
from prernn.tasks.task import Subset
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset

SIZE, FRAMES, BATCH = 96, 12, 32


# for every row alike: of 0.1 and 0.3 the better one for every recurrent network
LEARNING_RATE = 0.3


MAIN = "PreGRU-SIH"


STACKED = "traditional GRU, matched"


@dataclass
class Contestant:
    """One row of the table."""

    name: str
    recipe: Recipe
    net: RecurrentNetwork = field(init=False)
    history: dict[str, list[float]] = field(default_factory=lambda: {"train loss": [], "test accuracy": []})
    metrics: dict[str, Any] = field(default_factory=dict)
    milliseconds: float = 0.0

    def build(self, classes: int, seed: int) -> None:
        """Makes the network; what is new in it starts by the seed."""
        torch.manual_seed(seed)
        self.net = self.recipe.build(classes)


@dataclass
class Features:
    """What the frozen trunk gives for a data set: inputs of the converted layer and the vector behind it."""

    layer_input: Tensor  # (N, T, C)
    vector: Tensor  # (N, T, D)
    label: Tensor  # (N,)


def run(root: str | Path = "runs/demo", *, clips: int = 140, epochs: int = 5, seed: int = 0) -> dict[str, Any]:
    """Runs the demo and leaves checkpoint, metrics, curves and per-frame predictions in ``root``.

    Args:
        root: run folder.
        clips: training clips a class; a quarter as many again, of other pictures, test.
        epochs: of each network.
        seed: of the data and of all weights.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ImportError: the packages of the ``demo`` extra are missing.
    """
    root, console = Path(root), Console()
    begin = time.perf_counter()
    with bars(console) as progress:
        data = render(root / "data", clips, seed, progress)
        task = open_task(data)
        labels = task.labels or []
        contestants = _contestants(len(labels), seed)
        by_name = {contestant.name: contestant.net for contestant in contestants}
        train, test = (features(task, part, by_name[STACKED], by_name[MAIN], progress) for part in ("train", "test"))
        for contestant in contestants:
            train_head(contestant, train, test, len(labels), epochs, seed, progress)
    main = next(contestant for contestant in contestants if contestant.name == MAIN)
    main.net.recipe |= task.recipe()
    checkpoint.save(main.net, root)
    time_streams(contestants)
    results = _write(root, contestants, labels, data)
    results["seconds"] = time.perf_counter() - begin
    results |= {"seed": seed, "clips": clips, "epochs": epochs, "threads": torch.get_num_threads()}
    write_json(root / "metrics.json", results)
    console.print(_table(contestants))
    console.print(f"{results['seconds']:.0f} s on {torch.get_num_threads()} threads; results in {root}")
    return results


def render(root: Path, clips: int, seed: int, progress: Progress) -> Path:
    """Renders ``clips`` training clips a class and a quarter as many for the test; returns their folder."""
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
    task = Action(sampling=Sampling(frames=FRAMES, rule="uniform"), size=SIZE, flip=False)
    task.open(data, input_spec(DEFAULT_BACKBONE))
    return task


def _contestants(classes: int, seed: int) -> list[Contestant]:
    cnn = backbone("efficientnet_lite0", device="meta")
    matched = matched_hidden_size(cnn, cell="gru", outputs=classes)
    rows = [
        Contestant("frame-wise CNN", Recipe(pretrained=True, method="framewise")),
        Contestant(STACKED, Recipe(pretrained=True, method="traditional", hidden_size=matched)),
        Contestant("PreGRU", Recipe(pretrained=True, input="gate")),
        Contestant(MAIN, Recipe(pretrained=True, input="single")),
        Contestant(f"{MAIN}, band:1%", Recipe(pretrained=True, input="single", hidden="band:1%")),
    ]
    for row in rows:
        row.build(classes, seed)
    return rows


def features(task: Action, part: Subset, stacked: RecurrentNetwork, main: RecurrentNetwork, progress) -> Features:
    """Runs the frozen trunk once over all frames; both things that the networks read come from one pass.

    Args:
        task: opened.
        part: of the data set.
        stacked: a traditional network, which stands on the vectors.
        main: a network whose one layer is converted, which reads what that layer reads.
        progress: shows a bar.
    """
    layer = main.recipe["steps"][0]["layer"][0]
    trunk = split(stacked)[0].eval().to(memory_format=torch.channels_last)
    seen: list[Tensor] = []
    hook = trunk.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dataset = VideoDataset(task, task.records(part))
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=0, collate_fn=collate)
    bar = progress.add_task(f"features, {part}", total=len(dataset), note="")
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for batch in loader:
            video, label = batch["video"], batch["label"]
            (vector,) = trunk(video.flatten(0, 1).contiguous(memory_format=torch.channels_last))  # (B*T, D)
            pooled = seen.pop().mean((2, 3))  # (B*T, C): the layer is pointwise, so pooling may come first
            parts.append((pooled.unflatten(0, video.shape[:2]), vector.unflatten(0, video.shape[:2]), label))
            progress.advance(bar, len(label))
    hook.remove()
    return Features(*(torch.cat(column).clone() for column in zip(*parts, strict=True)))


def _head(contestant: Contestant) -> tuple[Callable[[Features, Tensor], Tensor], list[nn.Parameter]]:
    """The part that trains: from features of some clips to logits ``(B, T, K)``, and its parameters."""
    net = contestant.net
    if contestant.recipe.method == "framewise":
        output = net.output_layer
        assert output is not None  # framewise() was given outputs
        return lambda features, rows: output(features.vector[rows]), list(output.parameters())
    rest = split(net)[1]
    prernn = contestant.recipe.method == "prernn"

    def logits(features: Features, rows: Tensor) -> Tensor:
        x = (features.layer_input if prernn else features.vector)[rows].transpose(0, 1)  # (T, B, C)
        steps, batch = x.shape[:2]
        x = x.flatten(0, 1)  # (T*B, C)
        out, _ = rest((x[:, :, None, None] if prernn else x,), net.init_state(batch))
        return out.unflatten(0, (steps, batch)).transpose(0, 1)

    return logits, list(rest.parameters())


def train_head(
    row: Contestant, train: Features, test: Features, classes: int, epochs: int, seed: int, progress
) -> None:
    """Trains what stands behind the frozen trunk, and measures it on the test features after each epoch."""
    logits, parameters = _head(row)
    row.net.train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(train.label) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    task = progress.add_task(row.name, total=steps, note="")
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(train.label), generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss = masked_cross_entropy(logits(train, rows), train.label[rows], torch.full((len(rows),), FRAMES))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress.advance(task)
        row.metrics = _evaluate(row, logits, test, classes)
        row.history["train loss"].append(statistics.fmean(losses))
        row.history["test accuracy"].append(row.metrics["clip_accuracy"])
        progress.update(task, note=f"test accuracy {row.metrics['clip_accuracy']:.3f}")
    row.net.eval()


def _evaluate(row: Contestant, logits, test: Features, classes: int) -> dict[str, Any]:
    metrics = ClipMetrics(classes)
    row.net.eval()
    with torch.inference_mode():
        for rows in torch.arange(len(test.label)).split(64):
            lengths = torch.full((len(rows),), FRAMES)
            batch = {"label": test.label[rows], "lengths": lengths, "path": [str(int(row)) for row in rows]}
            metrics.update(logits(test, rows), batch)
    row.net.train()
    return {name: value.tolist() for name, value in metrics.compute().items()}


def time_streams(contestants: Sequence[Contestant], frames: int = 60) -> None:
    """Median milliseconds of ``step`` for one frame, the networks taking turns."""
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
        "frame_accuracy": row.metrics["frame_accuracy"],
        "class_accuracy": row.metrics["class_accuracy"],
        "recurrent_weights": count.introduced,
        "milliseconds_a_frame": row.milliseconds,
        "history": row.history,
    }


def _table(contestants: Sequence[Contestant]) -> Table:
    table = Table(title="classes in reversed pairs, pictures not trained on")
    table.add_column("network", no_wrap=True)
    for name in ("accuracy", "recurrent weights introduced", "ms a frame, streaming"):
        table.add_column(name, justify="right")
    for row in contestants:
        weights = recurrent_parameters(row.net).introduced
        table.add_row(row.name, f"{row.metrics['clip_accuracy']:.1%}", f"{weights:,}", f"{row.milliseconds:.1f}")
    return table
