"""One training of a network of paths, or of a dense one for comparison: its description, and its result.

A network is named after its sampler and additional options, as in ``sobol+constant+skip=3`` or ``dense+dropout=0.5``.
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
"""Options in a name of a path network, with the corresponding argument of `PathNetwork`."""
OF_DENSE = ("dropout", "dropconnect")
"""Options in a name of a dense network, which give the share that is dropped."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        sampler: name of the network: "sobol", "random", or "dense", which has no paths, and additional options.
        autoencoder: learn the picture itself instead of its class.
        step: step size of residual layers.
        pictures: number of training pictures, the first ones; 0: all.
        shares: shares of a dense network's weights that paths sampled backwards may use.
        taps: numbers per weight, in a convolution's kernel.
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
        """Number of weights of a dense network of the same widths."""
        return self.taps * sum(a * b for a, b in itertools.pairwise(self.widths))


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent (autoencoder: mean squared error), and the network's contents.

    Attributes:
        sampled: ``(method, share used, accuracy)`` of the network with only a part of its weights.
        seconds: duration of the training, in its thread's own time.
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
    """The sampler in a network's name, and its additional options.

    Raises:
        ValueError: an unknown name or option.
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
