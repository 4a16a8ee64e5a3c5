"""The engine OpenVINO, on the CPU: for an ONNX step or its own files."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.engines.engine_network import Runner
from prernn.engines.exported.description import KEY, Description

NAME = "openvino"

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""OpenVINO's names of precisions; integers stay integers, and the rest is computed in floats."""

FREE = {"ENABLE_CPU_PINNING": False}
"""Threads are not bound to cores: a bound one would wait for other streams, which are bound to the same core."""

CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
"""Names that a processor's list of capabilities must contain."""


def missing() -> str | None:
    """What to install, or None if it is installed."""
    if importlib.util.find_spec("openvino") is None:
        return 'OpenVINO is not installed: pip install "prernn[openvino]"'
    return None


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def check_precision(precision: str) -> None:
    """Raises NotImplementedError for a precision that this processor can't compute with."""
    wanted = CAPABILITIES.get(precision)
    if wanted and wanted not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotImplementedError(f"engine openvino: this processor does not compute with {precision}")


def model_of(path: Path) -> Any:
    """Reads the model in a file.

    Raises:
        ValueError: OpenVINO can't read the file.
    """
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path}: OpenVINO can't read it: {str(error).strip().splitlines()[-1]}") from error


def described(path: Path) -> tuple[Any, Description]:
    """A model, and the description in its file; an ONNX file's metadata is under ``framework``."""
    model = model_of(path)
    text = None
    for place in ([KEY], ["framework", KEY]):
        if model.has_rt_info(place):
            text = model.get_rt_info(place).astype(str)
    return model, Description.from_json(text, str(path))


def runner(model: Any, precision: str, threads: int | None) -> Runner:
    """A function that runs a model's steps, compiled for each shape that comes, which is faster than for any shape."""
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY", **FREE}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    requests: dict[tuple[Any, ...], Any] = {}

    def run(frame: Tensor, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        given = [frame.contiguous(), *leaves]
        shapes = tuple(tuple(value.shape) for value in given)
        if shapes not in requests:
            own = model.clone()
            own.reshape({port: list(shape) for port, shape in zip(own.inputs, shapes, strict=True)})
            requests[shapes] = _core().compile_model(own, "CPU", options).create_infer_request()
        found = requests[shapes].infer([value.numpy() for value in given], share_inputs=True)
        # copies: the request reuses its memory for the next step
        out, *following = (torch.from_numpy(found[number].copy()) for number in range(len(found)))
        return out, following

    return run


def remembering(model: Any) -> Runner:
    """A function that runs a stateful model in float32, for one stream from its first frame on."""
    options = {"INFERENCE_PRECISION_HINT": HINTS["float32"], "INFERENCE_NUM_THREADS": 1, **FREE}
    request = _core().compile_model(model, "CPU", options).create_infer_request()

    def run(frame: Tensor, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return torch.from_numpy(request.infer([frame.contiguous().numpy()])[0].copy()), []

    return run
