"""ONNX files of a recurrent network: one step of a stream, or a whole sequence.

The step is what torch's exporter makes of `RecurrentNetwork.step`. The sequence is an ONNX ``Scan`` over that same
graph, so it takes any length at the memory of one step, and equals the step by construction. Needs the ``onnx``
extra, at export only.
"""

import contextlib
import copy
import importlib.util
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prernn import ops
from prernn.conversion.network import RecurrentNetwork, of_a_cnn
from prernn.conversion.sequence_network import SequenceNetwork

KINDS = ("step", "sequence")
LARGE = 1_500_000_000  # bytes of weights from which they get a file of their own: protobuf ends at 2 GB


def export_onnx(
    net: SequenceNetwork,
    path: str | os.PathLike,
    kind: str = "step",
    *,
    image_size: tuple[int, int] | None = None,
    opset: int = 18,
) -> None:
    """Writes the network, in evaluation mode, as an ONNX file; ``net`` itself keeps its mode.

    Example:
        >>> import pathlib, prernn, tempfile
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prernn.export_onnx(net, f"{folder}/step.onnx")
        ...     print(sorted(path.name for path in pathlib.Path(folder).iterdir()))
        ['step.onnx']

    Batch and time stay dynamic. Inputs are ``frame (B, C, H, W)``, snippets ``(B, C, D, H, W)`` (sequence:
    ``video (B, T, C, H, W)``), then the state's leaves in pytree order, ``state_0_h (B, D)``, ``state_0_c`` and so
    on: layer and name in its cell, zeros at the start of a stream. Outputs are ``output (B, K)`` (sequence:
    ``(B, T, K)``), then ``next_state_0_h`` and so on. The file's metadata hold ``labels`` and ``transform`` as
    JSON where the network's recipe has them.

    Args:
        net: any recurrent network.
        path: the file. Weights above 1.5 GB go to ``path`` + ".data" beside it. Files appear only when complete.
        kind: "step" or "sequence".
        image_size: ``(H, W)`` in pixels, fixed in the file; None takes the size of the recipe's transform, else
            that of ``net.frame_shape``.
        opset: ONNX operator set; 18 runs on runtimes since 2023.

    Raises:
        ValueError: an unknown kind or an image size that is no pair of pixels.
        NotImplementedError: the network holds an operation that torch can't export.
        ImportError: the ``onnx`` extra is not installed.
        OSError: the file can't be written.
    """
    net = of_a_cnn(net)
    if kind not in KINDS:
        raise ValueError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"expected image_size (H, W) of at least 1 pixel, got {image_size}")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'export to ONNX needs {" and ".join(missing)}: pip install "prernn[onnx]"')
    program = _export_step(net, image_size or _image_size(net), opset)
    if kind == "sequence":
        _scan(program.model)
    for name, value in (("labels", net.recipe.labels), ("transform", net.recipe.transform)):
        if value is not None:
            program.model.metadata_props[name] = json.dumps(value)
    _save(program, Path(path))


class _Step(nn.Module):
    """``step`` as a module of its own."""

    def __init__(self, network: RecurrentNetwork):
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, state: tuple = ()) -> tuple[Tensor, tuple]:
        return self.network.step(frame, state)


def _image_size(net: RecurrentNetwork) -> tuple[int, int]:
    transform = net.recipe.transform
    if transform and "size" in transform:
        return transform["size"], transform["size"]
    height, width = net.frame_shape[-2:]
    return height, width


def _export_step(net: RecurrentNetwork, image_size: tuple[int, int], opset: int) -> Any:
    """torch's ONNX program of one step."""
    # a copy that shares its tensors with the network, so that only the copy changes its mode
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    step = _Step(copy.deepcopy(net, shared)).eval()
    weight = next(net.parameters())
    frame = weight.new_zeros(2, *net.frame_shape[:-2], *image_size)  # torch.export takes a size of 1 for constant
    state = net.init_state(2, image_size)
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, tuple(tuple({0: batch} for _ in part) for part in state))
    arguments = 2 if state else 1  # torch.onnx.export stumbles over an empty tuple
    try:
        with torch.no_grad(), ops.using("reference"), _quiet():  # ONNX knows torch's operators, not our kernels
            return torch.onnx.export(
                step,
                (frame, state)[:arguments],
                input_names=["frame", *net.state_names],
                output_names=["output", *(f"next_{name}" for name in net.state_names)],
                dynamic_shapes=shapes[:arguments],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise NotImplementedError(f"torch can't export this network to ONNX: {cause}") from error


@contextlib.contextmanager
def _quiet():
    """torch.onnx warns of axes that share the name "batch", as all of them should."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _scan(model: Any) -> None:
    """Makes the step's graph the body of a Scan over time."""
    import onnx_ir as ir

    step = model.graph
    constants = _take_constants(step)
    nodes, initializers = list(step), list(step.initializers.values())
    frame, *state = step.inputs
    output, *following = step.outputs
    inputs = [_like(value, value.name) for value in state]
    video = _like(frame, "video", time=True)
    outputs = [_like(output, "output", time=True), *(_like(value, value.name) for value in following)]
    for value in (frame, *state, output, *following):
        value.name = f"{value.name}_t"  # a subgraph's names must differ from those around it
    for part in (step.inputs, step.outputs, step.initializers):
        part.clear()
    step.remove(nodes)
    body = ir.Graph([*state, frame], [*following, output], nodes=nodes, name="step")
    scan = ir.node(
        "Scan",
        [*inputs, video],
        {"body": body, "num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1]},
        outputs=[*outputs[1:], outputs[0]],
    )
    model.graph = ir.Graph(
        [video, *inputs],
        outputs,
        nodes=[*constants, scan],
        initializers=initializers,
        opset_imports=step.opset_imports,
        name="sequence",
    )


def _take_constants(graph: Any) -> list:
    """Takes out the nodes that depend on weights alone: before the Scan they run once, not at every step."""
    known, constants = set(graph.initializers.values()), []
    for node in list(graph):
        if all(value is None or value in known for value in node.inputs):
            known.update(node.outputs)
            constants.append(node)
    graph.remove(constants)
    return constants


def _like(value: Any, name: str, *, time: bool = False) -> Any:
    """A new value of the same type; with ``time`` as second dimension if asked."""
    import onnx_ir as ir

    batch, *rest = value.shape
    return ir.val(name, shape=[batch, *(["time"] if time else []), *rest], type=value.type)


def _save(program: Any, path: Path) -> None:
    """Writes the file, and its weights' file where there is one, under another name first."""
    weights = program.model.graph.initializers.values()
    large = sum(value.const_value.nbytes for value in weights) > LARGE
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            program.save(Path(folder) / path.name, external_data=large)
            for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights' file before the one that names it
                _sync(file)
                os.replace(file, path.parent / file.name)
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error


def _sync(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())  # a disk may report that it is full only now
