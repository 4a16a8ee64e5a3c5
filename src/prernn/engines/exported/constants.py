"""Computes the nodes of an ONNX graph that depend only on weights once, when the file is written.

Then they need not be computed at every frame; and OpenVINO's Scan accepts only constants from outside.
"""

from typing import Any

import numpy as np


def settle(model: Any) -> None:
    """Replaces nodes that depend on no input by their values, in place."""
    import onnx_ir as ir

    graph = model.graph
    nodes = _constant_nodes(graph)
    if not nodes:
        return
    inside = set(nodes)
    wanted = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(user not in inside for user, _ in value.uses())
    ]
    for value, result in zip(wanted, _computed(nodes, wanted, model), strict=True):
        tensor = ir.tensor(result)
        settled = ir.Value(name=f"{value.name}_settled", const_value=tensor, type=ir.TensorType(tensor.dtype))
        settled.shape = ir.Shape(result.shape)
        ir.convenience.replace_all_uses_with(value, settled, replace_graph_outputs=True)
        graph.register_initializer(settled)
    graph.remove(nodes, safe=True)
    for name in [
        name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()
    ]:
        del graph.initializers[name]


def _constant_nodes(graph: Any) -> list[Any]:
    """In the graph's order; small nodes whose value torch's exporter has already written count as constants too."""
    known, nodes = set(graph.initializers.values()), []
    for node in graph:
        plain = not any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values())
        if plain and all(value is None or value in known for value in node.inputs):
            known.update(node.outputs)
            nodes.append(node)
    return nodes


def _computed(nodes: list[Any], wanted: list[Any], model: Any) -> list[np.ndarray]:
    """The requested values, computed by ONNX's reference implementation."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    own = {value for node in nodes for value in node.outputs}
    given = {value.name: value for node in nodes for value in node.inputs if value is not None and value not in own}
    protos = [ir.to_proto(node) for node in nodes]
    tensors = [onnx.numpy_helper.from_array(value.const_value.numpy(), name) for name, value in given.items()]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in wanted]
    graph = onnx.helper.make_graph(protos, "constants", [], outputs, initializer=tensors)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    part = onnx.helper.make_model(graph, opset_imports=opsets)
    return [np.asarray(result) for result in ReferenceEvaluator(part).run(None, {})]
