"""The effect of regularization with few videos: PreGRU-SIH behind the demo's frozen trunk, trained in many ways.

Each seed draws a number of training clips per class. Each way is judged twice, after its last epoch: on training clips
that were not drawn, by which a user would choose, and on the test clips, which affect no choice. All ways have the same
learning rate and, unless they say otherwise, a cosine without warm-up, SGD with momentum, weight decay on all weights
and gradients of norm at most 1, as in ``prernn compare``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from prernn.benchmarks.measuring import report
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.layers.dropout import Dropout, drop
from prernn.reports.files import write_table
from prernn.reports.progress import bars
from prernn.reports.tables import mean_text, seeds_text
from prernn.studies.comparison.draws import drawn, held_out
from prernn.studies.demo import BATCH, CONTINUITY, CONVERTED, ORDERS, open_task
from prernn.studies.quantization import mean_and_spread
from prernn.tasks.task import Subset, Task
from prernn.training.dataset import VideoDataset
from prernn.training.frozen_trunk.epochs import batches_in_epoch, in_rows
from prernn.training.frozen_trunk.features import cached
from prernn.training.frozen_trunk.judge import judge
from prernn.training.frozen_trunk.learner import Items, Learner, calibrate_behind, learner
from prernn.training.frozen_trunk.train import train
from prernn.training.learning import Learning, Schedule, rate_factors, rate_groups
from prernn.training.learning.averaging import exponential
from prernn.training.learning.optimizer import make_optimizer
from prernn.training.live import evaluate_live, random_orders

PLAIN = Learning(schedule=Schedule("cosine"))

WAYS: dict[str, Learning] = {
    "as it is": PLAIN,
    **{f"inputs {p:g}": replace(PLAIN, dropout=Dropout(inputs=p)) for p in (0.2, 0.4)},
    **{f"states {p:g}": replace(PLAIN, dropout=Dropout(states=p)) for p in (0.2, 0.4)},
    "inputs 0.2, states 0.2": replace(PLAIN, dropout=Dropout(0.2, 0.2)),
    "inputs 0.2, states 0.2, each step": replace(PLAIN, dropout=Dropout(0.2, 0.2, each_step=True)),
    "warm-up of 3 epochs": replace(PLAIN, schedule=Schedule("cosine", warm_up=3)),
    "one cycle": replace(PLAIN, schedule=Schedule("one_cycle")),
    "constant rate": replace(PLAIN, schedule=Schedule("constant")),
    "constant rate, average 0.95": replace(PLAIN, schedule=Schedule("constant"), average=0.95),
    "average 0.95": replace(PLAIN, average=0.95),
    "selective decay": replace(PLAIN, selective_decay=True),
}
"""The ways that are compared, in the terms of `prernn fit`."""

HELD_OUT = 0.25
"""Share of the training clips that were not drawn that is used for judging."""

JUDGES = ("others", "test")
METRICS = ("reset", "live", "reset, second half", "live, second half")


@dataclass
class Trained:
    """One training, and its accuracies in percent, ``{"test": {"reset": 50.0, ...}, "others": {...}}``."""

    way: str
    seed: int
    accuracies: dict[str, dict[str, float]] = field(default_factory=dict)
    loss: float = 0.0

    def line(self) -> dict[str, Any]:
        """A line of the CSV."""
        found = {f"{judge}: {name}": f"{self.accuracies[judge][name]:.4g}" for judge in JUDGES for name in METRICS}
        return {"way": self.way, "seed": self.seed, **found, "train loss": f"{self.loss:.6g}"}


def run(options: argparse.Namespace) -> None:
    """Trains in all ways and writes ``regularization.csv`` and ``regularization.md``.

    Raises:
        ValueError: missing data, an unknown way, numbers out of range.
    """
    if min(options.few, options.epochs, options.threads) < 1 or not options.rate > 0:
        raise ValueError("expected --few, --epochs and --threads of at least 1 and --rate above 0")
    if unknown := sorted(set(options.ways or ()) - set(WAYS)):
        raise ValueError(f"--ways: expected some of {', '.join(map(repr, WAYS))}, got {unknown[0]!r}")
    task, out = open_task(Path(options.root) / "data"), Path(options.out)
    torch.set_num_threads(options.threads)
    ways, found = options.ways or list(WAYS), []
    with bars(Console()) as progress:
        train_items, test = (_features(task, part, progress) for part in ("train", "test"))
        bar = progress.add_task("training", total=len(ways) * len(options.seeds), note="")
        for way in ways:
            for seed in options.seeds:
                progress.update(bar, note=f"{way}, seed {seed}")
                found.append(_train(way, seed, task, train_items, test, options))
                progress.advance(bar)
    write_table(out / "regularization.csv", [each.line() for each in found])
    size = f"{options.few} clips a class, {options.epochs} epochs, rate {options.rate:g}"
    title = f"PreGRU-SIH behind its frozen trunk, {size}, {seeds_text(len(options.seeds))}; accuracy, %"
    tables = [_table(judge, found, title) for judge in JUDGES]
    report.show([report.machine("cpu"), *tables], out / "regularization.md")


def _features(task: Task, part: Subset, progress: Progress) -> Items:
    """The frozen trunk's outputs for each clip."""
    torch.manual_seed(0)  # for the parts of the trunk that are not pre-trained
    net = CONVERTED.build(task.outputs).eval()
    trunk, _ = split(net)
    dataset = VideoDataset(task, task.records(part))
    bar = progress.add_task(f"features, {part}", total=len(dataset), note="")
    return cached(trunk, dataset, at_once=8, advance=lambda: progress.advance(bar))


