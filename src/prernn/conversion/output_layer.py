"""The output layer of a network's graph, replaced or appended."""

from torch import fx, nn

from prernn.conversion.graph import nodes
from prernn.conversion.network import RecurrentNetwork


def _new_name(module: nn.Module, stem: str) -> str:
    count = 0
    while hasattr(module, f"{stem}_{count}"):
        count += 1
    return f"{stem}_{count}"


def replace_output(network: RecurrentNetwork, outputs: int) -> None:
    """Puts a new output layer of size ``outputs`` in place of the network's own, or behind it where it has none.

    Raises:
        ValueError: ``outputs < 1``.
        NotImplementedError: a network whose features are no vector.
    """
    if outputs < 1:
        raise ValueError(f"expected at least one output, got {outputs}")
    module = network.cnn
    head = nodes.find_output_layer(module)
    if head is None:
        network.drawn_anew |= set(module.get_submodule(_append_output(module, outputs)).parameters())
        return
    old = module.get_submodule(head.target)
    new = _resized(old, outputs, nodes.value_shape(head.args[0])[1])
    module.set_submodule(head.target, new.to(old.weight.dtype))
    network.drawn_anew |= set(module.get_submodule(head.target).parameters())
    _set_outputs(module, head, outputs)


def _resized(old: nn.Module, outputs: int, inputs: int) -> nn.Module:
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        return nn.Linear(inputs, outputs, bias=bias, device=old.weight.device)
    return type(old)(inputs, outputs, old.kernel_size, bias=bias, device=old.weight.device)


def _append_output(module: fx.GraphModule, outputs: int) -> str:
    vector = nodes.final_value(module)
    if not nodes.is_vector(vector):
        raise NotImplementedError(f"expected a network that ends in a vector, got {nodes.value_shape(vector)}")
    parameter = next(module.parameters())
    name = _new_name(module, "output")
    inputs = nodes.value_shape(vector)[1]
    module.add_submodule(name, nn.Linear(inputs, outputs, device=parameter.device, dtype=parameter.dtype))
    with module.graph.inserting_after(vector):
        node = module.graph.call_module(name)
    vector.replace_all_uses_with(node)
    node.args = (vector,)
    node.meta["shape"] = (2, outputs)
    module.recompile()
    return name


def _set_outputs(module: fx.GraphModule, head: fx.Node, outputs: int) -> None:
    """Corrects the known shapes from the output layer on: only reshaping stands behind it."""
    node = nodes.final_value(module)
    while True:
        shape = nodes.value_shape(node)
        node.meta["shape"] = (shape[0], outputs, *shape[2:])
        if node is head:
            return
        node = node.all_input_nodes[0]
