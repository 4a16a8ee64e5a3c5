"""The engine onnxruntime: an ONNX step on the CPU."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.engines.engine_network import Runner
from prernn.engines.exported.description import KEY, Description

NAME = "onnxruntime"


def missing() -> str | None:
    """What to install, or None if it is installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return 'onnxruntime is not installed: pip install "prernn[onnx]"'
    return None


def check_precision(precision: str) -> None:
    """Raises NotImplementedError for a precision that onnxruntime's CPU kernels lack."""
    if precision not in ("float32", "int8"):
        raise NotImplementedError(f"engine onnxruntime: expected precision float32 or int8 on the CPU, got {precision}")


def session_of(path: Path, threads: int | None) -> Any:
    """An inference session for a file, on a number of threads (None: onnxruntime's choice).

    Raises:
        ValueError: it can't run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # threads that wait in a busy loop take the processor from torch's threads and from other streams
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types, which have no common base
        raise ValueError(f"{path}: onnxruntime can't run it: {str(error).splitlines()[0]}") from error


def described(path: Path, threads: int | None = None) -> tuple[Any, Description]:
    """A session, and the description in its file."""
    session = session_of(path, threads)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    return session, Description.from_json(text, str(path))


def runner(session: Any) -> Runner:
    """A function that runs a session's steps."""
    names = [value.name for value in session.get_inputs()]

    def run(frame: Tensor, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        given = [frame.contiguous(), *leaves]
        feeds = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        out, *following = map(torch.from_numpy, session.run(None, feeds))
        return out, following

    return run
