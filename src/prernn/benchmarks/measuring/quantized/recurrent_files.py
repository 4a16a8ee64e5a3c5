"""A recurrent network in each engine, in float32 and in 8 bits, compared with the engines' own quantization tools.

onnxruntime's static quantization and OpenVINO's NNCF (included if installed) get the same frames, weights in 8 bits
with a scale for each output, activations in 8 bits; everything else is left to their defaults.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prernn.benchmarks.measuring.quantized.integer_products import products_in_integers
from prernn.benchmarks.measuring.stream_costs import stepper
from prernn.benchmarks.measuring.timing import Stopwatch
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines import onnxruntime_engine, openvino_engine
from prernn.engines.engine_network import EngineNetwork, Runner
from prernn.engines.exported.description import Description
from prernn.engines.exported.export import export
from prernn.engines.exported.integer_file import RangeFrames, without_advice
from prernn.engines.exported.openvino_file import save_openvino
from prernn.engines.opening import MODULES, opened

ENGINES = {"torch": ".safetensors", "onnxruntime": ".onnx", "openvino": ".xml"}
OWN_TOOLS = {"onnxruntime": "int8, onnxruntime's own", "openvino": "int8, NNCF"}


@dataclass(frozen=True)
class Run:
    """A network in an engine, and the file that it came from."""

    net: SequenceNetwork
    path: Path

    @property
    def bytes(self) -> int | None:
        """Size of the file with its weights; None if there is none."""
        weights = self.path.with_suffix(".bin")
        if not self.path.is_file():
            return None
        return self.path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)


def engine_rows(
    nets: Mapping[str, RecurrentNetwork],
    inputs: Tensor,
    judge: Callable[[nn.Module], float],
    folder: Path,
    size: int,
    stopwatch: Stopwatch,
) -> list[dict[str, str]]:
    """One row per network, engine and precision: accuracy, file, and times of frames that take turns.

    Args:
        nets: networks by name; from the first one the engines' own tools make files too.
        inputs: videos ``(N, T, C, H, W)`` from which the ranges of activations are found.
        judge: returns the accuracy of a network.
        folder: folder for the files.
        size: side of a frame in pixels.
        stopwatch: times the frames.
    """
    runs: dict[tuple[str, str, str], Run] = {}
    for name, engine, precision in itertools.product(nets, ENGINES, ("float32", "int8")):
        path = folder / f"{engine}-{precision}-{len(runs)}{ENGINES[engine]}"
        if engine == "torch":
            runs[name, engine, precision] = Run(opened(nets[name], engine, precision), path)
        elif MODULES[engine].missing() is None:
            shown = inputs if precision == "int8" else None
            kind = "onnx" if engine == "onnxruntime" else engine
            export(nets[name], path, kind, image_size=(size, size), precision=precision, inputs=shown)
            runs[name, engine, precision] = Run(opened(path, threads=torch.get_num_threads()), path)
    first = next(iter(nets))
    for engine, run in _by_own_tools(nets[first], inputs, folder, size):
        runs[first, engine, OWN_TOOLS[engine]] = run
    times = stopwatch.interleaved(
        {str(key): stepper(run.net, torch.randn(1, 3, size, size)) for key, run in runs.items()}
    )
    return [_row(key, run, judge(run.net), times[str(key)].median, runs, times) for key, run in runs.items()]


def _row(
    key: tuple[str, str, str],
    run: Run,
    accuracy: float,
    seconds: float,
    runs: Mapping[Any, Run],
    times: Mapping[str, Any],
) -> dict[str, str]:
    floats = (*key[:2], "float32")
    whole, own = runs[floats].bytes, run.bytes
    return {
        **dict(zip(("network", "engine", "precision"), key, strict=True)),
        "accuracy, %": f"{100 * accuracy:.1f}",
        "file, MB": f"{own / 1e6:.2f}" if own else "",
        "of float32's": f"{own / whole:.3f}" if own and whole else "",
        "products in integers": products_in_integers(key[1], run.path) if own else "",
        "ms a frame": f"{1000 * seconds:.2f}",
        "times as fast": f"{times[str(floats)].median / seconds:.2f}",
    }


def _by_own_tools(net: RecurrentNetwork, inputs: Tensor, folder: Path, size: int) -> Iterator[tuple[str, Run]]:
    """The float32 step, quantized by each engine's own tool; the state carries over through its frames."""
    if MODULES["onnxruntime"].missing() is not None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        floats = Path(scratch) / "step.onnx"
        about = export(net, floats, image_size=(size, size))
        path = folder / "onnxruntime-own.onnx"
        _by_onnxruntime(floats, path, about, inputs)
        run = onnxruntime_engine.runner(onnxruntime_engine.session_of(path, torch.get_num_threads()))
        yield "onnxruntime", Run(_network(about, run, "onnxruntime"), path)
        if find_spec("nncf") and MODULES["openvino"].missing() is None:
            path = folder / "openvino-nncf.xml"
            by_nncf(floats, path, list(_feeds(floats, about, inputs)))
            run = openvino_engine.runner(openvino_engine.model_of(path), "float32", torch.get_num_threads())
            yield "openvino", Run(_network(about, run, "openvino"), path)


def _network(about: Description, run: Runner, engine: str) -> EngineNetwork:
    return EngineNetwork(about, lambda shape: run, engine, "int8")


def _feeds(floats: Path, about: Description, inputs: Tensor) -> Iterator[dict[str, np.ndarray]]:
    reader = RangeFrames(floats, about, inputs)
    while (feed := reader.get_next()) is not None:
        yield feed


def _by_onnxruntime(floats: Path, path: Path, about: Description, inputs: Tensor) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with without_advice():
        quantize_static(
            floats,
            path,
            RangeFrames(floats, about, inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def by_nncf(floats: Path, path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    """OpenVINO's file from an ONNX file, quantized by NNCF with the inputs of some frames."""
    import nncf
    from openvino import Core

    save_openvino(nncf.quantize(Core().read_model(floats), nncf.Dataset(feeds)), path)
