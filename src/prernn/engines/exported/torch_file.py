"""torch's exported programs, ``.pt2``: they load with torch alone."""

import errno
from pathlib import Path

import torch

from prernn.conversion.graph.tracing import first_line
from prernn.engines.exported.description import KEY, Description
from prernn.engines.exported.program import Traced, quiet

EXTRA = f"{KEY}.json"
"""The description's file inside the archive."""


def save_torch(found: Traced, path: Path) -> None:
    """Writes the program with its description."""
    try:
        with quiet():
            torch.export.save(found.program, path, extra_files={EXTRA: found.description.to_json()})
    except RuntimeError as error:
        raise OSError(errno.EIO, first_line(error)) from error


def load_torch(path: Path) -> tuple[torch.nn.Module, Description]:
    """The program as a module, and its description.

    Raises:
        ValueError: the file was not written by `save_torch`.
    """
    extra = {EXTRA: ""}
    try:
        with quiet():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # torch raises many types for a broken archive
        raise ValueError(f"{path}: expected a program of torch.export, found none") from error
    return program.module(), Description.from_json(str(extra[EXTRA]), str(path))
