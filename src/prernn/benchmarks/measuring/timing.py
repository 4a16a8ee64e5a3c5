"""Interleaved timing, and the lower bound that a machine's memory and arithmetic set for a recurrence.

How bytes and operations are counted. For memory, the minimum: inputs (gate inputs or frames, weights, biases, initial
state) are read once and outputs (sequence, final state) written once, at four bytes each; what is kept between a
layer's projection and its recurrence is not counted. A matrix product of an ``(R, I)`` input takes ``2*R*I*O``
operations; a recurrent product 2 for each weight, row and step; a sigmoid or tanh `FUNCTION`. Training passes over the
inputs three times (forward, backward, their gradients) and likewise over the outputs, computes three products for each
one, and each function twice: a gate's value is either recomputed or kept, and keeping it costs more.
"""

import contextlib
import functools
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from prernn.layers.cells import Cell
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.input_projection import linear

LEAST, LEAST_SLOW = 5, 3
"""Minimum number of timed calls, and the minimum for calls that take longer than a second."""
SECONDS = 0.3
"""Target duration of all timed calls of one candidate."""
QUICK = 0.02
"""Seconds. A faster call is preceded by an untimed one, because others have evicted its data from the caches."""

FUNCTION = 20
"""Operations of one sigmoid or tanh in float32: range reduction, a polynomial of degree 5 or 6, scaling, division."""
FUNCTIONS = {"lstm": 5, "gru": 3, "vrnn": 1}
"""Sigmoids and tanhs of one neuron's step."""
UPDATES = {"lstm": 4, "gru": 4, "vrnn": 0}
"""Other operations of one neuron's step, without the recurrent product and its bias."""

MEMORY, CACHE = 256_000_000, 2_000_000
"""A number of bytes too large for any cache, and one that fits into any cache."""
PRODUCT = 1536
"""Rows and columns of the matrix product that measures the arithmetic's ceiling."""


@dataclass(frozen=True)
class Times:
    """Seconds: the median, the quartiles, and the number of calls."""

    median: float
    low: float
    high: float
    count: int


@contextlib.contextmanager
def threads(count: int):
    """Sets torch's threads, and with them those of prernn's kernels, inside a with block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Stopwatch:
    """Times calls on one device, each at most ``repeats`` times and less often if they take long.

    ``clock`` is for a CPU: `time.thread_time` counts neither other processes nor further threads.
    """

    device: str = "cpu"
    repeats: int = 50
    clock: Callable[[], float] = time.perf_counter

    def interleaved(self, calls: Mapping[str, Callable]) -> dict[str, Times]:
        """Times of each call. They take turns, so that changes of the machine's speed affect all equally.

        The order of each turn is random, so that no call always follows the same other one and what that left in the
        caches.
        """
        order, draw = list(calls), random.Random(0)
        usual = {name: self._warm(call) for name, call in calls.items()}
        counts = {name: self._count(seconds) for name, seconds in usual.items()}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(self.repeats):
            draw.shuffle(order)
            for name in order:
                call = calls[name]
                # slow ones skip turns at even intervals
                if (turn + 1) * counts[name] // self.repeats == turn * counts[name] // self.repeats:
                    continue
                if usual[name] < QUICK:
                    call()
                taken[name].append(self.seconds(call))
        return {name: _summary(values) for name, values in taken.items()}

    def best(self, call: Callable, repeats: int = 7) -> float:
        """Seconds of the fastest of several calls."""
        call()
        return min(self.seconds(call) for _ in range(repeats))

    def seconds(self, call: Callable) -> float:
        """Seconds of one call, by the device's own clock."""
        if self.device == "cpu":
            start = self.clock()
            call()
            return self.clock() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def _count(self, usual: float) -> int:
        least = LEAST if usual < 1 else LEAST_SLOW
        return min(self.repeats, max(least, int(SECONDS / usual)))

    def _warm(self, call: Callable) -> float:
        first = self.seconds(call)
        return first if first > SECONDS else self.seconds(call)  # the first may have compiled something


