"""OpenVINO's files of a recurrent network, ``.xml`` with ``.bin`` beside it, made from the ONNX graph."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from prernn.engines.exported.description import KEY, Description
from prernn.engines.exported.onnx_file import move_whole


def check_installed() -> None:
    """Raises ImportError where OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise ImportError('OpenVINO is not installed: pip install "prernn[openvino]"')


def openvino_model(program: Any, description: Description, *, stateful: bool = False) -> Any:
    """An OpenVINO model of torch's ONNX program.

    Args:
        program: of `prernn.engines.exported.onnx_file.onnx_program`.
        description: of it.
        stateful: the state stays inside, for one stream: ``infer_request.reset_state()`` starts anew.

    Raises:
        NotImplementedError: OpenVINO lacks an operation.
        ValueError: a sequence that is to be stateful.
        ImportError: OpenVINO is not installed.
    """
    check_installed()
    import openvino

    if stateful and description.kind != "step":
        raise ValueError(f"expected a step to be stateful, got a {description.kind}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        program.save(path, external_data=False)
        try:
            model = openvino.Core().read_model(path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise NotImplementedError(f"OpenVINO can't take this network: {reason}") from error
        if stateful:
            _keep_state(model, description)
    model.set_rt_info(description.to_json(), [KEY])
    return model


def _keep_state(model: Any, description: Description) -> None:
    """Makes inputs and outputs of the state variables of the model, of one stream: a free batch has none at first."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    shapes = {"frame": [1, *list(model.inputs[0].get_partial_shape())[1:]]}
    model.reshape(shapes | {leaf.name: [1, *leaf.file_shape] for leaf in description.states})
    apply_make_stateful_transformation(model, {leaf.name: f"next_{leaf.name}" for leaf in description.states})


def save_openvino(model: Any, path: Path) -> None:
    """Writes ``path`` and, of the same name, its weights as ``.bin``, in the precision that they have."""
    import openvino

    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)
            move_whole(Path(folder), path.parent)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path}: not written: {str(error).strip().splitlines()[0]}") from error
