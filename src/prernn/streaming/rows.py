"""The lines that a stream prints or writes: CSV and JSON."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from prernn.reports.files import whole_file, without_nan
from prernn.streaming.events import EventSpan
from prernn.streaming.prediction import Prediction


def write_csv(target: str | os.PathLike | TextIO, predictions: Iterable[Prediction]) -> None:
    """Writes one row per prediction: frame, time_s, label, probability, latency_ms.

    For a path, the file appears under its name only when it is complete. In an open text file, such as
    ``sys.stdout``, each row appears at once, which suits an endless source.

    Raises:
        OSError: the file can't be written.
    """
    with csv_rows(target) as write:
        for prediction in predictions:
            write(prediction)


@contextlib.contextmanager
def csv_rows(target: str | os.PathLike | TextIO, *, lost: bool = False) -> Iterator[Callable[[Prediction], None]]:
    """Yields a function that writes a prediction's row to ``target``; paths and files as in `write_csv`.

    With ``lost`` there are two more columns, for what happened to the source since the previous row: dropped,
    reconnected.
    """
    with _lines(target) as line:
        line("frame", "time_s", "label", "probability", "latency_ms", *(("dropped", "reconnected") if lost else ()))

        def write(p: Prediction) -> None:
            cells = (str(p.index), f"{p.time:.3f}", p.label, f"{p.probability:.4f}", f"{p.latency_ms:.2f}")
            line(*cells, *((str(p.dropped), str(p.reconnected)) if lost else ()))

        yield write


@contextlib.contextmanager
def json_rows(target: str | os.PathLike | TextIO, *, lost: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that writes a dict as one line of JSON to ``target``; paths and files as in `write_csv`.

    With ``lost`` each line has what happened to the source since the previous one, dropped and reconnected, even if 0.
    """
    with _lines(target) as line:
        nothing = {"dropped": 0, "reconnected": 0} if lost else {}
        yield lambda row: line(json.dumps(without_nan(row | nothing | row)))


@contextlib.contextmanager
def event_rows(target: str | os.PathLike | TextIO) -> Iterator[Callable[[EventSpan], None]]:
    """Yields a function that writes an event that has ended to ``target``; paths and files as in `write_csv`.

    The columns are label, start_s, end_s, start_frame, end_frame (of the first frame after it), score.
    """
    with _lines(target) as line:
        line("label", "start_s", "end_s", "start_frame", "end_frame", "score")
        yield lambda e: line(
            e.label, f"{e.start:.3f}", f"{e.end:.3f}", str(e.start_frame), str(e.end_frame), f"{e.score:.4f}"
        )


@contextlib.contextmanager
def with_events(
    rows: contextlib.AbstractContextManager[Callable[[Any], None]], events: str | os.PathLike | TextIO
) -> Iterator[Callable[[Any], None]]:
    """Yields a function that takes a watcher's rows: finished events go to ``events``, all others to ``rows``."""
    with rows as write, event_rows(events) as write_event:

        def sort_out(row: Any) -> None:
            if not isinstance(row, EventSpan):
                write(row)
            elif row.end is not None:
                write_event(row)

        yield sort_out


@contextlib.contextmanager
def _lines(target: str | os.PathLike | TextIO) -> Iterator[Callable[..., None]]:
    """Yields a function that writes one line of cells, immediately if the file is open."""
    if not isinstance(target, str | os.PathLike):
        yield _line_writer(target)
        return
    path = Path(target)
    with whole_file(path) as part:
        with _naming(path):
            file = open(part, "w", newline="", encoding="utf-8")  # noqa: SIM115 (closed below)
        with file:
            yield _naming(path)(_line_writer(file))


def _line_writer(file: TextIO) -> Callable[..., None]:
    rows = csv.writer(file, lineterminator="\n")

    def write(*cells: str) -> None:
        if len(cells) == 1:  # a complete line
            file.write(cells[0] + "\n")
        else:
            rows.writerow(cells)
        file.flush()

    return write


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes an OSError name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error


ROWS: dict[str, Callable[..., contextlib.AbstractContextManager[Callable[[Any], None]]]] = {
    "csv": csv_rows,
    "json": json_rows,
}
"""The functions that write each form of rows, by the option of ``prernn stream`` that says where they go."""
