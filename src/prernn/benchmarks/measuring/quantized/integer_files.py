"""Files of residual networks in 8-bit integers compared with float32: accuracy, size, and time per picture.

Weights rounded to nearest are those of onnxruntime's own static quantization; if NNCF is installed, OpenVINO's is
included too.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.quantized.recurrent_files import by_nncf
from prernn.benchmarks.measuring.timing import Stopwatch
from prernn.conversion.convert import framewise
from prernn.engines import onnxruntime_engine, openvino_engine
from prernn.engines.engine_network import Runner
from prernn.engines.exported.export import FORMATS, export
from prernn.sparsity.quantization.quantize import quantize

BATCH = 47
ENGINES = {"onnxruntime": "onnx", "openvino": "openvino"}


def files_table(
    nets: Mapping[int, nn.Module],
    inputs: Mapping[int, Tensor],
    pictures: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
) -> Any:
    """One row per network, engine and kind of file; times of one picture on one thread, taking turns."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for depth, net in nets.items():
            runs: dict[tuple[str, str], Runner] = {}
            sizes = {}
            for name, own, precision in _kinds(net, inputs[depth], options.samples):
                for engine in (engine for engine in ENGINES if _is_here(engine)):
                    path = Path(folder) / f"{depth}-{len(runs)}{FORMATS[ENGINES[engine]]}"
                    shown = inputs[depth].unsqueeze(1) if precision == "int8" else None
                    size = (int(pictures.shape[-2]), int(pictures.shape[-1]))
                    export(own, path, ENGINES[engine], image_size=size, precision=precision, inputs=shown)
                    runs[name, engine] = _runner(engine, path)
                    weights = path.with_suffix(".bin")
                    sizes[name, engine] = path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
            if find_spec("nncf") and _is_here("openvino"):
                path = Path(folder) / f"{depth}-nncf.xml"
                _save_by_nncf(framewise(net), inputs[depth], path)
                runs["NNCF, 8 bits", "openvino"] = _runner("openvino", path)
                sizes["NNCF, 8 bits", "openvino"] = path.stat().st_size + path.with_suffix(".bin").stat().st_size
            rows += _rows(depth, runs, sizes, pictures, labels, options)
    return report.table("files, one picture on one thread", rows, ("network", "weights", "engine"))


def _save_by_nncf(net: Any, inputs: Tensor, path: Path) -> None:
    floats = path.with_suffix(".onnx")
    export(net, floats, image_size=(int(inputs.shape[-2]), int(inputs.shape[-1])))
    by_nncf(floats, path, [{"frame": picture.unsqueeze(0).numpy()} for picture in inputs])


def _kinds(net: nn.Module, inputs: Tensor, samples: float) -> list[tuple[str, Any, str]]:
    quantized = quantize(net, samples, correct=True, inputs=inputs)
    return [
        ("float32", framewise(net), "float32"),
        ("to nearest, 8 bits", framewise(net), "int8"),
        (f"{samples:g} samples, corrected", framewise(quantized), "int8"),
    ]


def _is_here(engine: str) -> bool:
    return {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}[engine].missing() is None


def _runner(engine: str, path: Path) -> Runner:
    if engine == "onnxruntime":
        return onnxruntime_engine.runner(onnxruntime_engine.session_of(path, 1))
    return openvino_engine.runner(openvino_engine.model_of(path), "float32", 1)


def _rows(
    depth: int,
    runs: Mapping[Any, Runner],
    sizes: Mapping[Any, int],
    pictures: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
) -> list[dict[str, str]]:
    one = pictures[:1].contiguous()
    found = Stopwatch(clock=time.process_time if options.own_time else time.perf_counter).interleaved(
        {str(key): lambda run=run: run(one, []) for key, run in runs.items()}
    )
    times = {key: found[str(key)].median for key in runs}
    rows = []
    for (name, engine), run in runs.items():
        batches = zip(pictures.split(BATCH), labels.split(BATCH), strict=True)
        right = sum(int((run(x.contiguous(), [])[0].argmax(1) == y).sum()) for x, y in batches)
        ratio = times["float32", engine] / times[name, engine]
        rows.append(
            {
                "network": f"ResNet-{depth}",
                "weights": name,
                "engine": engine,
                "accuracy, %": f"{100 * right / len(labels):.2f}",
                "kB": f"{sizes[name, engine] / 1000:.0f}",
                "ms": f"{1000 * times[name, engine]:.2f}",
                "times as fast": f"{ratio:.2f}",
            }
        )
    return rows
