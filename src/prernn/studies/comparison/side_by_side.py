"""Concurrent trainings: several in separate processes, or one at a time in this process."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import torch

from prernn.engines.allocator import keep_memory


@contextlib.contextmanager
def side_by_side(
    jobs: int, start: Callable[..., None] | None = None, given: tuple[Any, ...] = ()
) -> Iterator[Executor]:
    """Runs what is submitted, ``jobs`` at a time, each on one thread; the results do not depend on ``jobs``.

    A process must import torch and Lightning again, for 10 seconds or more, which a single training at a time avoids.
    If one fails, or the user interrupts, those that have not started are not started.

    Args:
        jobs: at least 1.
        start: called with ``given`` in each process before its first training; both are pickled.

    Raises:
        ValueError: fewer than one job.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    threads = torch.get_num_threads()
    if jobs == 1:
        pool: Executor = ThreadPoolExecutor(1, initializer=_begin, initargs=(start, given))
    else:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, context, initializer=_begin_process, initargs=(start, given))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the setting applies to all threads of a process


def _begin(start: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    keep_memory()
    torch.set_num_threads(1)
    if start is not None:
        start(*given)


def _begin_process(start: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is handled by the main process, which then starts no further training
    _begin(start, given)
