"""The page as a folder for any static host: the browser itself runs the exported network, without a server."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import prernn
from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines import kept
from prernn.engines.exported.description import Description
from prernn.media.transforms import TransformSpec
from prernn.models import checkpoint
from prernn.reports.files import whole_file, write_json

RUNTIME = "onnxruntime-web"
"""The npm package that runs ONNX files in browsers (MIT license)."""

VERSION = "1.30.0"
"""Its version, with which the page is tested."""

RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of it that the page uses: WebAssembly only."""

MODEL = "step.onnx"

ONLY = "action"
"""The task that the page supports without a server."""

SERVE_IT = "serve it (prernn web RUN)"


def write_static(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    runtime: str | os.PathLike[str] | None = None,
    precision: str = "float32",
) -> None:
    """Writes page, network and runtime; files written before are replaced.

    Args:
        source: run folder or checkpoint of a network that classifies single frames.
        folder: created if it does not exist.
        runtime: folder with onnxruntime-web's files, such as ``node_modules/onnxruntime-web``; None lets npm fetch
            them once, into prernn's cache.
        precision: as in `prernn.export`.

    Raises:
        NotImplementedError: a network of another task, of snippets or of optical flow.
        ValueError: the runtime folder lacks the files; ImportError: there is no runtime, and no npm to fetch it.
        OSError: the folder can't be written.
    """
    net = checkpoint.load(Path(source))
    _check(net)
    assert net.recipe.transform is not None
    parts = runtime_files(runtime)
    folder = Path(folder)
    (folder / "runtime").mkdir(parents=True, exist_ok=True)
    for part in parts:
        shutil.copyfile(part, folder / "runtime" / part.name)
    for part in sorted((Path(__file__).parent / "files").iterdir()):
        shutil.copyfile(part, folder / part.name)
    size = TransformSpec.from_dict(dict(net.recipe.transform)).size
    about = prernn.export(net, folder / MODEL, image_size=(size, size), precision=precision)
    write_json(folder / "about.json", about_browser(net.recipe, about))


def about_browser(recipe: Recipe, exported: Description) -> dict[str, Any]:
    """What the page needs to know about a network that it runs itself."""
    transform = TransformSpec.from_dict(dict(recipe.transform or {}))
    options = recipe.task.options if recipe.task else {}
    return {
        "runs": "browser",
        "task": ONLY,
        "labels": recipe.labels,
        "fps": recipe.rate,
        "reset": recipe.reset,
        "temperature": options.get("temperature", 1.0),
        "unknown_below": options.get("unknown_below", 0.0),
        "transform": {name: getattr(transform, name) for name in ("size", "resize", "mean", "std", "grey")},
        "states": [{"name": leaf.name, "shape": leaf.file_shape} for leaf in exported.states],
        "model": MODEL,
        "runtime": f"{RUNTIME} {VERSION}",
    }


def _check(net: SequenceNetwork) -> None:
    task = net.recipe.task
    if task is not None and task.name != ONLY:
        raise NotImplementedError(f"--static: expected a run of the task {ONLY}, got {task.name}: {SERVE_IT}")
    if len(net.frame_shape) != 3 or (task is not None and task.options.get("stream") == "flow"):
        raise NotImplementedError(f"--static: expected a network of single frames in color: {SERVE_IT}")
    if net.recipe.labels is None or net.recipe.transform is None:
        raise NotImplementedError("--static: expected a run with labels and a transform, got one without")


def runtime_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    """onnxruntime-web's files: from a folder, or else from the cache, where npm puts them.

    Raises:
        ValueError: the folder lacks them. ImportError: there are none, and npm, which would fetch them, is missing.
    """
    if folder is not None:
        for place in (Path(folder), Path(folder) / "dist"):
            if all((place / name).is_file() for name in RUNTIME_FILES):
                return [place / name for name in RUNTIME_FILES]
        raise ValueError(f"--runtime: {folder}: expected {' and '.join(RUNTIME_FILES)} of {RUNTIME} {VERSION} in it")
    place = kept.folder() / f"{RUNTIME}-{VERSION}"
    if not all((place / name).is_file() for name in RUNTIME_FILES):
        _fetch(place)
    return [place / name for name in RUNTIME_FILES]


def _fetch(place: Path) -> None:
    npm = shutil.which("npm")
    package = f"{RUNTIME}@{VERSION}"
    if npm is None:
        raise ImportError(f"--static needs {package}: install npm, or unpack that package and give --runtime DIR")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([npm, "pack", "--silent", package], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            why = next(iter(done.stderr.strip().splitlines()), "no reason")
            raise ImportError(f"--static needs {package}, which npm could not fetch ({why}); or give --runtime DIR")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as packed:
            for name in RUNTIME_FILES:
                part = packed.extractfile(f"package/dist/{name}")
                assert part is not None  # the version is installed
                with whole_file(place / name) as draft:
                    draft.write_bytes(part.read())
