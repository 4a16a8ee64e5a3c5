"""The engine OpenVINO, on the CPU: of an ONNX step or of its own files."""

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
"""OpenVINO's names of precisions; what is in integers stays so, around it stand floats."""

FREE = {"ENABLE_CPU_PINNING": False}
"""A thread that is bound to one core waits for whoever else is there: other streams are bound to the same one."""

CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
"""What a processor's list of capabilities has to name."""


def missing() -> str | None:
    """What to install, or None where it is."""
    if importlib.util.find_spec("openvino") is None:
        return 'OpenVINO is not installed: pip install "prernn[openvino]"'
    return None


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def check_precision(precision: str) -> None:
    """Raises NotImplementedError for a precision that this processor does not compute with."""
    wanted = CAPABILITIES.get(precision)
    if wanted and wanted not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotImplementedError(f"engine openvino: this processor does not compute with {precision}")


def model_of(path: Path) -> Any:
    """The model in a file.

    Raises:
        ValueError: no file that OpenVINO can read.
    """
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path}: OpenVINO can't read it: {str(error).strip().splitlines()[-1]}") from error


def described(path: Path) -> tuple[Any, Description]:
    """A model and what its file says of itself; an ONNX file's metadata stand under ``framework``."""
    model = model_of(path)
    text = None
    for place in ([KEY], ["framework", KEY]):
        if model.has_rt_info(place):
            text = model.get_rt_info(place).astype(str)
    return model, Description.from_json(text, str(path))


def runner(model: Any, precision: str, threads: int | None) -> Runner:
    """What runs a model's steps: compiled for the shapes that come, which is faster than for any."""
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
        # copies: the request's own memory holds the next step's
        out, *following = (torch.from_numpy(found[number].copy()) for number in range(len(found)))
        return out, following

    return run


def remembering(model: Any) -> Runner:
    """What runs a stateful model in float32, one stream from its first frame on."""
    options = {"INFERENCE_PRECISION_HINT": HINTS["float32"], "INFERENCE_NUM_THREADS": 1, **FREE}
    request = _core().compile_model(model, "CPU", options).create_infer_request()

    def run(frame: Tensor, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return torch.from_numpy(request.infer([frame.contiguous().numpy()])[0].copy()), []

    return run
