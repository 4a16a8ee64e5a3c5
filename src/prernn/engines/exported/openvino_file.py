"""OpenVINO's files of a recurrent network, ``.xml`` with ``.bin`` beside it, made from the ONNX graph."""

import errno
import tempfile
from pathlib import Path
from typing import Any

from prernn.conversion.graph.tracing import first_line
from prernn.engines.exported.description import KEY, Description
from prernn.engines.openvino_engine import missing


def openvino_model(program: Any, description: Description) -> Any:
    """An OpenVINO model made from torch's ONNX program (`prernn.engines.exported.onnx_file.onnx_program`).

    Raises:
        NotImplementedError: OpenVINO lacks an operation.
        ImportError: OpenVINO is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        program.save(path, external_data=False)
        return model_of_onnx(path, description)


def model_of_onnx(path: Path, description: Description) -> Any:
    """An OpenVINO model of an ONNX file. Raises as `openvino_model` does."""
    if reason := missing():
        raise ImportError(reason)
    import openvino

    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise NotImplementedError(f"OpenVINO can't take this network: {reason}") from error
    model.set_rt_info(description.to_json(), [KEY])
    return model


def keep_state(model: Any, description: Description) -> None:
    """Keeps the state inside a step's model, in place: ``infer_request.reset_state()`` resets it.

    It is the state of one stream, because a free batch has no size at first.
    """
    from openvino._offline_transformations import apply_make_stateful_transformation

    shapes = {"frame": [1, *list(model.inputs[0].get_partial_shape())[1:]]}
    model.reshape(shapes | {leaf.name: [1, *leaf.file_shape] for leaf in description.states})
    apply_make_stateful_transformation(model, {leaf.name: f"next_{leaf.name}" for leaf in description.states})


def save_openvino(model: Any, path: Path) -> None:
    """Writes ``path``, and its weights as ``.bin`` under the same name, in their own precision."""
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(errno.EIO, first_line(error)) from error
