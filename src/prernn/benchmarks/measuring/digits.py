"""Networks that learn MNIST's digits, one training each: made of paths, or dense.

A network is named by its sampler and what it has beside, as in ``sobol+constant+skip=3`` or ``dense+dropout=0.5``.
"""

import copy
import itertools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.ops.sobol import SAMPLERS
from prernn.sparsity.path_network import PathNetwork
from prernn.sparsity.sampled_paths import sample_paths

DENSE = "dense"
BATCH = 128
SHOWN = 10
"""Pictures of an autoencoder that are kept."""

OF_PATHS: dict[str, Callable[[str], tuple[str, Any]]] = {
    "constant": lambda value: ("init", "constant"),
    "mixed": lambda value: ("init", "mixed"),
    "init": lambda value: ("init", float(value)),
    "gray": lambda value: ("order", "gray"),
    "scramble": lambda value: ("scramble", True),
    "skip": lambda value: ("skip", int(value)),
}
"""What a name may say of paths, and the argument of `PathNetwork` that it is."""
OF_DENSE = ("dropout", "dropconnect")
"""What it may say of a dense network, with the share that is dropped."""


SAMPLED: dict[str, dict[str, Any]] = {
    "systematic": {"sampler": "systematic"},
    "random": {"sampler": "random"},
    "systematic, counts": {"values": "counts"},
    "largest weights": {},
}
"""Ways to take a part of a trained network's weights: what `sample_paths` is told."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        sampler: name of the network: "sobol", "random", or "dense", which has no paths, and what it has beside.
        autoencoder: learn the picture itself in place of its class.
        step: step size of residual layers.
        pictures: of the training set, the first; 0: all.
        shares: of a dense network's weights, that paths sampled backwards are to use.
    """

    data: str
    widths: tuple[int, ...]
    sampler: str
    paths: int
    seed: int
    epochs: int
    rate: float
    autoencoder: bool = False
    step: float | None = None
    pictures: int = 0
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent (autoencoder: mean squared error), and what the network holds.

    Attributes:
        sampled: ``(method, share that is used, accuracy)`` of the network with only a part of its weights.
    """

    job: Job
    score: float
    weights: int
    coincident: int
    pictures: np.ndarray | None = None
    sampled: tuple[tuple[str, float, float], ...] = ()

    def line(self) -> dict:
        """A line of the CSV."""
        job = self.job
        kept = {"sampler": job.sampler, "paths": job.paths, "seed": job.seed, "epochs": job.epochs, "rate": job.rate}
        kept |= {} if job.step is None else {"step": job.step}
        measure = "mse" if job.autoencoder else "accuracy"
        return {**kept, "weights": self.weights, "coincident": self.coincident, measure: f"{self.score:.6g}"}


class DropConnect(nn.Linear):
    """A linear layer that drops weights in training, each with probability ``share``, others for each batch."""

    def __init__(self, inputs: int, outputs: int, share: float):
        super().__init__(inputs, outputs)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs)`` to ``(N, outputs)``."""
        return F.linear(x, F.dropout(self.weight, self.share, self.training), self.bias)


def options_of(name: str) -> tuple[str, dict[str, Any]]:
    """Sampler of a network's name, and what it says beside.

    Raises:
        ValueError: a name that says something else.
    """
    sampler, *parts = name.split("+")
    if sampler not in (*SAMPLERS, DENSE):
        raise ValueError(f"expected --samplers among {', '.join((*SAMPLERS, DENSE))}, got {sampler!r}")
    options: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        try:
            if key not in (OF_DENSE if sampler == DENSE else OF_PATHS):
                raise ValueError
            options |= {key: float(value)} if sampler == DENSE else [OF_PATHS[key](value)]
        except ValueError:
            known = " or ".join(f"{key}=SHARE" for key in OF_DENSE)
            known = known if sampler == DENSE else "constant, mixed, init=W, gray, scramble or skip=N"
            raise ValueError(f"expected {sampler}+ {known}, got {part!r}") from None
    return sampler, options


def build(job: Job) -> nn.Module:
    """A network of paths, or a dense one of the same widths as torch starts it."""
    sampler, options = options_of(job.sampler)
    if sampler != DENSE:
        # one weight for each connection: coincident paths would take the steps of the optimizer several times
        seeded = {"sampler": sampler, "seed": job.seed, "step": job.step, **options}
        return PathNetwork(job.widths, job.paths, **seeded).merged()
    return nn.Sequential(*list(_dense_layers(job.widths, **options))[:-1])


def _dense_layers(widths: tuple[int, ...], dropout: float = 0.0, dropconnect: float = 0.0) -> Iterator[nn.Module]:
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if dropout and number:
            yield nn.Dropout(dropout)
        yield DropConnect(inputs, outputs, dropconnect) if dropconnect else nn.Linear(inputs, outputs)
        yield nn.ReLU()


def train(job: Job) -> Result:
    """One training."""
    net = trained(job)
    _, _, test, test_labels = read(job.data)
    with torch.inference_mode():
        out = net(test)
    weights = sum(p.numel() for name, p in net.named_parameters() if not name.endswith("bias"))
    coincident = job.paths * (len(job.widths) - 1) - weights if job.paths else 0
    if job.autoencoder:
        return Result(job, float(F.mse_loss(out, test)), weights, coincident, out[:SHOWN].numpy())
    sampled = tuple(parts_of(net, job, test, test_labels))
    return Result(job, _accuracy(out, test_labels), weights, coincident, sampled=sampled)


def _accuracy(out: Tensor, labels: Tensor) -> float:
    return 100 * float((out.argmax(1) == labels).float().mean())


@torch.inference_mode()
def parts_of(net: nn.Module, job: Job, test: Tensor, labels: Tensor) -> Iterator[tuple[str, float, float]]:
    """Accuracy with the weights on paths sampled backwards alone, and with the largest ones."""
    for share in job.shares:
        for name, options in SAMPLED.items():
            part = sample_paths(net, share, seed=job.seed, **options) if options else largest(net, share)
            weights = torch.cat([p.flatten() for name, p in part.named_parameters() if name.endswith("weight")])
            yield name, float((weights != 0).double().mean()), _accuracy(part(test), labels)


def largest(net: nn.Module, share: float) -> nn.Module:
    """A copy with that share of the largest weights of all layers."""
    net = copy.deepcopy(net)
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    kept = int(share * len(sizes))
    least = sizes.topk(kept).values[-1] if kept else torch.inf
    for weight in weights:
        weight.mul_(weight.abs() >= least)
    return net


def trained(job: Job) -> nn.Module:
    """The network of a training, in evaluation mode."""
    pictures, labels, *_ = read(job.data)
    pictures, labels = pictures[: job.pictures or None], labels[: job.pictures or None]
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
    return net.eval()


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
