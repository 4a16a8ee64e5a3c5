"""The trainings of a comparison: what they share, and what each of them does, in parallel processes."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.conversion.modes import channels_last
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.dropout import drop
from prernn.models.from_config import NetworkSpec
from prernn.studies import early
from prernn.studies.comparison.draws import beside, drawn, held_out, once
from prernn.studies.comparison.lineup import Budget, Row
from prernn.studies.comparison.side_by_side import side_by_side
from prernn.tasks.task import Task
from prernn.training.continuity import SINGLE_CLIPS, Continuity
from prernn.training.data_module import VideoData
from prernn.training.evaluation import in_batches, scalars
from prernn.training.frozen_trunk.epochs import batches_in_epoch, epochs_of
from prernn.training.frozen_trunk.features import cached, through
from prernn.training.frozen_trunk.judge import verdicts
from prernn.training.frozen_trunk.learner import TEST_BATCH, Items, Learner, calibrate_behind, learner, sgd
from prernn.training.frozen_trunk.train import train
from prernn.training.learning.clipping import Clipping
from prernn.training.live import evaluate_live, random_orders

LIVE = "live"
"""Prefix of the names of metrics of one stream through all test videos, whose state is never reset."""

LIVE_METRICS = ("late_accuracy", "frames_until_right")
"""Live metrics that are reported beside the task's score, if there are any."""

LIVE_ORDERS = 5
"""Number of random orders of the test videos."""


@dataclass(frozen=True)
class Known:
    """What all trainings of a comparison share.

    Attributes:
        task: the task, for loss and metrics.
        at: values of the graph at which a network is cut: these are the features that it learns from, or in a budget
            with joint training those of its first phase; None if the networks train as a whole.
        budget: of each training.
        labels: of the training videos, by their number.
        frozen: whether batch normalization keeps its statistics; None as in `learner`.
        curves: whether a final training keeps the data for curves and pictures: its score after each epoch, its answer
            for each video, accuracy over the share of a video; otherwise it is tested only after the last epoch.
    """

    task: Task
    at: list[str] | None
    budget: Budget
    labels: list[int]
    frozen: bool | None = None
    curves: bool = True


@dataclass(frozen=True)
class Training:
    """One training of one network.

    Attributes:
        spec: the network.
        rate: learning rate.
        seed: seed of the weights, the order of the videos and the choice of few videos.
        continuity: how states carry over; None is the budget's.
        search: judge by held-out training videos, not by the test videos.
        few: training videos of each class; None is the budget's.
        epochs: number of epochs; None is the budget's.
        pretrained: share of the rate for the pre-trained part.
    """

    spec: NetworkSpec
    rate: float
    seed: int
    continuity: Continuity | None = None
    search: bool = False
    few: int | None = None
    epochs: int | None = None
    pretrained: float = 1.0


def inputs(
    data: VideoData, rows: Sequence[Row], budget: Budget, progress: Progress, *, whole: bool = False
) -> tuple[Known, Items, Items]:
    """What the trainings of these networks share, and the items that they learn from and are tested on.

    The items are the outputs of the trunk below the converted layer, or, if networks train as a whole, even if only at
    the end, the videos themselves.

    Raises:
        NotImplementedError: a value bypasses the converted layer.
    """
    task, spec = data.task, next((row.spec for row in rows if row.spec.method == "prernn"), rows[-1].spec)
    at, trunk = None, None
    if not whole:
        network = spec.build(task.outputs)
        at = inputs_of(network)
        trunk = None if budget.joint else channels_last(split(network, at)[0].eval())
    items = []
    for part, passes in (("train", budget.passes), ("test", 1)):
        dataset = data.dataset(part)  # type: ignore[arg-type]
        bar = progress.add_task(f"{part} videos", total=passes * len(dataset), note="")
        items.append(cached(trunk, dataset, passes=passes, advance=partial(progress.advance, bar)))
    return Known(task, at, budget, labels_of(data)), items[0], items[1]


def labels_of(data: VideoData) -> list[int]:
    """Labels of the training videos, by their number."""
    return [data.task.recording(record)[0] for record in data.dataset("train").records]


# what the training processes share: "known", and the items "train" and "test"
_shared: dict[str, Any] = {}


