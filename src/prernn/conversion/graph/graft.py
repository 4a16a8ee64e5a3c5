"""Recurrent layers in a network's graph: finding, inserting and removing them.

The graph of a `prernn.conversion.network.RecurrentNetwork` is ``(frames, states) -> (output, states)``; each recurrent
layer takes its inputs and its own state, and returns its output and its next state.
"""

import copy
import operator

from torch import fx, nn
from torch.fx.node import Argument

from prernn.conversion.graph.nodes import as_nodes, inputs_of, module_calls, name_of, shape_of, submodule_of
from prernn.layers.cells import LinearCell
from prernn.layers.recurrent_layer import RecurrentLayer

UNIT_LAYER = "input_to_hidden.layer"
"""Name of the CNN's own layer inside a recurrent layer."""


def recurrent_nodes(cnn: fx.GraphModule) -> list[fx.Node]:
    """The graph's calls of recurrent layers, in order."""
    return [node for node in module_calls(cnn.graph) if isinstance(submodule_of(cnn, node), RecurrentLayer)]


def recurrent_layer(cnn: fx.GraphModule, node: fx.Node) -> RecurrentLayer:
    """The recurrent layer that ``node`` calls. TypeError if it calls something else."""
    layer = submodule_of(cnn, node)
    if not isinstance(layer, RecurrentLayer):
        raise TypeError(f"expected a node that calls a recurrent layer, got {node.format_node()}")
    return layer


def layer_output(node: fx.Node) -> fx.Node:
    """The output of a recurrent layer that ``node`` calls."""
    return next(user for user in node.users if user.target is operator.getitem and user.args[1] == 0)


def free_name(module: nn.Module, stem: str) -> str:
    """A name for a new submodule: the stem and the first number that is not taken."""
    count = 0
    while hasattr(module, f"{stem}_{count}"):
        count += 1
    return f"{stem}_{count}"


def insert_layer(
    module: fx.GraphModule,
    name: str,
    layer: RecurrentLayer,
    inputs: list[fx.Node],
    end: fx.Node,
    nodes: list[fx.Node],
) -> fx.Node:
    """Inserts a recurrent layer into the graph in place of ``nodes``.

    It reads ``inputs``; its output, which is returned, replaces ``end``.
    """
    graph = module.graph
    module.add_submodule(name, layer)
    with graph.inserting_after(inputs_of(graph)[-1] if end.op == "placeholder" else end):  # after the state
        call = graph.call_module(name, (tuple(inputs), None))
    with graph.inserting_after(call):
        output = graph.call_function(operator.getitem, (call, 0))
    output.meta["shape"] = (2, layer.hidden_size, *shape_of(end)[2:])
    end.replace_all_uses_with(output, delete_user_cb=lambda user: user is not call)
    for node in reversed(nodes):
        graph.erase_node(node)
    _connect_states(module)
    graph.eliminate_dead_code()
    _forget_modules(module, nodes)
    graph.lint()
    module.recompile()
    return output


def _connect_states(module: fx.GraphModule) -> None:
    """Connects the i-th recurrent layer to the i-th state, and outputs the new states in the same order."""
    graph = module.graph
    state, output = inputs_of(graph)[1], graph.output_node()
    following = []
    for count, call in enumerate(recurrent_nodes(module)):
        with graph.inserting_before(call):
            own = graph.call_function(operator.getitem, (state, count))
        call.args = (call.args[0], own)
        with graph.inserting_before(output):
            following.append(graph.call_function(operator.getitem, (call, 1)))
    value, _ = _output_and_states(output)
    output.args = ((value, tuple(following)),)


def _output_and_states(output: fx.Node) -> tuple[Argument, tuple[fx.Node, ...]]:
    """The output value and the new states of a network's graph."""
    both = output.args[0]
    if not isinstance(both, tuple):
        raise TypeError(f"expected a graph that returns (output, states), got {both!r}")
    value, states = both
    return value, as_nodes(states)


def _forget_modules(module: fx.GraphModule, nodes: list[fx.Node]) -> None:
    """Removes the modules that only the erased nodes called; the recurrent layer holds those it needs."""
    used = {name_of(node) for node in module_calls(module.graph)}
    for name in {name_of(node) for node in nodes if node.op == "call_module"} - used:
        module.delete_submodule(name)
    module.delete_all_unused_submodules()


def without_units(cnn: fx.GraphModule) -> fx.GraphModule:
    """The graph with a plain convolution in place of every unit of an RCN, sharing all modules.

    The convolution is called by its name inside the unit: see `unit_of`.
    """
    plain = fx.GraphModule(cnn, copy.deepcopy(cnn.graph))
    for call in recurrent_nodes(plain):
        if isinstance(recurrent_layer(plain, call).cell, LinearCell):
            _call_layer(plain, call, f"{call.target}.{UNIT_LAYER}")
    return plain


def unit_of(name: str) -> str:
    """The name of an RCN's unit, given that of the convolution inside it; other names are returned unchanged."""
    return name.removesuffix(f".{UNIT_LAYER}")


def remove_unit(cnn: fx.GraphModule, name: str) -> None:
    """Replaces the RCN's unit called ``name`` by the CNN's own convolution, if it is a unit."""
    for call in recurrent_nodes(cnn):
        unit = recurrent_layer(cnn, call)
        if call.target == name and isinstance(unit.cell, LinearCell):
            cnn.set_submodule(name, unit.get_submodule(UNIT_LAYER))
            _call_layer(cnn, call, name)
            _connect_states(cnn)
            cnn.graph.eliminate_dead_code()
            cnn.recompile()


def _call_layer(cnn: fx.GraphModule, call: fx.Node, name: str) -> None:
    """Replaces the call of a unit by a call of the layer called ``name`` on the same input."""
    output = layer_output(call)
    with cnn.graph.inserting_before(call):
        layer = cnn.graph.call_module(name, (call.all_input_nodes[0],))
    layer.meta["shape"] = output.meta["shape"]
    output.replace_all_uses_with(layer)
    _drop_state(cnn, call)
    for user in [*call.users]:
        cnn.graph.erase_node(user)
    cnn.graph.erase_node(call)


def _drop_state(cnn: fx.GraphModule, call: fx.Node) -> None:
    """Removes a recurrent layer's next state from the graph's outputs."""
    output = cnn.graph.output_node()
    value, states = _output_and_states(output)
    output.args = ((value, tuple(state for state in states if state.args[0] is not call)),)
