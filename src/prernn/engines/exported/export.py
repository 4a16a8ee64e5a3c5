"""`prernn.export`: writes a network as a file for another runtime, and compares it with the network before keeping it.

Inputs are ``frame (B, C, H, W)``, for snippets ``(B, C, D, H, W)`` (for a sequence ``video (B, T, C, H, W)``), then the
state's tensors ``state_0_h (B, D)``, ``state_0_c`` and so on, named after the layer and the value in its cell, which
are zeros at the start of a stream. Outputs are ``output (B, K)`` (``(B, T, K)``), then ``next_state_0_h`` and so on.
Batch and time are free, height and width where the network allows. No tensor of the state has more than four
dimensions: for 3-D maps time and height are merged. Diagonals, bands and paths are element-wise; a step has no loop, a
sequence has one ONNX ``Scan`` with the cell's few operations per recurrent layer. Everything else about the file is in
its metadata, under "prernn", as JSON (`prernn.engines.exported.description.Description`).

The file is run and compared with the network before it gets its name: with other sizes of batch, time and frame, and
over 200 frames. If onnxruntime is not installed, an ONNX file is written without comparison, and a warning says so. A
network of a type other than float32, or on a GPU, is exported as float32 on the CPU.
"""

import dataclasses
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.conversion.graph.tracing import first_line
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import SequenceNetwork, frame_shape_of
from prernn.engines import onnxruntime_engine, openvino_engine
from prernn.engines.agreement import TOLERANCES, difference, last_bit_difference, noise
from prernn.engines.engine_network import EngineNetwork, Runner, in_steps
from prernn.engines.exported.compact import FOUR_BITS_OPSET
from prernn.engines.exported.description import KINDS, Description
from prernn.engines.exported.integer_file import save_integers
from prernn.engines.exported.onnx_file import OPSET, onnx_program, save_onnx
from prernn.engines.exported.openvino_file import (
    keep_state,
    model_of_onnx,
    openvino_model,
    save_openvino,
)
from prernn.engines.exported.program import Traced, plain_copy, traced
from prernn.engines.exported.torch_file import load_torch, save_torch
from prernn.engines.torch_engine import program_runner
from prernn.reports.files import whole_files
from prernn.sparsity.quantization.synthetic_inputs import CLIP, synthetic_inputs

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""The suffix of each format's file."""

PRECISIONS = ("float32", "int8")

CLIPS = 4
"""Number of videos that are made to find the ranges of activations."""

LONG = 200
"""Number of frames of the longest comparison, which would reveal errors that add up over time."""


def export(
    net: SequenceNetwork,
    path: str | os.PathLike[str],
    format: str = "onnx",
    kind: str = "step",
    *,
    image_size: tuple[int, int] | None = None,
    stateful: bool = False,
    precision: str = "float32",
    inputs: Sequence[Tensor] | Tensor | None = None,
    opset: int | None = None,
) -> Description:
    """Writes a network, in evaluation mode, as a file that runs without prernn; ``net`` itself keeps its mode.

    Example:
        >>> import pathlib, prernn, tempfile
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     about = prernn.export(net, f"{folder}/step.onnx")
        >>> [leaf.name for leaf in about.states]
        ['state_0_h']

    For inputs and outputs, and how the file is compared, see the module `prernn.engines.exported.export`.

    Args:
        net: any network that goes step by step; for a sequence also one that hears both directions.
        path: the file. OpenVINO's weights are beside it, ``.bin``; ONNX weights above 1.5 GB in ``path`` + ".data".
        format: "onnx", "openvino" or "torch" (torch.export's ``.pt2``, which loads without prernn).
        kind: "step" or "sequence".
        image_size: ``(H, W)`` in pixels, fixed in the file; None leaves them free where the network allows, otherwise
            takes those of the recipe's transform or of ``net.frame_shape``.
        stateful: for OpenVINO: the state stays inside, for one stream.
        precision: "float32", or "int8": an ONNX or OpenVINO step in 8-bit integers, which keeps those of a quantized
            network (`prernn.engines.exported.integer_file`).
        inputs: for an int8 file: videos ``(T, *frame_shape)`` from which the ranges of its activations are found; None
            makes inputs from the network alone (`prernn.synthetic_inputs`).
        opset: ONNX operator set; None is 18, which runs on runtimes since 2023, and for int8 21, since 2024: below that
            no weight is stored in 4 bits.

    Raises:
        ValueError: an unknown format, kind or precision, an image size that is not a pair of pixels, a suffix that
            belongs to another format, stateful for anything but OpenVINO's step.
        NotImplementedError: the network contains an operation that the format lacks, or the file does not compute what
            the network does.
        ImportError: the package that writes the format is not installed.
        OSError: the file can't be written.
    """
    path = Path(path)
    _check(format, kind, image_size, stateful, path)
    _check_precision(precision, format, kind, stateful, inputs)
    net = plain_copy(net)
    if kind == "step" and net.sees_ahead:
        raise NotImplementedError("expected kind sequence of a network that hears both directions, got step")
    if precision == "int8":
        return _written_in_integers(net, path, format, image_size, opset or FOUR_BITS_OPSET, inputs)
    return _written_in_floats(net, kind, image_size, (format, stateful, opset or OPSET, path))


