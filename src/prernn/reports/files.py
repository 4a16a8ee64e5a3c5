"""Files written atomically: they appear complete or not at all."""

import contextlib
import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path next to ``path`` to write to; it is renamed when the block ends, or removed if it raises.

    Raises:
        OSError: the file can't be written, for instance because the disk is full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())  # a full disk may be reported only now
        os.chmod(part, 0o666 & ~_UMASK)  # some libraries create files that only their owner may read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_files(path: str | Path) -> Iterator[Path]:
    """Gives a path of the same name in a temporary folder, where the block may write further files too.

    When the block ends, all of them are moved to the folder of ``path``, the file named ``path`` last. If the block
    raises, they are removed.

    Raises:
        OSError: the files can't be written; the error names ``path``.
    """
    path = Path(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            yield draft
            for file in sorted(draft.parent.iterdir(), key=lambda file: file == draft):
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())  # a full disk may be reported only now
                os.replace(file, path.with_name(file.name))
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file, creating its folder if needed; see `whole_file`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Writes plain data as JSON, with null for NaN and infinity; see `whole_file`."""
    return write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Plain data with None for NaN and infinity: JSON has neither, and most readers other than Python's reject them."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_table(path: str | Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes rows as CSV, with the first row's keys as the header; see `whole_file`."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return write_text(path, text.getvalue())


def configuration(path: str | os.PathLike[str]) -> Path:
    """A file of the user's, or one of the same name that comes with prernn: ``folders.yaml``, ``configs/folders.yaml``.

    Gives ``path`` as it is if neither exists, so that whoever opens it reports its name.
    """
    path, package = Path(path), Path(__file__).parents[1]
    if path.exists() or str(path.parent) not in (".", "configs"):
        return path
    folders = (package / "configs", package.parents[1] / "configs")  # of an installation, of a checkout
    return next((folder / path.name for folder in folders if (folder / path.name).is_file()), path)


def say_written(folder: str | Path, since: float) -> None:
    """Prints, on one line, which files in a folder were written after ``since`` (as `time.time` gives it)."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    names = [path.name for path in files if path.stat().st_mtime > since - 0.05]  # file systems' clocks are coarse
    print(f"written to {folder}: {', '.join(names) or 'nothing'}")


def list_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields ("file:line", text) for each line of a list that is not blank.

    Raises:
        ValueError: the list is missing or empty.
    """
    if not path.is_file():
        raise ValueError(f"{path.name}: list is absent from {path.parent}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path.name}: expected at least one line, got none")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path.name}:{number}", line.strip()