def _train(way: str, seed: int, task: Task, items: Items, test: Items, options: argparse.Namespace) -> Trained:
    """One training on clips that the seed draws."""
    learning = replace(WAYS[way], lr=options.rate)
    chosen = set(drawn([item["label"] for item in items], options.few, seed))
    few, others = ([item for place, item in enumerate(items) if (place in chosen) is kept] for kept in (True, False))
    torch.manual_seed(seed)
    net = CONVERTED.build(task.outputs)
    learns = learner(net, inputs_of(net))
    calibrate_behind(net, learns, few)
    drop(net.recurrent_layers, learning.dropout)
    in_epoch = batches_in_epoch(len(few), CONTINUITY, BATCH)
    schedule = _schedule(learns.part, learning, in_epoch, in_epoch * options.epochs)
    decay = learning.average
    mean = AveragedModel(learns.part, multi_avg_fn=exponential(decay)) if isinstance(decay, float) else None
    epochs = [in_rows(few, task, CONTINUITY, BATCH, seed, epoch) for epoch in range(options.epochs)]
    history, _ = train(
        learns,
        task,
        epochs,
        test[:1],  # judged below
        schedule,
        continuity=CONTINUITY,
        only_last=True,
        advance=lambda: None if mean is None else mean.update_parameters(learns.part),
    )
    if mean is not None:
        learns.part.load_state_dict(mean.module.state_dict())
    trained = Trained(way, seed, loss=history["train loss"][-1])
    _, judges = held_out(others, HELD_OUT)
    trained.accuracies["others"] = _accuracies(learns, task, judges, seed, orders=1)
    trained.accuracies["test"] = _accuracies(learns, task, test, seed, orders=ORDERS)
    return trained


def _schedule(part: nn.Module, learning: Learning, in_epoch: int, steps: int) -> LambdaLR:
    """The optimizer for a way of learning, and its rates."""
    groups = rate_groups("all", part.parameters(), learning.lr, rate_factors(part, learning.sparse_power))
    optimizer = make_optimizer(groups, part, learning)
    return LambdaLR(optimizer, lambda step: learning.schedule.rate_at(step, in_epoch, steps))


def _accuracies(learns: Learner, task: Task, items: Items, seed: int, orders: int) -> dict[str, float]:
    reset = judge(learns, task, items)
    live = evaluate_live(learns.advance, task.metrics(), items, random_orders(len(items), orders, seed))
    values = [each[name] for name in ("clip_accuracy", "late_accuracy") for each in (reset, live)]
    return {name: 100 * float(value) for name, value in zip(METRICS, values, strict=True)}


def _table(judge: str, found: Sequence[Trained], title: str) -> Any:
    """Ways as rows, accuracies as columns: mean and standard deviation over the seeds."""
    lines = []
    for way in dict.fromkeys(each.way for each in found):
        own = [each for each in found if each.way == way]
        texts = {
            name: mean_text(*mean_and_spread([each.accuracies[judge][name] for each in own]), len(own), ".1f")
            for name in METRICS
        }
        loss = mean_text(*mean_and_spread([each.loss for each in own]), len(own), ".3f")
        lines.append({"way": way, **texts, "train loss": loss})
    where = "training clips that were not drawn" if judge == "others" else "test clips"
    return report.table(f"{title}; {where}", lines, ["way"])
