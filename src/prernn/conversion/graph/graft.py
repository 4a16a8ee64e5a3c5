"""Recurrent layers in a network's graph: finding them, putting one in, taking one out.

The graph of a `prernn.conversion.network.RecurrentNetwork` is ``(frames, states) -> (output, states)``; each recurrent
layer takes its inputs and its own state, and gives its output and its next state.
"""

import copy
import operator

from torch import fx

from prernn.layers.cells import LinearCell
from prernn.layers.recurrent_layer import RecurrentLayer


def recurrent_nodes(cnn: fx.GraphModule) -> list[fx.Node]:
    """The graph's calls of recurrent layers, in order."""
    calls = [node for node in cnn.graph.nodes if node.op == "call_module"]
    return [node for node in calls if isinstance(cnn.get_submodule(node.target), RecurrentLayer)]


def layer_output(node: fx.Node) -> fx.Node:
    """The output of a recurrent layer that ``node`` calls."""
    return next(user for user in node.users if user.target is operator.getitem and user.args[1] == 0)


def insert_layer(
    module: fx.GraphModule,
    name: str,
    layer: RecurrentLayer,
    inputs: list[fx.Node],
    end: fx.Node,
    nodes: list[fx.Node],
) -> fx.Node:
    """Puts a recurrent layer into the graph in place of ``nodes``.

    It reads ``inputs``; its output, which is returned, stands in for ``end``.
    """
    graph = module.graph
    module.add_submodule(name, layer)
    with graph.inserting_after(end):
        call = graph.call_module(name, (tuple(inputs), None))
    with graph.inserting_after(call):
        output = graph.call_function(operator.getitem, (call, 0))
    output.meta["shape"] = (2, layer.hidden_size, *end.meta["shape"][2:])
    end.replace_all_uses_with(output, delete_user_cb=lambda user: user is not call)
    for node in reversed(nodes):
        graph.erase_node(node)
    _connect_states(module)
    graph.eliminate_dead_code()
    _forget_modules(module, nodes)
    graph.lint()
    module.recompile()
    return output


def _forget_modules(module: fx.GraphModule, nodes: list[fx.Node]) -> None:
    """Removes the modules that only the erased nodes called; the recurrent layer holds those it needs."""
    used = {node.target for node in module.graph.nodes if node.op == "call_module"}
    for target in {node.target for node in nodes if node.op == "call_module"} - used:
        module.delete_submodule(str(target))
    module.delete_all_unused_submodules()


def _connect_states(module: fx.GraphModule) -> None:
    """Hands the i-th recurrent layer the i-th state and puts the new states out in the same order."""
    graph = module.graph
    state = [node for node in graph.nodes if node.op == "placeholder"][1]
    output = next(node for node in graph.nodes if node.op == "output")
    following = []
    for count, call in enumerate(recurrent_nodes(module)):
        with graph.inserting_before(call):
            own = graph.call_function(operator.getitem, (state, count))
        call.args = (call.args[0], own)
        with graph.inserting_before(output):
            following.append(graph.call_function(operator.getitem, (call, 1)))
    output.args = ((output.args[0][0], tuple(following)),)


def without_units(cnn: fx.GraphModule) -> fx.GraphModule:
    """The graph with a plain convolution in place of every unit of an RCN, sharing all modules.

    The convolution is called by its name inside the unit: see `unit_of`.
    """
    plain = fx.GraphModule(cnn, copy.deepcopy(cnn.graph))
    for call in recurrent_nodes(plain):
        if isinstance(plain.get_submodule(str(call.target)).cell, LinearCell):
            _call_layer(plain, call, f"{call.target}.{UNIT_LAYER}")
    return plain


UNIT_LAYER = "input_to_hidden.layer"
"""Where a recurrent layer keeps the CNN's own layer."""


def unit_of(name: str) -> str:
    """The name of an RCN's unit, from that of the convolution inside it; other names pass."""
    return name.removesuffix(f".{UNIT_LAYER}")


def remove_unit(cnn: fx.GraphModule, name: str) -> None:
    """Puts the CNN's own convolution in the place of the RCN's unit called ``name``, if that is one."""
    for call in recurrent_nodes(cnn):
        unit = cnn.get_submodule(str(call.target))
        if call.target == name and isinstance(unit.cell, LinearCell):
            cnn.set_submodule(name, unit.get_submodule(UNIT_LAYER))
            _call_layer(cnn, call, name)
            _connect_states(cnn)
            cnn.graph.eliminate_dead_code()
            cnn.recompile()


def _call_layer(cnn: fx.GraphModule, call: fx.Node, name: str) -> None:
    """Calls the layer called ``name`` in place of a unit, whose input it takes."""
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
    """Takes a recurrent layer's next state out of the graph's outputs."""
    output = next(node for node in cnn.graph.nodes if node.op == "output")
    value, states = output.args[0]
    output.args = ((value, tuple(state for state in states if state.args[0] is not call)),)
