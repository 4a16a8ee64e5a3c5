"""ONNX files of a recurrent network: one step of a stream, or a whole sequence.

torch's exporter makes both from the network's program. In a sequence, everything feedforward runs on all frames
at once, and each recurrent layer is an ONNX ``Scan`` over its own few operations. Needs the ``onnx`` extra.
"""

import importlib.util
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from prernn.conversion.graph.tracing import first_line
from prernn.engines.exported import constants
from prernn.engines.exported.description import KEY
from prernn.engines.exported.program import Traced, quiet

LARGE = 1_500_000_000  # bytes of weights above which they get their own file: protobuf's limit is 2 GB

OPSET = 18
"""ONNX operator set that runtimes support since 2023."""


def check_installed() -> None:
    """Raises ImportError if the ``onnx`` extra is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'export to ONNX needs {" and ".join(missing)}: pip install "prernn[onnx]"')


def onnx_program(found: Traced, opset: int = OPSET) -> Any:
    """torch's ONNX program of a network's program, with names, free sizes and the description in place.

    Raises:
        NotImplementedError: the network contains an operation that ONNX lacks.
        ImportError: the ``onnx`` extra is not installed.
    """
    check_installed()
    names: dict[str, Any] = {"input_names": found.input_names, "output_names": found.output_names}
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), quiet():
            made: Any = torch.onnx.export(
                found.program, found.example, opset_version=opset, dynamo=True, verbose=False, **names
            )
    except torch.onnx.OnnxExporterError as error:
        raise NotImplementedError(
            f"torch can't export this network to ONNX: {first_line(error.__cause__ or error)}"
        ) from error
    constants.settle(made.model)
    _name_sizes(made.model, found)
    made.model.metadata_props[KEY] = found.description.to_json()
    for name in ("labels", "transform"):  # as in files from before there was a description
        if (value := found.description.recipe.get(name)) is not None:
            made.model.metadata_props[name] = json.dumps(value)
    return made


def _name_sizes(model: Any, found: Traced) -> None:
    """Names the free sizes batch, time, height and width."""
    import onnx_ir as ir

    (first, *leaves), description = model.graph.inputs, found.description
    names = {0: "batch"} | ({1: "time"} if description.kind == "sequence" else {})
    if description.free_size:
        rank = len(first.shape)
        names |= {rank - 2: "height", rank - 1: "width"}
    new = {str(first.shape[place]): name for place, name in names.items()}
    new |= {str(leaf.shape[0]): "batch" for leaf in leaves}
    for value in _values(model.graph):
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else new.get(str(size), str(size)) for size in value.shape]
            value.shape = ir.Shape(sizes)
    output, *following = model.graph.outputs
    steps = ["time"] if description.kind == "sequence" else []
    output.shape = ir.Shape(["batch", *steps, description.outputs])
    for value, leaf in zip(following, description.states, strict=True):
        value.shape = ir.Shape(["batch", *leaf.file_shape])


def _values(graph: Any) -> Iterable[Any]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def save_onnx(program: Any, path: Path) -> None:
    """Writes the file, and a second one with its weights if they are too large."""
    weights = program.model.graph.initializers.values()
    program.save(path, external_data=sum(value.const_value.nbytes for value in weights) > LARGE)
