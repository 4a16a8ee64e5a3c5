"""Replaces the output layer of a network's graph, or appends one."""

from collections.abc import Callable

from torch import fx, nn

from prernn.conversion.graph.ending import final_value, find_output_layer
from prernn.conversion.graph.graft import free_name
from prernn.conversion.graph.nodes import argument, is_vector, layer_at, name_of, shape_of, value_shape
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.arguments import whole
from prernn.layers.input_to_hidden import Layer


def replace_output(network: RecurrentNetwork, outputs: int) -> None:
    """Replaces the network's output layer by a new one of size ``outputs``, or appends one if there is none.

    Raises:
        ValueError: ``outputs`` is not an integer of at least 1.
        NotImplementedError: a network whose features are not a vector.
    """
    outputs = whole("outputs", outputs)
    module = network.cnn
    head = find_output_layer(module)
    if head is None:
        network.drawn_anew |= set(module.get_submodule(_append_output(module, outputs)).parameters())
        return
    old = layer_at(module, head)
    new = _resized(old, outputs, shape_of(argument(head, 0))[1]).to(old.weight.dtype)
    module.set_submodule(name_of(head), new)
    network.drawn_anew |= set(new.parameters())
    _set_outputs(module, head, outputs)


def _resized(old: Layer, outputs: int, inputs: int) -> Layer:
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        return nn.Linear(inputs, outputs, bias=bias, device=old.weight.device)
    kind: Callable[..., Layer] = type(old)  # `_ConvNd` takes more arguments than its subclasses
    return kind(inputs, outputs, old.kernel_size, bias=bias, device=old.weight.device)


def _append_output(module: fx.GraphModule, outputs: int) -> str:
    vector = final_value(module)
    if not is_vector(vector):
        raise NotImplementedError(f"expected a network that ends in a vector, got {value_shape(vector)}")
    parameter = next(module.parameters())
    name = free_name(module, "output")
    inputs = shape_of(vector)[1]
    module.add_submodule(name, nn.Linear(inputs, outputs, device=parameter.device, dtype=parameter.dtype))
    with module.graph.inserting_after(vector):
        node = module.graph.call_module(name)
    vector.replace_all_uses_with(node)
    node.args = (vector,)
    node.meta["shape"] = (2, outputs)
    module.recompile()
    return name


def _set_outputs(module: fx.GraphModule, head: fx.Node, outputs: int) -> None:
    """Updates the stored shapes from the output layer on, which only reshaping follows."""
    node = final_value(module)
    while True:
        shape = shape_of(node)
        node.meta["shape"] = (shape[0], outputs, *shape[2:])
        if node is head:
            return
        node = node.all_input_nodes[0]
