"""Offline work on many machines: each video is a job for Ray Data, which repeats the jobs of a lost worker."""

import logging
import pickle  # only our own objects, between our own processes
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from prernn.reports.progress import bars

Work = Callable[[Any], Any]


def over_ray(
    make: Callable[..., Work], arguments: Sequence[Any], jobs: Sequence[Any], address: str, workers: int | None = None
) -> Generator[Any, None, None]:
    """The results of a function for each job, in any order; each worker creates the function once.

    A worker that dies is replaced, and its job is repeated.

    Args:
        make: creates the function, in a worker, from the arguments.
        arguments: arguments of ``make``, which can be pickled.
        jobs: jobs, which can be pickled.
        address: address of a Ray cluster, "auto" for the one this machine belongs to, or "local" for this machine.
        workers: number of concurrent processes; None is one per core of the cluster.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster at the address; whatever the function raises of that kind.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f'--ray needs the package of prernn[ray], pip install "prernn[ray]": {error}') from error
    _check_reachable(address)
    try:
        ray.init(None if address == "local" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise ValueError(f"--ray {address}: expected the address of a Ray cluster, auto or local: {error}") from error
    try:
        yield from _results(make, arguments, jobs, workers or int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises ValueError if nothing listens at HOST:PORT: Ray would wait for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--ray {address}: expected the address of a Ray cluster, nothing listens: {error}") from error


class _Worker:
    """Runs jobs with a function that it creates once; a ValueError is returned, to be raised in the main process."""

    def __init__(self, make: Callable[..., Work], arguments: Sequence[Any]):
        import torch

        torch.set_num_threads(1)  # the workers share the cores
        self._work = make(*arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": pickle.dumps((self._work(pickle.loads(row["job"])), None))}
        except ValueError as error:
            return {"result": pickle.dumps((None, error))}


def _results(make: Callable[..., Work], arguments: Sequence[Any], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    packed = [{"job": pickle.dumps(job)} for job in jobs]
    data = ray.data.from_items(packed, override_num_blocks=max(1, len(packed)))
    # actors that die are restarted, and their jobs repeated, as often as necessary
    strategy = ray.data.ActorPoolStrategy(size=min(workers, max(1, len(packed))))
    work: Any = _Worker  # a callable class
    done = data.map(work, fn_constructor_args=(make, arguments), compute=strategy, num_cpus=1)
    for row in done.iter_rows():
        value, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield value


class _Predictor:
    """Predicts the test videos of a run, some at a time.

    Args:
        run: the run's folder.
        words: arguments after it, as in ``prernn predict``.
    """

    def __init__(self, run: str, words: Sequence[str]):
        from prernn.models.checkpoint import load
        from prernn.studies.runs.videos import data_of

        self.net = load(run).eval()
        data = data_of(Path(run), self.net, "test", words)
        self.task, self.dataset = data.task, data.datasets["test"]

    def videos(self) -> list[list[int]]:
        """The numbers of each video's records: a single one, or its pieces in order."""
        from prernn.training.batches import pieces_of

        return pieces_of(self.task.goes_on(record) for record in self.dataset.records)

    def __call__(self, numbers: list[int]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The rows of a video, and the parts that were skipped."""
        import torch

        from prernn.training.batches import collate
        from prernn.training.evaluation import onward

        forward, rows = onward(self.net), []
        skipped: dict[str, str] = {}
        with torch.inference_mode():
            for number in numbers:
                batch = collate([self.dataset[number]])
                skipped |= batch.get("skipped", {})
                if batch["path"]:
                    rows += self.task.predictions(forward(batch).float(), batch)
        return rows, skipped


def predict_over_ray(run: Path, words: Sequence[str], address: str, workers: int | None = None) -> Path:
    """Writes ``predictions.csv`` of a run, like ``prernn predict RUN``, with the workers of a Ray cluster.

    All of them must see the run's folder and its videos under the same paths.

    Args:
        run: the run's folder.
        words: further arguments, such as ``--data.root``.
        address: as in `over_ray`, like ``workers``.
        workers: number of concurrent workers.

    Raises:
        ValueError: what ``prernn predict`` would refuse; no cluster.
        ImportError: Ray is not installed.
    """
    from prernn.training.batches import none_readable
    from prernn.training.run.run_folder import write_predictions

    own = _Predictor(str(run), words)
    jobs, rows, skipped = own.videos(), list[dict[str, Any]](), dict[str, str]()
    with bars() as progress:
        advancing = progress.add_task("predict", total=len(jobs), note="videos")
        for found, left_out in over_ray(_Predictor, (str(run), tuple(words)), jobs, address, workers):
            rows += found
            skipped |= left_out
            progress.advance(advancing)
    if not rows:
        raise none_readable(skipped)
    return write_predictions(run, own.task, rows, skipped)
