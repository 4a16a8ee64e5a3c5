"""torch's exported programs, ``.pt2``: they load with torch alone."""

from pathlib import Path

import torch

from prernn.engines.exported.description import KEY, Description
from prernn.engines.exported.program import Traced, quiet
from prernn.reports.files import whole_file

EXTRA = f"{KEY}.json"
"""The file of the description inside the archive."""


def save_torch(found: Traced, path: Path) -> None:
    """Writes the program with its description."""
    try:
        with whole_file(path) as part, quiet():
            # torch wants its own ending, and `whole_file` another
            archive = part.with_suffix(".pt2")
            torch.export.save(found.program, archive, extra_files={EXTRA: found.description.to_json()})
            archive.replace(part)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path}: not written: {str(error).strip().splitlines()[0]}") from error


def load_torch(path: Path) -> tuple[torch.nn.Module, Description]:
    """The program as a module, and its description.

    Raises:
        ValueError: no file that `save_torch` wrote.
    """
    extra = {EXTRA: ""}
    try:
        with quiet():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # of a broken archive torch raises many kinds
        raise ValueError(f"{path}: expected a program of torch.export, found none") from error
    return program.module(), Description.from_json(str(extra[EXTRA]), str(path))
