"""Resolving names: an entry of a registry, an entry point of an installed package, or a user's own class."""

import difflib
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
DOTTED = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*)\.(?P<name>[^\W\d]\w*)")

_files: dict[str, str] = {}
"""Modules that were imported from a user's file, and the file."""


def look_up(name: str, registry: Mapping[str, Any], what: str, method: str) -> Any:
    """Resolves a name from the command line, a config or a checkpoint; see `find`.

    Raises:
        ValueError: `find` does not know the name; the message suggests similar entries of the registry.
    """
    found = find(name, registry, what, method)
    if found is None:
        raise ValueError(f"expected {what} to be one of {', '.join(registry)}, got {name!r}{close_to(name, registry)}")
    return found


def close_to(name: str, known: Iterable[str], before: str = "", most: int = 3) -> str:
    """The end of a message about an unknown name: similar names, each prefixed with ``before``; or ""."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=most)
    return f"; did you mean {' or '.join(before + other for other in near)}?" if near else ""


def find(name: str, registry: Mapping[str, Any], what: str, method: str) -> Any:
    """An entry of a registry, an entry point of an installed package, or a user's own class; None for anything else.

    Args:
        name: a key of the registry; the name of an entry point of the group ``prernn.backbone``, ``prernn.cell``,
            ``prernn.input`` or ``prernn.task``; or a name that `own_class` accepts.
        registry: objects with a short name.
        what: kind of object, as in the names of the groups.
        method: the method that a user's own class must have to be of this kind.

    Raises:
        ValueError: as in `own_class`; a class without the method.
    """
    if name in registry:
        return registry[name]
    for point in importlib.metadata.entry_points(group=f"prernn.{what}", name=name):
        return point.load()
    own = own_class(name)
    if own is not None and not hasattr(own, method):
        raise ValueError(f"{name}: expected a {what}, got a class without the method {method}")
    return own


def own_class(name: str) -> type | None:
    """The class that ``"file.py:Name"`` or ``"package.module.Name"`` names; its module is imported.

    Modules are also searched for in the working directory. None if the name has neither form or there is no such
    module. Only classes are returned, so that a checkpoint can't make us call an arbitrary function by naming it.

    Raises:
        ValueError: there is no such file, another module has its name, or it has no class of this name.
    """
    in_file, dotted = IN_FILE.fullmatch(lasting(name)), DOTTED.fullmatch(name)
    if in_file is not None:
        module, wanted = _import_file(Path(in_file["file"])), in_file["name"]
    elif dotted is not None:
        imported = _import(dotted["module"])
        if imported is None:
            return None
        module, wanted = imported, dotted["name"]
    else:
        return None
    found = getattr(module, wanted, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ValueError(f"{name}: expected a class in {module.__file__}, found none{close_to(wanted, classes)}")
    return found


def lasting(name: str) -> str:
    """A class's name that is valid in any working directory, because it has the absolute path of the file.

    Other names stay as they are, as does a dotted name that is not of a file in the working directory.
    """
    in_file, dotted = IN_FILE.fullmatch(name), DOTTED.fullmatch(name)
    if in_file:
        return f"{os.path.abspath(in_file['file'])}:{in_file['name']}"
    if dotted and dotted["module"] in _files:
        return f"{_files[dotted['module']]}:{dotted['name']}"
    if dotted and (file := Path(*dotted["module"].split(".")).with_suffix(".py")).is_file():
        return f"{file.absolute()}:{dotted['name']}"
    return name


def importable(name: str) -> str:
    """The dotted name of a class in a file, which Python can import from now on; other names are returned unchanged."""
    if not IN_FILE.fullmatch(lasting(name)):
        return name
    own = own_class(name)
    assert own is not None  # it would have raised
    return f"{own.__module__}.{own.__qualname__}"


def short(name: str) -> str:
    """A name for tables: the class name only, without its file or package."""
    match = IN_FILE.fullmatch(name) or DOTTED.fullmatch(name)
    return match["name"] if match else name


def _import(name: str) -> ModuleType | None:
    """A module; None if there is none of this name. Errors inside the module are passed on to the user."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _import_file(path: Path) -> ModuleType:
    """The module of a file; its folder, or its package's parent, is added to Python's search path, also for workers."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a Python file, found none")
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    module = importlib.import_module(name)
    if not module.__file__ or not os.path.samefile(module.__file__, path):
        raise ValueError(f"{path}: Python has another module {name} ({module.__file__}): give the file another name")
    _files[name] = str(path)
    return module
