"""Files that are kept on this machine: exported steps of networks, and which engine was the fastest for each."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.reports.files import whole_files, write_json

MOST = 20
"""Number of exports kept, those used most recently."""

CHOICES = "engines.json"
"""File with the measured choices."""


def folder() -> Path:
    """``$PRERNN_CACHE``, else ``prernn`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; created if it does not exist."""
    given = os.environ.get("PRERNN_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prernn"
    base.mkdir(parents=True, exist_ok=True)
    return base


def fingerprint(net: SequenceNetwork, *more: Any) -> str:
    """A name for a network and anything else that matters, from its code, recipe, weights and the versions used."""
    from prernn import __version__

    found = hashlib.sha256()
    code = getattr(getattr(net, "cnn", None), "code", type(net).__name__)
    found.update(json.dumps([__version__, torch.__version__, code, net.recipe.to_json(), *map(str, more)]).encode())
    layers = [(str(layer.hidden_to_hidden.structure), repr(layer.cell)) for layer in net.recurrent_layers]
    found.update(json.dumps([repr(net), layers]).encode())
    for name, tensor in net.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def kept_file(name: str, write: Callable[[Path], Any]) -> Path:
    """The file of a name in the folder, written if there is none; the least recently used files are removed."""
    path = folder() / name
    if not path.exists():
        with whole_files(path) as draft:
            write(draft)
        files = sorted(folder().glob("*.onnx"), key=_used)
        for old in files[:-MOST]:
            old.unlink(missing_ok=True)
            old.with_name(f"{old.name}.data").unlink(missing_ok=True)
    else:
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            os.utime(path)
    return path


def _used(file: Path) -> float:
    """When a file was used last; 0 where another process has removed it."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def choices() -> dict[str, Any]:
    """Earlier choices; empty if the file can't be read."""
    try:
        found = json.loads((folder() / CHOICES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(name: str, choice: dict[str, Any]) -> None:
    """Adds a choice to the file, which keeps the last ones; a choice lost to another process is measured again."""
    last = list(choices().items())[-10 * MOST :]
    write_json(folder() / CHOICES, {**dict(last), name: choice})


@functools.cache
def processor() -> str:
    """The kind of this processor, as far as a choice of engines depends on it."""
    return f"{torch.backends.cpu.get_cpu_capability()}-{os.cpu_count()}"
