"""The house: which wing may import which, how large rooms and functions are, and what imports pull in."""

import ast
import graphlib
from collections import Counter
from pathlib import Path

import pytest

import prernn

ORDER = (
    ("reports", "ops"),
    ("media", "layers"),
    ("conversion",),
    ("sparsity",),
    ("models",),
    ("engines",),
    ("streaming",),
    ("tasks",),
    ("serving",),
    ("training",),
    ("studies",),
    ("benchmarks",),
    ("commands",),
)
"""The wings: each imports only those above it, and itself."""

RANK = {wing: rank for rank, wings in enumerate(ORDER) for wing in wings}
PACKAGE = Path(prernn.__file__).parent
FILES = sorted(PACKAGE.glob("*/**/*.py"))
KERNELS = "ops/triton_kernels.py"
"""A kernel is one function, however long."""


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: expected absolute imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module.startswith("prernn.")}


def room(module: str) -> str:
    """The module that a dotted path is of, or is in."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return module if path.is_dir() or path.with_suffix(".py").exists() else module.rpartition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_wing_imports_only_wings_before_it(path):
    own = path.relative_to(PACKAGE).parts[0]
    for module in imports(path):
        wing = module.split(".")[1]
        assert wing == own or RANK.get(wing, -1) < RANK[own], f"{name(path)} imports {module}"


def test_tasks_know_no_models_or_engines():
    for path in (PACKAGE / "tasks").rglob("*.py"):
        known = {module.split(".")[1] for module in imports(path)}
        assert not known & {"models", "engines"}, name(path)


def test_imports_have_no_circles():
    graph = {f"prernn.{name(path)[:-3].replace('/', '.')}": {room(m) for m in imports(path)} for path in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_rooms_are_small():
    for folder in {path.parent for path in FILES} | {PACKAGE}:
        entries = [entry.name for entry in folder.iterdir() if entry.name not in ("__pycache__", "py.typed")]
        most = {"commands": 24, "benchmarks": 17, "prernn": 17}.get(folder.name, 14)  # one file each; the wings
        assert len(entries) <= most, f"{folder.name}: {sorted(entries)}"
    for path in FILES:
        text = path.read_text()
        most = 450 if name(path) == KERNELS else 400  # Triton's interpreter takes the kernels as one module
        assert text.count("\n") <= most, name(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and name(path) != KERNELS:
                assert node.end_lineno - node.lineno < 60, f"{name(path)}: {node.name}"


def test_files_of_tests_have_names_of_their_own():
    """pytest takes two of one name, in folders that are no packages, for one."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
