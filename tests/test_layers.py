"""The layer rule: a module imports only from its own level or lower, without circles; `import prernn` is light."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import prernn

PACKAGE = Path(prernn.__file__).parent
LEVELS = (
    ("structures", "irregular", "hidden", "connections", "sobol", "ops", "files", "text_table"),
    ("cells", "input_to_hidden", "ctc"),
    ("recurrent", "rnn"),
    (
        *("tracing", "surgery", "graft", "network", "convert", "rcn", "inflate", "clip_network", "accounting"),
        *("paths", "quantize", "packing", "normalize", "integer", "online"),
    ),
    ("backbones", "c3d", "small_vgg", "cifar_resnet", "recipe", "video", "flow", "transforms", "sample_videos"),
    ("plots", "weight_plots", "page", "prediction"),
    ("tasks", "dataset", "landmarks", "face_box", "gates"),
    ("data", "training", "checkpoint", "run_folder", "outputs", "features", "streaming", "export", "early"),
    ("runs", "analysis", "inspection", "lineup", "hidden_weights", "quantized_runs"),
    ("watching", "gesture_events", "face_tracking"),
    ("fit", "demo", "compare", "cli", "web", "benchmarks", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
HEAVY = ("lightning", "pytorch_lightning", "av", "cv2", "matplotlib", "timm", "torchvision")


def part(path: Path) -> str:
    """The name in LEVELS that a file belongs to: its module, or its folder."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Parts of the package that a file imports anywhere, also inside its functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: expected absolute imports, got one from {'.' * node.level}"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {module.split(".")[1] for module in modules if module.startswith("prernn.")}


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_level_or_lower(path):
    own = part(path)
    assert own in LEVEL, f"give {own} a level in LEVELS, the lowest that its imports allow"
    known = {name for name in imports(path) - {own} if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()}
    above = [name for name in known if LEVEL[name] > LEVEL[own]]
    assert not above, f"{own} (level {LEVEL[own]}) imports {above} from above"


def test_imports_have_no_circles():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(part(path), set()).update(imports(path) & set(LEVEL) - {part(path)})
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_import_pulls_in_nothing_heavy():
    code = f"import sys, prernn; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_all_in_the_list():
    assert sorted(prernn.__all__) == sorted(set(prernn.__all__))
    assert all(hasattr(prernn, name) for name in prernn.__all__)
    wanted = {"VRNN", "LSTM", "GRU", "hidden_structure", "convert", "traditional"}
    assert wanted | {"recurrent_parameters", "matched_hidden_size"} <= set(prernn.__all__)