def _summary(values: list[float]) -> Times:
    if len(values) == 1:
        return Times(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Times(median, low, high, len(values))


@dataclass(frozen=True)
class Work:
    """The minimum work of a computation: bytes moved, operations of products and updates, sigmoids and tanhs."""

    bytes: int
    products: int
    functions: int = 0

    @property
    def operations(self) -> int:
        """All operations."""
        return self.products + FUNCTION * self.functions

    def training(self) -> "Work":
        """Forward and backward, from the work of forward."""
        return Work(3 * self.bytes, 3 * self.products, 2 * self.functions)


def recurrence_work(cell: Cell, name: str, hidden: str, shape: tuple[int, int, int], *, shared: bool = False) -> Work:
    """Forward work of a recurrence alone.

    Args:
        cell: gate equations.
        name: the cell's name in `FUNCTIONS`.
        hidden: structure of ``W_hh``.
        shape: ``(T, B, D)``.
        shared: whether all gates share one input.
    """
    steps, batch, size = shape
    gates, rows = len(cell.gates), steps * batch
    weights = gates * hidden_structure(hidden).weight_count(size)
    states = 2 * len(cell.states) * batch * size  # the first and the last
    values = rows * (1 if shared else gates) * size + weights + gates * size + states + rows * size
    products = rows * (2 * weights + gates * size + UPDATES[name] * size)
    return Work(4 * values, products, rows * size * FUNCTIONS[name])


def layer_work(cell: Cell, name: str, hidden: str, shape: tuple[int, int, int], *, shared: bool = False) -> Work:
    """Forward work of a layer of ``D`` inputs.

    Like `recurrence_work`, with frames instead of gate inputs, plus the projection."""
    steps, batch, size = shape
    recurrence = recurrence_work(cell, name, hidden, shape, shared=shared)
    rows, outputs = steps * batch, (1 if shared else len(cell.gates)) * size
    values = rows * size + size * outputs + outputs - rows * outputs  # gate inputs stay inside
    return Work(recurrence.bytes + 4 * values, recurrence.products + 2 * rows * size * outputs, recurrence.functions)


class Ceilings:
    """The best that the device reaches with torch's current number of threads, measured.

    Bandwidth is that of a copy (bytes read and written) or a scalar product (bytes read), whichever is better, over as
    many bytes as the work in question moves, so that data that fits into the caches has their speed. Arithmetic is a
    large float32 matrix product by the best of torch's and oneDNN's operators.
    """

    def __init__(self, stopwatch: Stopwatch):
        self.stopwatch = stopwatch

    @functools.cached_property
    def operations(self) -> float:
        """Operations a second."""
        x, weight = (torch.randn(PRODUCT, PRODUCT, device=self.stopwatch.device) for _ in range(2))
        with torch.no_grad():
            seconds = [
                self.stopwatch.best(functools.partial(product, x, weight))
                for product in (linear, F.linear, lambda a, b: torch.mm(a, b.T))
            ]
        return 2 * PRODUCT**3 / min(seconds)

    def bandwidth(self, bytes: int) -> float:
        """Bytes a second over a working set of ``bytes``."""
        count = max(1, bytes // 8)
        a, b = (torch.randn(count, device=self.stopwatch.device) for _ in range(2))
        copy = self.stopwatch.best(lambda: a.copy_(b))
        read = self.stopwatch.best(lambda: torch.dot(a, b))
        return 8 * count / min(copy, read)

    def measured(self) -> dict[str, str]:
        """The ceilings of large computations and of those that fit into the cache, as texts."""
        memory, cache = (self.bandwidth(size) / 1e9 for size in (MEMORY, CACHE))
        values = {"memory, GB/s": memory, "cache, GB/s": cache, "GFLOP/s": self.operations / 1e9}
        return {name: f"{value:.3g}" for name, value in values.items()}

    def floor(self, work: Work) -> tuple[float, str]:
        """Minimum seconds that ``work`` can take, and what sets them: memory or arithmetic."""
        moving, computing = work.bytes / self.bandwidth(work.bytes), work.operations / self.operations
        return (moving, "memory") if moving > computing else (computing, "arithmetic")
