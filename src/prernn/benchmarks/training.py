"""The cost of a training step on the CPU: seconds and memory, with and without the optimizations of `prernn fit`.

Each network trains in a separate process with its own memory, one after the other and then all again, so that changes
of the machine's speed affect them all. A step is the task's loss of a batch, its gradient and SGD's step. "plain"
returns freed memory to the kernel at once and computes frozen batch normalization separately; "memory kept" uses the
allocator setting of `prernn.keep_memory`; "fit" also folds frozen statistics into the convolutions, and keeps one map
of a ReLU6. "frozen" trains only the new part. A 3-D network trains on the same frames. bfloat16 is skipped if the CPU
has no instructions for it.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.stream_costs import most_memory
from prernn.benchmarks.measuring.timing import threads
from prernn.conversion.network import of_a_cnn
from prernn.engines.allocator import keep_memory
from prernn.models.from_config import NetworkSpec
from prernn.ops.backends import has_bfloat16
from prernn.reports.files import write_table
from prernn.tasks.action.task import Action
from prernn.training.learning import Learning
from prernn.training.module import VideoModule

CLASSES = 10


@dataclass(frozen=True)
class Contestant:
    """A way to train a network."""

    name: str
    keep: bool = True
    fold: bool = True
    pretrained_lr: float = 0.01
    autocast: bool = False
    clip_network: str | None = None


CONTESTANTS = (
    Contestant("plain", keep=False, fold=False),
    Contestant("memory kept", fold=False),
    Contestant("fit"),
    Contestant("fit, bfloat16 autocast", autocast=True),
    Contestant("frozen, plain", keep=False, fold=False, pretrained_lr=0.0),
    Contestant("frozen, fit", pretrained_lr=0.0),
)


@dataclass(frozen=True)
class Result:
    """Seconds of each step, and the process's peak memory beyond what imports took, in bytes."""

    seconds: list[float]
    memory: int


def run(options: argparse.Namespace) -> None:
    """Times all networks and writes ``training.csv`` and ``training.md``.

    Raises:
        ValueError: numbers below 1, an unknown backbone or clip network.
    """
    numbers = (options.clips, options.frames, options.size, options.steps, options.rounds, *options.threads)
    if min(numbers) < 1:
        raise ValueError("expected --clips, --frames, --size, --steps, --rounds and --threads of at least 1")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    contestants = [*usable(CONTESTANTS), *(Contestant(name, clip_network=name) for name in options.also)]
    jobs = [(count, each) for _ in range(options.rounds) for count in options.threads for each in contestants]
    results: dict[tuple[int, str], list[Result]] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for count, each in progress.track(jobs, description="trainings"):
            results.setdefault((count, each.name), []).append(_in_a_process(each, count, options))
            write_table(
                out / "training.csv", _lines(results)
            )  # a long run that is interrupted leaves its results so far
    title = f"A step of {options.backbone}, {options.clips} clips of {options.frames} frames, {options.size} pixels"
    shown = report.table(title, _lines(results), ("threads", "network"))
    report.show([report.machine("cpu"), shown], out / "training.md")
    print(f"written to {out}")


def usable(contestants: Sequence[Contestant]) -> list[Contestant]:
    """The contestants without autocast if the CPU has no bfloat16: a step of seconds would take minutes."""
    return [each for each in contestants if has_bfloat16() or not each.autocast]


def _lines(results: dict[tuple[int, str], list[Result]]) -> list[dict[str, str | int]]:
    return [_line(count, name, found, results[count, "plain"]) for (count, name), found in results.items()]


def _in_a_process(contestant: Contestant, count: int, options: argparse.Namespace) -> Result:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_train, contestant, count, options).result()


def _train(contestant: Contestant, count: int, options: argparse.Namespace) -> Result:
    """Steps of one network, the first of which is not timed."""
    if contestant.keep:
        keep_memory()
    torch.manual_seed(0)
    module = _module(contestant, options)
    optimizer = module.configure_optimizers()["optimizer"]
    shape = (options.clips, options.frames, 3, options.size, options.size)
    batch = {
        "input": torch.randn(shape),
        "lengths": torch.full((options.clips,), options.frames),
        "label": torch.arange(options.clips) % CLASSES,
    }
    before, seconds = most_memory(), []
    with threads(count), torch.autocast("cpu", torch.bfloat16, enabled=contestant.autocast):
        for _ in range(1 + options.steps):
            start = time.perf_counter()
            loss = module._loss(module._outputs(batch, batch["input"]), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    return Result(seconds[1:], most_memory() - before)


def _module(contestant: Contestant, options: argparse.Namespace) -> VideoModule:
    task = Action(size=options.size)
    task.labels = [str(number) for number in range(CLASSES)]
    if contestant.clip_network is None:
        spec = NetworkSpec(options.backbone, cell="gru", input="single")
    else:
        spec = NetworkSpec(contestant.clip_network, method="framewise")
    module = VideoModule(spec, Learning(lr=0.1, pretrained_lr=contestant.pretrained_lr), task)
    if not contestant.fold:
        of_a_cnn(module.network)._foldable = []
    return module


def _line(count: int, name: str, results: list[Result], plain: list[Result]) -> dict[str, str | int]:
    seconds = [value for result in results for value in result.seconds]
    middle = statistics.median(seconds)
    base = statistics.median(value for result in plain for value in result.seconds)
    memory, base_memory = (statistics.median(each.memory for each in part) for part in (results, plain))
    return {
        "threads": count,
        "network": name,
        "seconds": f"{middle:.3g}",
        "low": f"{min(seconds):.3g}",
        "high": f"{max(seconds):.3g}",
        "steps": len(seconds),
        "of plain": f"{middle / base:.2f}",
        "memory, GB": f"{memory / 1e9:.2f}",
        "memory of plain": f"{memory / base_memory:.2f}",
    }
