"""One training of a network of paths, or of a dense one to compare with: what it is of, and what came out.

A network is named by its sampler and what it has beside, as in ``sobol+constant+skip=3`` or ``dense+dropout=0.5``.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prernn.ops.sobol import SAMPLERS

DENSE = "dense"
OF_PATHS: dict[str, Callable[[str], tuple[str, Any]]] = {
    "alternating": lambda value: ("init", "alternating"),
    "constant": lambda value: ("init", "constant"),
    "mixed": lambda value: ("init", "mixed"),
    "init": lambda value: ("init", float(value)),
    "gray": lambda value: ("order", "gray"),
    "scramble": lambda value: ("scramble", True),
    "skip": lambda value: ("skip", int(value)),
    "least": lambda value: ("least", int(value)),
}
"""What a name may say of paths, and the argument of `PathNetwork` that it is."""
OF_DENSE = ("dropout", "dropconnect")
"""What it may say of a dense network, with the share that is dropped."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        sampler: name of the network: "sobol", "random", or "dense", which has no paths, and what it has beside.
        autoencoder: learn the picture itself in place of its class.
        step: step size of residual layers.
        pictures: of the training set, the first; 0: all.
        shares: of a dense network's weights, that paths sampled backwards are to use.
        taps: of each weight: numbers of a convolution's kernel.
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
    taps: int = 1

    @property
    def full(self) -> int:
        """Weights of a dense network of the same widths."""
        return self.taps * sum(a * b for a, b in itertools.pairwise(self.widths))


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent (autoencoder: mean squared error), and what the network holds.

    Attributes:
        sampled: ``(method, share that is used, accuracy)`` of the network with only a part of its weights.
        seconds: that the training took, of its thread's own time.
    """

    job: Job
    score: float
    weights: int
    coincident: int
    pictures: np.ndarray | None = None
    sampled: tuple[tuple[str, float, float], ...] = ()
    seconds: float = 0.0

    def line(self) -> dict:
        """A line of the CSV."""
        job = self.job
        kept = {"sampler": job.sampler, "paths": job.paths, "seed": job.seed, "epochs": job.epochs, "rate": job.rate}
        kept |= {} if job.step is None else {"step": job.step}
        measure = "mse" if job.autoencoder else "accuracy"
        return {**kept, "weights": self.weights, "coincident": self.coincident, measure: f"{self.score:.6g}"}


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
            of_paths = "alternating, constant, mixed, init=W, gray, scramble, skip=N or least=N"
            known = known if sampler == DENSE else of_paths
            raise ValueError(f"expected {sampler}+ {known}, got {part!r}") from None
    return sampler, options
