"""Networks that learn MNIST's digits, as single trainings: made of paths, or dense."""

import itertools
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.benchmarks.measuring.path_networks.jobs import DENSE, Job, Result, options_of
from prernn.benchmarks.measuring.path_networks.parts import parts_of
from prernn.sparsity.path_network import PathNetwork

WIDTHS = (784, 300, 300, 10)
BATCH = 128
SHOWN = 10
"""Number of an autoencoder's pictures that are kept."""


class DropConnect(nn.Linear):
    """A linear layer that drops weights in training, each with probability ``share``, different ones in each batch."""

    def __init__(self, inputs: int, outputs: int, share: float):
        super().__init__(inputs, outputs)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs)`` to ``(N, outputs)``."""
        return F.linear(x, F.dropout(self.weight, self.share, self.training), self.bias)


def build(job: Job) -> nn.Module:
    """A network of paths, or a dense one of the same widths with torch's initialization."""
    sampler, options = options_of(job.sampler)
    if sampler != DENSE:
        # one weight per connection: with coincident paths the optimizer's steps would count several times
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
    start = time.thread_time()
    net = trained(job)
    seconds = time.thread_time() - start
    _, _, test, test_labels = read(job.data)
    with torch.inference_mode():
        out = net(test)
    weights = sum(p.numel() for name, p in net.named_parameters() if not name.endswith("bias"))
    coincident = job.paths * (len(job.widths) - 1) - weights if job.paths else 0
    if job.autoencoder:
        return Result(job, float(F.mse_loss(out, test)), weights, coincident, out[:SHOWN].numpy())
    sampled = tuple(parts_of(net, job.shares, job.seed, lambda part: _accuracy(part(test), test_labels)))
    return Result(job, _accuracy(out, test_labels), weights, coincident, sampled=sampled, seconds=seconds)


def _accuracy(out: Tensor, labels: Tensor) -> float:
    return 100 * float((out.argmax(1) == labels).float().mean())


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
    """Training pictures ``(N, 784)`` from 0 to 1 and their classes, then those for the test.

    Raises:
        ValueError: no ``mnist.npz``, or it lacks these arrays.
    """
    path = Path(folder) / "mnist.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = [torch.from_numpy(arrays[f"{part}_{kind}"]) for part in ("train", "test") for kind in "xy"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected train_x, train_y, test_x and test_y: {error}") from error
    scaled = [value.flatten(1).float() / 255 if value.ndim > 1 else value.long() for value in found]
    return scaled[0], scaled[1], scaled[2], scaled[3]