@contextlib.contextmanager
def pool(jobs: int, known: Known, train: Items, test: Items) -> Iterator[Executor]:
    """Runs `train_one` in processes that read the features from a file: a pipe would open one for each tensor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.pt"
        torch.save({"train": train, "test": test}, path)
        with side_by_side(jobs, _share, (known, path)) as executor:
            try:
                yield executor
            finally:
                _shared.clear()


def _share(known: Known, features: Path) -> None:
    _shared["known"] = known
    _shared.update(torch.load(features, weights_only=True, mmap=True))


def train_one(training: Training) -> dict[str, Any]:
    """Trains and evaluates one network; returns the metrics' scalars and a history of loss and score."""
    known: Known = _shared["known"]
    task, budget = known.task, known.budget
    train_items, test = _items(training)
    torch.manual_seed(training.seed)
    net = training.spec.build(task.outputs)
    channels_last(net)
    drop(net.recurrent_layers, budget.dropout)
    rate, epochs = training.rate, training.epochs or budget.epochs
    at, frozen = known.at, known.frozen
    if budget.joint:
        _behind_trunk(net, train_items, training, epochs)
        rate, epochs, at, frozen = rate * budget.then, _joint_epochs(train_items, training), None, True
    learns = learner(net, at, frozen=frozen)
    calibrate_behind(net, learns, train_items)
    curves = known.curves and not training.search
    watched = once(train_items) if curves else ()
    history, values = _learn(learns, train_items, test, training, rate, epochs, only_last=not curves, watched=watched)
    # a network of whole clips carries nothing over from one to the next
    orders = 1 if training.search else LIVE_ORDERS
    live = values if is_clip_network(net) else _live(learns, test, orders, training.seed)
    metrics = scalars(values) | {f"{LIVE} {name}": value for name, value in scalars(live).items() if _is_live(name)}
    result = {"metrics": metrics, "history": history, "rate": training.rate, "seed": training.seed}
    if curves and training.seed == budget.seeds[0]:
        result["verdicts"] = verdicts(learns, task, test)
    if curves and _asks_early(known):
        result["early"] = _early(net, test)
    return result


def _behind_trunk(net: RecurrentNetwork, items: Items, training: Training, epochs: int) -> None:
    """Trains the part behind the trunk, in place, on the trunk's outputs for the videos."""
    at = _shared["known"].at
    features = through(channels_last(split(net, at)[0].eval()), items)
    learns = learner(net, at)
    calibrate_behind(net, learns, features)
    _learn(learns, features, (), training, training.rate, epochs)


def _joint_epochs(items: Items, training: Training) -> int:
    """Number of epochs with as many batches as the budget's joint training, at least one."""
    budget: Budget = _shared["known"].budget
    videos = len({item["number"] for item in items})
    return max(1, round(budget.joint / batches_in_epoch(videos, _continuity(training), budget.batch_size)))


def _continuity(training: Training) -> Continuity:
    known: Known = _shared["known"]
    return (training.continuity or known.budget.continuity).of(known.task)


def _learn(
    learns: Learner, items: Items, test: Items, training: Training, rate: float, epochs: int, **ways: Any
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Like `train`, with a rate that decreases along a cosine."""
    task, budget = _shared["known"].task, _shared["known"].budget
    clips = isinstance(learns.part, RecurrentNetwork) and is_clip_network(learns.part)
    continuity = SINGLE_CLIPS if clips else _continuity(training)
    batches, steps = epochs_of(items, task, continuity, budget.batch_size, training.seed, epochs)
    optimizer = sgd(learns, rate, pretrained=training.pretrained, sparse_power=budget.sparse_power)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ways |= {"clip": Clipping(budget.clip), "continuity": continuity}
    return train(learns, task, batches, test, schedule, **ways)


def _items(training: Training) -> tuple[Items, Items]:
    """The items that a training learns from, and those by which it is judged."""
    items, test, known = _shared["train"], _shared["test"], _shared["known"]
    few, share = training.few or known.budget.few, known.budget.held_out
    if few is None:
        return held_out(items, share) if training.search else (items, test)
    chosen = set(drawn(known.labels, few, training.seed))
    if training.search:
        return beside(items, known.labels, chosen, share)
    return [item for item in items if item["number"] in chosen], test


def _live(learns: Learner, items: Items, orders: int, seed: int) -> dict[str, Any]:
    task = _shared["known"].task
    return evaluate_live(learns.advance, task.metrics(), items, random_orders(len(items), orders, seed))


def _is_live(name: str) -> bool:
    return name in LIVE_METRICS or name == _shared["known"].task.score[0]


def _asks_early(known: Known) -> bool:
    """Whether a part of a video has an answer, and whole networks are compared, which see frames."""
    return known.task.one_answer and known.at is None


def _early(net: RecurrentNetwork, items: Items) -> list[float]:
    """Accuracy after each tenth of the videos."""
    return early.early_accuracy(net, in_batches(items, TEST_BATCH))["accuracy"]
