"""A step in 8-bit integers: an ONNX file whose convolutions and matrix products multiply integers.

Weights are signed 8-bit integers times a scale for each output, activations unsigned 8-bit integers whose ranges are
found from some frames; between them are QuantizeLinear and DequantizeLinear, which onnxruntime and OpenVINO fuse into
their integer kernels. onnxruntime's own tool writes them. It is told the following:

- The weights of a network that `prernn.quantize` made are integers already, and stay the same: each output's scale is
  the layer's, times that of the batch normalization that the exporter folded in. A row with counts beyond 127 is
  rounded to its own 127 steps. Weights that are not quantized are rounded to the nearest of 127 steps, row by row.
- The state stays in float32, as does everything computed from it except the matrix products: an 8-bit error would
  return at every step.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines import onnxruntime_engine
from prernn.engines.exported.compact import compact
from prernn.engines.exported.description import KEY, Description
from prernn.sparsity.quantization.weights import weights_of

PRODUCTS = {"Conv": 0, "Gemm": 0, "MatMul": 1}
"""Operations whose second input is a weight, and the axis of its outputs; for Gemm if it is transposed."""
AROUND = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu")
"""Operations between convolutions that may be computed in integers."""
MOST = 127
CLOSE = 1e-4
"""Allowed deviation from integers times a scale, as a share of a row's largest weight: rounding errors of float32."""


def save_integers(
    draft: Path, out: Path, net: SequenceNetwork, description: Description, inputs: Sequence[Tensor] | Tensor
) -> None:
    """Writes a step in integers.

    Args:
        draft: the step in float32.
        out: the file.
        net: the network that the draft was made from.
        description: of the draft.
        inputs: videos ``(T, *frame_shape)`` from which the ranges of activations are found.

    Raises:
        ImportError: the ``onnx`` extra is not installed.
    """
    if reason := onnxruntime_engine.missing():
        raise ImportError(reason)
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = onnx.load(draft)
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{place}"  # the tool excludes nodes by name
    with tempfile.TemporaryDirectory() as folder, without_advice():
        named = Path(folder) / "named.onnx"
        onnx.save(model, named)
        quantize_static(
            named,
            out,
            RangeFrames(draft, description, inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*PRODUCTS, *AROUND],
            nodes_to_exclude=_followers(model, {leaf.name for leaf in description.states}),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "TensorQuantOverrides": _overrides(model, net, QuantType.QInt8),
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
            },
        )
    made = onnx.load(out)
    compact(made)
    about = {prop.key: prop.value for prop in model.metadata_props} | {KEY: description.to_json()}
    onnx.helper.set_model_props(made, about)
    onnx.save(made, out)


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Suppresses the tool's advice to fold batch normalization first, which the exporter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _followers(model: Any, states: set[str]) -> list[str]:
    """Names of the nodes that are computed from the state, except products."""
    known, found = set(states), []
    for node in model.graph.node:
        if known & set(node.input):
            known |= set(node.output)
            if node.op_type not in PRODUCTS:
                found.append(node.name)
    return found


class RangeFrames:
    """The step's inputs for each frame of the videos, as onnxruntime's tool expects them: states are carried on."""

    def __init__(self, step: Path, description: Description, inputs: Sequence[Tensor] | Tensor):
        self.run = onnxruntime_engine.runner(onnxruntime_engine.session_of(step, None))
        self.feeds = self._feeds(description, inputs)

    def _feeds(self, description: Description, inputs: Sequence[Tensor] | Tensor) -> Iterator[dict[str, np.ndarray]]:
        names = [leaf.name for leaf in description.states]
        for video in inputs:
            leaves = [torch.zeros(1, *leaf.file_shape) for leaf in description.states]
            for frame in video.split(1):
                given = [frame.contiguous(), *leaves]
                yield {name: value.numpy() for name, value in zip(["frame", *names], given, strict=True)}
                _, leaves = self.run(frame, leaves)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _overrides(model: Any, net: SequenceNetwork, integer: Any) -> dict[str, list[dict[str, Any]]]:
    """The scale of each row of every weight whose integers are known."""
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in model.graph.initializer}
    counts, rows = _integers(net)
    found = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or node.input[1] not in values:
            continue
        axis = _axis(node)
        weight = np.moveaxis(numpy_helper.to_array(values[node.input[1]]), axis, 0)
        scales = _scales(weight.reshape(len(weight), -1), counts.get(node.input[1].removeprefix("network.")), rows)
        if scales is not None:
            zero = np.array(0, dtype=np.int8)
            kind = {"zero_point": zero, "quant_type": integer}
            each = [{"scale": np.array(scale, dtype=weight.dtype), **kind} for scale in scales]
            found[node.input[1]] = [each[0] | {"axis": axis}, *each[1:]]
    return found


def _axis(node: Any) -> int:
    transposed = any(given.name == "transB" and given.i for given in node.attribute)
    return 1 if node.op_type == "Gemm" and not transposed else PRODUCTS[node.op_type]


def _integers(net: SequenceNetwork) -> tuple[dict[str, np.ndarray], dict[bytes, np.ndarray]]:
    """The counts of each quantized weight, one row per output, by its name; and of each row, by its values."""
    counts: dict[str, np.ndarray] = {}
    rows: dict[bytes, np.ndarray] = {}
    for weight in weights_of(net):
        if weight.is_quantized and weight.values.ndim > 1:
            leading = 2 if weight.values.ndim == 3 else 1  # gates and their units
            own = weight.counts.long().flatten(0, leading - 1).flatten(1).numpy()
            counts[weight.name] = own
            values = weight.values.detach().flatten(0, leading - 1).flatten(1)
            rows |= {row.tobytes(): integers for row, integers in zip(values.numpy(), own, strict=True)}
    return counts, rows


def _scales(weight: np.ndarray, counts: np.ndarray | None, rows: dict[bytes, np.ndarray]) -> np.ndarray | None:
    """The scale of each row of a weight ``(outputs, inputs)``; None if its integers are unknown.

    A named weight may be the quantized one times a factor for each row. One without a name is composed of rows of
    recurrent weights.
    """
    if counts is None or counts.shape != weight.shape:
        known = [rows.get(np.ascontiguousarray(row).tobytes()) for row in weight]
        if any(row is None for row in known):
            return None
        counts = np.stack(known)  # type: ignore[arg-type]
    size = (counts * counts).sum(1)
    scales = np.abs((weight * counts).sum(1) / np.maximum(size, 1))
    apart = np.abs(np.abs(weight) - scales[:, None] * np.abs(counts)).max(1, initial=0)
    if (apart > CLOSE * np.abs(weight).max(1, initial=1e-30)).any():
        return None
    most = np.abs(counts).max(1, initial=0)
    scales = np.where(most > MOST, scales * most / MOST, scales)
    return np.where(scales > 0, scales, 1.0)
