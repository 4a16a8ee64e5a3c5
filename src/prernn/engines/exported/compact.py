"""Shrinks a step in integers: removes what no runtime needs, and stores weights of few counts in 4 bits.

onnxruntime's tool names each value after those that it was computed from, and gives every zero point and scale its own
tensor; torch's exporter notes where each node came from. In networks of a few hundred kB that is a fifth of the file.
Integers from -8 to 7 need only 4 bits: a Cast turns them into 8 bits when a runtime loads the file, so that it uses the
same kernels as before.
"""

import itertools
import string
from collections.abc import Iterator
from typing import Any

import numpy as np

FOUR_BITS_OPSET = 21
"""The first of ONNX's operator sets with 4-bit integers."""


def compact(model: Any) -> None:
    """Shrinks a model of `prernn.engines.exported.integer_file` in place; it computes the same numbers."""
    _forget_origins(model)
    _leave_out_zeros(model.graph)
    _multiply_scales(model.graph)
    if next(entry.version for entry in model.opset_import if not entry.domain) >= FOUR_BITS_OPSET:
        _weights_in_four_bits(model.graph)
    _in_bytes(model.graph)
    _share_equals(model.graph)
    _shorten_names(model.graph)


def _forget_origins(model: Any) -> None:
    """Removes names of nodes, the lines of Python each came from, and intermediate shapes."""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.name = ""
    for part in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]:
        part.doc_string = ""
        del part.metadata_props[:]


def _leave_out_zeros(graph: Any) -> None:
    """Removes zero points of biases, which default to 0; those of weights are required by onnxruntime."""
    from onnx import TensorProto

    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            zero = values.get(node.input[2])
            if zero is not None and zero.data_type == TensorProto.INT32:
                del node.input[2]
    _forget_unused(graph)


def _multiply_scales(graph: Any) -> None:
    """Makes a bias's scale the product of its layer's input and weight scales, which runtimes compute once."""
    from onnx import helper

    values = _arrays(graph)
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    products = []
    for node in graph.node:
        parts = [made.get(name) for name in node.input[:3]]
        if node.op_type not in ("Conv", "Gemm") or len(parts) < 3 or None in parts:
            continue
        scales: list[str] = [part.input[1] for part in parts if part is not None]
        read, weight, bias = (values.get(name, np.array(np.nan)) for name in scales)
        if bias.ndim and np.array_equal(read * weight, bias):
            name = f"{scales[2]}_product"
            products.append(helper.make_node("Mul", scales[:2], [name]))
            parts[2].input[1] = name  # type: ignore[union-attr]
    _insert_first(graph, products)
    _forget_unused(graph)


def _weights_in_four_bits(graph: Any) -> None:
    from onnx import TensorProto, helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    arrays = _arrays(graph)
    casts = []
    for node in graph.node:
        name = node.input[0] if node.op_type == "DequantizeLinear" else ""
        integers = arrays.get(name)
        if integers is None or integers.dtype != np.int8 or not fits_four_bits(integers):
            continue
        few = helper.make_tensor(name, TensorProto.INT4, integers.shape, in_pairs(integers), raw=True)
        values[name].CopyFrom(few)
        node.input[0] = f"{name}_8"
        casts.append(helper.make_node("Cast", [name], [node.input[0]], to=TensorProto.INT8))
    _insert_first(graph, casts)


def fits_four_bits(values: np.ndarray) -> bool:
    """Whether all integers of a weight are between -8 and 7."""
    return values.ndim > 1 and values.size > 0 and bool(values.min() >= -8 and values.max() <= 7)


def in_pairs(values: np.ndarray) -> bytes:
    """Integers from -8 to 7, two per byte, the first in the lower half."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, dtype=np.int8)).astype(np.uint8) & 15
    return (flat[::2] | flat[1::2] << 4).tobytes()


def _in_bytes(graph: Any) -> None:
    """Stores values as raw bytes, where the tool wrote numbers one by one."""
    from onnx import TensorProto, numpy_helper

    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.INT4:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _share_equals(graph: Any) -> None:
    """One tensor for all that hold the same: zero points of so many outputs, and of activations behind ReLU."""
    first: dict[tuple[Any, ...], str] = {}
    same = {}
    for tensor in graph.initializer:
        if len(tensor.dims) < 2:  # weights keep their names
            held = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
            same[tensor.name] = first.setdefault(held, tensor.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    _forget_unused(graph)


def _shorten_names(graph: Any) -> None:
    """Shortens the names of all values except inputs, outputs and the network's own weights."""
    own = {value.name for value in [*graph.input, *graph.output]}
    own |= {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    unused = (name for name in _short_names() if name not in own)
    new = {name: name for name in own} | {"": ""}  # "" is an omitted input
    for names in (names for node in graph.node for names in (node.input, node.output)):
        for place, name in enumerate(names):
            if name not in new:
                new[name] = next(unused)
            names[place] = new[name]
    for tensor in graph.initializer:
        tensor.name = new[tensor.name]


def _short_names() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))


def _insert_first(graph: Any, nodes: list[Any]) -> None:
    """Inserts nodes before all others: they read only constants."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _forget_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _tensors(graph: Any) -> Iterator[tuple[Any, np.ndarray]]:
    from onnx import numpy_helper

    return ((tensor, numpy_helper.to_array(tensor)) for tensor in graph.initializer)


def _arrays(graph: Any) -> dict[str, np.ndarray]:
    return {tensor.name: array for tensor, array in _tensors(graph)}
