"""The end of a graph: the CNN's output value, and the output layer that it comes from."""

from torch import fx, nn

from prernn.conversion.graph.nodes import averages, is_layer, map_size, step_name, submodule_of, value_shape

ENDING_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout),
    *(nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Sigmoid),
)
"""Modules that may be between the output layer and the output."""

ENDING_STEPS = (
    *("flatten", "view", "reshape", "squeeze", "contiguous", "getitem"),
    *("softmax", "log_softmax", "sigmoid"),
)
"""Functions and methods that may be there."""


def final_value(module: fx.GraphModule) -> fx.Node:
    """The node whose value is the CNN's output.

    Raises:
        NotImplementedError: the output is something other than one tensor.
    """
    value = module.graph.output_node().args[0]
    if isinstance(value, tuple | list):
        value = value[0]  # a recurrent network's graph returns (output, states)
    if not isinstance(value, fx.Node) or value_shape(value) is None:
        raise NotImplementedError("expected a CNN with one tensor as output; wrap it in a module that picks one")
    return value


def find_output_layer(module: fx.GraphModule) -> fx.Node | None:
    """The fc or 1x1 conv layer whose values are the CNN's outputs, or None for a CNN that ends in features.

    Only reshaping, dropout and a final softmax, log-softmax or sigmoid may be between it and the output.
    """
    node = final_value(module)
    while True:
        if is_layer(module, node):
            shape = value_shape(node)
            return node if shape is not None and len(shape) >= 2 and map_size(shape) == 1 else None
        if not _ends_only(module, node):
            return None
        node = node.all_input_nodes[0]


def _ends_only(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node may be between the output layer and the output."""
    before = value_shape(node.all_input_nodes[0]) if node.all_input_nodes else None
    if before is None:
        return False
    if averages(module, node):
        return map_size(before) == 1
    if node.op == "call_module":
        return isinstance(submodule_of(module, node), ENDING_MODULES)
    return node.op in ("call_function", "call_method") and step_name(node) in ENDING_STEPS