def export_onnx(
    net: SequenceNetwork,
    path: str | os.PathLike[str],
    kind: str = "step",
    *,
    image_size: tuple[int, int] | None = None,
    opset: int = OPSET,
) -> None:
    """`export` with ``format="onnx"``.

    Example:
        >>> import pathlib, prernn, tempfile
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prernn.export_onnx(net, f"{folder}/step.onnx")
        ...     print(sorted(path.name for path in pathlib.Path(folder).iterdir()))
        ['step.onnx']
    """
    export(net, path, "onnx", kind, image_size=image_size, opset=opset)


def _check(format: str, kind: str, image_size: tuple[int, int] | None, stateful: bool, path: Path) -> None:
    if format not in FORMATS:
        raise ValueError(f"expected format to be one of {', '.join(FORMATS)}, got {format!r}")
    if kind not in KINDS:
        raise ValueError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"expected image_size (H, W) of at least 1 pixel, got {image_size}")
    if path.suffix != FORMATS[format]:
        raise ValueError(f"{path}: expected a file that ends in {FORMATS[format]} for format {format}")
    if stateful and format != "openvino":
        raise ValueError(f"expected format openvino for a state that stays inside, got {format}")
    if stateful and kind != "step":
        raise ValueError(f"expected a step to be stateful, got a {kind}")


def _check_precision(precision: str, format: str, kind: str, stateful: bool, inputs: Any) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "float32" and inputs is not None:
        raise ValueError("expected inputs only for precision int8, got some for float32")
    if precision == "int8" and (kind != "step" or format == "torch" or stateful):
        got = f"a stateful {kind}" if stateful else f"a {kind}"
        raise NotImplementedError(f"precision int8: expected a step in onnx or openvino, got {got} in {format}")


def _written_in_floats(
    net: SequenceNetwork, kind: str, image_size: tuple[int, int] | None, how: tuple[str, bool, int, Path]
) -> Description:
    found = _written(traced(net, kind, image_size), *how, net)
    if found is None:  # the network leaves height and width free, the format does not
        found = _written(traced(net, kind, frame_shape_of(net, None)[-2:]), *how, net)
        assert found is not None  # fixed sizes are compared only at these
    return found


def _written_in_integers(
    net: SequenceNetwork,
    path: Path,
    format: str,
    image_size: tuple[int, int] | None,
    opset: int,
    inputs: Sequence[Tensor] | Tensor | None,
) -> Description:
    """Writes a step in float32 to a temporary file, compares it, and makes one in integers from it."""
    if net.input_type == torch.int64:
        raise NotImplementedError("precision int8: expected a network of frames or features, got one of words")
    with tempfile.TemporaryDirectory() as folder:
        floats, integers = Path(folder) / "floats.onnx", Path(folder) / "integers.onnx"
        about = _written_in_floats(net, "step", image_size, ("onnx", False, opset, floats))
        about = dataclasses.replace(about, precision="int8")
        inputs = _inputs(net, about) if inputs is None else inputs
        save_integers(floats, integers, net, about, inputs)
        with whole_files(path) as draft:
            if format == "onnx":
                shutil.copyfile(integers, draft)
            else:
                save_openvino(model_of_onnx(integers, about), draft)
    return about


def _inputs(net: SequenceNetwork, about: Description) -> Tensor:
    """Synthetic inputs for a network of frames, in the size of the file; normally distributed ones for any other."""
    if isinstance(net, RecurrentNetwork) and len(about.frame_shape) > 1:
        return synthetic_inputs(net, (CLIP, *about.frame_shape), count=CLIPS)
    return noise(net, CLIPS, CLIP, about.frame_shape)


