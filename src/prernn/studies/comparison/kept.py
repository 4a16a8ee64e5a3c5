"""Keeps the trainings of a comparison, so that one restarted in the same folder continues where it stopped."""

import contextlib
import dataclasses
import hashlib
import json
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import prernn
from prernn.models.weight_files import read_weights, weights_file
from prernn.studies.comparison.trainings import Known, Training, pool, train_one
from prernn.tasks.task import Verdict
from prernn.training.frozen_trunk.learner import Items

FILE = "trainings.jsonl"

CODE = (".py", ".h", ".cpp")
"""Files of prernn on which results depend."""

Start = Callable[[Training], "Future[dict[str, Any]]"]
"""Starts a training."""


@contextlib.contextmanager
def trainings(folder: Path, jobs: int, known: Known, train: Items, test: Items) -> Iterator[Start]:
    """Starts trainings, ``jobs`` at a time, and keeps them in a folder; known results are taken from it."""
    kept = KeptTrainings(folder, known, train, test)
    with pool(jobs, known, train, test) as executor:
        yield partial(kept.start, executor)
        kept.say()


class KeptTrainings:
    """The results of trainings in a file, one line each, written as they end.

    A result is valid for a training with the same network, rates, seed, budget, task, version of torch, code (prernn's,
    and files of the user's own classes), initial weights and exactly the same inputs: if the trunk's weights, the
    videos or their sampling differ, so do its features, and everything is trained again.

    Args:
        folder: of the comparison; an existing file in it is read.
        known: what all trainings share.
        train: items to learn from.
        test: items to test on.
    """

    def __init__(self, folder: Path, known: Known, train: Items, test: Items) -> None:
        self.path = folder / FILE
        self._shared = shared_by(known, train, test)
        before = self.path.read_bytes() if self.path.is_file() else b""
        self._found = _read(before)
        self._end = "" if before[-1:] in (b"", b"\n") else "\n"  # completes a last line that was truncated by a crash
        self._weights: dict[str, str] = {}
        self.taken = 0

    def start(self, executor: Executor, training: Training) -> "Future[dict[str, Any]]":
        """Starts a training in an executor of `prernn.studies.comparison.trainings.pool`, or takes a known result."""
        key = _digest([self._shared, dataclasses.asdict(training), self._weights_of(training)])
        if key in self._found:
            self.taken += 1
            done: Future[dict[str, Any]] = Future()
            done.set_result(self._found[key])
            return done
        future = executor.submit(train_one, training)
        future.add_done_callback(lambda ended: self._keep(key, training, ended))
        return future

    def say(self) -> None:
        """Prints how many trainings were known, in one line."""
        if self.taken:
            print(f"{self.taken} trainings of before taken from {self.path}")

    def _weights_of(self, training: Training) -> str:
        """A digest of the file of weights with which a training's network starts; the file is read once."""
        path = training.spec.weights
        if path is None:
            return ""
        if path not in self._weights:
            self._weights[path] = _digest_of(read_weights(weights_file(path)))
        return self._weights[path]

    def _keep(self, key: str, training: Training, ended: "Future[dict[str, Any]]") -> None:
        """Called by the executor, for one training after the other."""
        if ended.cancelled() or ended.exception() is not None:
            return
        about = {"method": training.spec.method, "few": training.few, "rate": training.rate, "seed": training.seed}
        line = {"key": key, **about, "search": training.search, "result": _plain(ended.result())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(self._end + json.dumps(line) + "\n")
        self._end = ""


def shared_by(known: Known, train: Items, test: Items) -> str:
    """A digest of what all trainings of a comparison share; it changes if any number does."""
    task, budget = known.task, dataclasses.asdict(known.budget)
    for searched in ("rates", "shares", "seeds", "searches"):  # each training has its own
        del budget[searched]
    pictures = known.budget.seeds[0] if known.curves else None  # the seed whose results are kept for pictures
    code = [torch.__version__, _digest_of_code()]
    said = [type(task).__qualname__, repr(task), budget, known.at, known.frozen, known.curves, pictures, code]
    return _digest([said, [_digest_of(item) for item in (*train, *test)]])


def _digest_of_code() -> str:
    """Digest of prernn's files and of the loaded modules of the user: classes that are named, and what they import.

    A script that calls prernn is not included: it may ask for more of the same study.
    """
    files = [path for path in Path(prernn.__file__).parent.rglob("*") if path.suffix in CODE]
    return _digest(sorted({hashlib.blake2b(path.read_bytes()).hexdigest() for path in (*files, *_own())}))


def _own() -> list[Path]:
    """Files of loaded modules that belong to no installed package."""
    places = sysconfig.get_paths()
    library = [places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed = [Path(place).resolve() for place in (*library, *site.getsitepackages(), site.getusersitepackages())]
    named = [getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name != "__main__"]
    paths = [Path(name).resolve() for name in named if name and name.endswith(".py")]
    return [path for path in paths if path.is_file() and not any(path.is_relative_to(place) for place in installed)]


def _digest_of(item: Mapping[str, Any]) -> str:
    """Digest of an item's values except its location, or of tensors by name."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(set(item) - {"path"}):
        value = item[name]
        if isinstance(value, Tensor):
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            found.update(f"{name} {_digest_of(value)}".encode())
        else:
            found.update(f"{name} {value!r}".encode())
    return found.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=repr).encode(), digest_size=16).hexdigest()


def _read(lines: bytes) -> dict[str, dict[str, Any]]:
    """The results in a file by their keys; a line that is truncated by a crash, or is no result, is ignored."""
    found: dict[str, dict[str, Any]] = {}
    for text in lines.splitlines():
        try:
            line = json.loads(text)
            found[line["key"]] = _whole(line["result"])
        except (ValueError, TypeError, KeyError, AttributeError):  # bytes that are not text raise a ValueError too
            continue
    return found


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """A result as JSON represents it. NaN is written as in Python, because no other program reads the file."""
    if "verdicts" not in result:
        return result
    said = {
        number: [*verdict[:3], None if verdict.points is None else verdict.points.tolist()]
        for number, verdict in result["verdicts"].items()
    }
    return {**result, "verdicts": said}


def _whole(result: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_plain`. Raises ValueError, or other exceptions of Python's, if it is no result."""
    if not all(isinstance(result[name], dict) for name in ("metrics", "history")) or "seed" not in result:
        raise ValueError(f"expected the result of a training, got {', '.join(result)}")
    if "verdicts" not in result:
        return result
    verdicts = {
        int(number): Verdict(said, true, error, None if points is None else np.asarray(points, np.float32))
        for number, (said, true, error, points) in result["verdicts"].items()
    }
    return {**result, "verdicts": verdicts}