def _written(
    found: Traced, format: str, stateful: bool, opset: int, path: Path, net: SequenceNetwork
) -> Description | None:
    """Writes and compares the file; None if it holds only at the traced frame size, though the size is free."""
    about = found.description
    with whole_files(path) as draft:
        run: Runner | None
        model = None
        if format == "torch":
            save_torch(found, draft)
            run = program_runner(load_torch(draft)[0], about)
        elif format == "onnx":
            save_onnx(onnx_program(found, opset), draft)
            run = _onnxruntime_run(draft)
        else:
            model = openvino_model(onnx_program(found, opset), about)
            save_openvino(model, draft)
            run = openvino_engine.runner(openvino_engine.model_of(draft), "float32", 1)
        if run is not None and not agrees(net, about, run):
            return None
        if stateful:
            keep_state(model, about)
            save_openvino(model, draft)
            _check_stateful(net, about, draft)
    return about


def _onnxruntime_run(path: Path) -> Runner | None:
    if reason := onnxruntime_engine.missing():
        warnings.warn(f"{path.name} is not compared with the network: {reason}", RuntimeWarning, stacklevel=4)
        return None
    return onnxruntime_engine.runner(onnxruntime_engine.session_of(path, 1))


def _check_stateful(net: SequenceNetwork, description: Description, path: Path) -> None:
    """Raises NotImplementedError if the model that keeps its state does not compute what the network does."""
    run = openvino_engine.remembering(openvino_engine.model_of(path))
    outside = dataclasses.replace(description, states=())  # the only output is the network's output
    _refuse(_apart(net, outside, run, 1, LONG, description.frame_shape), net, description, 1, LONG)


def _refuse(apart: float, net: SequenceNetwork, description: Description, batch: int, steps: int) -> None:
    allowed = TOLERANCES["float32"]
    if apart <= allowed:
        return
    own = last_bit_difference(net, noise(net, batch, steps, description.frame_shape, seed=steps))
    chaotic = (
        f"; so do the network's own, by {own:.2g}, when its frames change in their last bit: its recurrence is "
        "chaotic, as one of too few samples a weight can be"
    )
    raise NotImplementedError(
        f"the file was not kept: over {steps} frames of {batch} streams its outputs differ from the network's "
        f"by {apart:.2g} of the largest, where {allowed:g} is allowed{chaotic if own > allowed else ''}"
    )


def agrees(net: SequenceNetwork, description: Description, run: Runner) -> bool:
    """Whether the file computes what the network does; False if it does so only at the traced frame size.

    Raises:
        NotImplementedError: it does not at that size either.
    """
    for batch, steps in ((3, 4), (1, LONG)):
        try:
            apart = _apart(net, description, run, batch, steps, description.frame_shape)
        except Exception as error:  # each runtime raises its own types
            raise NotImplementedError(f"the file was not kept, as it does not run: {first_line(error)}") from error
        _refuse(apart, net, description, batch, steps)
    if not description.free_size:
        return True
    *first, height, width = description.frame_shape
    try:
        return _apart(net, description, run, 2, 2, (*first, height + 32, width + 17)) <= TOLERANCES["float32"]
    except Exception:  # the network takes no frames of this size, or the file does not
        return False


@torch.inference_mode()
def _apart(
    net: SequenceNetwork, description: Description, run: Runner, batch: int, steps: int, shape: tuple[int, ...]
) -> float:
    """The largest difference of outputs and states, as a share of the largest value."""
    video = noise(net, batch, steps, shape, seed=steps)
    state = net.init_state(batch, shape[1:] if len(shape) > 2 else None)
    expected, last = net(video, state) if description.kind == "sequence" else in_steps(net, video, state)
    out, leaves = _of_file(run, description, video)
    pairs = [(out, expected)]
    if leaves:
        wanted = [leaf.reshape(own.shape) for leaf, own in zip(_flat(last), leaves, strict=True)]
        pairs += zip(leaves, wanted, strict=True)
    return max(difference(got, want) for got, want in pairs)


def _of_file(run: Runner, description: Description, video: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs of a file, and the state's leaves at the end."""
    if description.kind == "sequence":
        return run(video, [torch.zeros(len(video), *leaf.file_shape) for leaf in description.states])
    out, state = in_steps(EngineNetwork(description, lambda shape: run, "", "float32"), video, None)
    return out, _flat(state)


def _flat(state: Any) -> list[Tensor]:
    return [leaf for part in state for leaf in part]
