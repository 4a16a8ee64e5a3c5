"""A recurrent network cut in two: the trunk, which does not depend on time, and the rest."""

import operator
from collections.abc import Sequence

from torch import fx

from prernn.conversion.graph.graft import recurrent_nodes
from prernn.conversion.graph.nodes import as_nodes, nodes_of
from prernn.conversion.network import RecurrentNetwork


def split(network: RecurrentNetwork, at: Sequence[str] | None = None) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Splits a network in two: ``trunk(frames) -> inputs`` and ``rest(inputs, state) -> (outputs, state)``.

    ``inputs`` are those of the first recurrent layer, a tuple of tensors with ``T*B`` rows. Both parts share
    their weights with the network, so a trunk that is not trained can run once over a data set.

    Args:
        network: any network.
        at: names of values of its graph to cut at instead, such as `inputs_of` gives for another network made from the
            same CNN.

    Raises:
        ValueError: the network has no recurrent layer, or no value of that name.
        NotImplementedError: a value bypasses the cut.
    """
    names = inputs_of(network) if at is None else list(at)
    values = {node.name: node for node in nodes_of(network.cnn.graph)}
    if unknown := [name for name in names if name not in values]:
        raise ValueError(f"expected values of the network's graph, got {', '.join(unknown)}")
    inputs = [values[name] for name in names]
    before = _ancestors(inputs)
    return _trunk(network.cnn, inputs, before), _rest(network.cnn, inputs, before)


def inputs_of(network: RecurrentNetwork) -> list[str]:
    """Names of the values that the first recurrent layer reads. ValueError for a network without one."""
    nodes = recurrent_nodes(network.cnn)
    if not nodes:
        raise ValueError("expected a network with a recurrent layer, got one without")
    return [node.name for node in as_nodes(nodes[0].args[0])]


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    found, todo = set(nodes), list(nodes)
    while todo:
        parents = [parent for parent in todo.pop().all_input_nodes if parent not in found]
        found.update(parents)
        todo.extend(parents)
    return found


def _trunk(cnn: fx.GraphModule, inputs: list[fx.Node], before: set[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in nodes_of(cnn.graph):
        if node in before:
            values[node] = graph.node_copy(node, values.__getitem__)
    graph.output(tuple(values[node] for node in inputs))
    return fx.GraphModule(cnn, graph, "Trunk")


def _rest(cnn: fx.GraphModule, inputs: list[fx.Node], before: set[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    packed = graph.placeholder("inputs")
    for count, node in enumerate(inputs):
        values[node] = graph.call_function(operator.getitem, (packed, count))
    for node in nodes_of(cnn.graph):
        if node in before:
            continue
        bypassing = [parent for parent in node.all_input_nodes if parent not in values and parent.op != "get_attr"]
        if bypassing:
            raise NotImplementedError(f"value {bypassing[0]} bypasses the cut; the network can't be split there")
        values[node] = graph.node_copy(node, values.__getitem__)
    return fx.GraphModule(cnn, graph, "Rest")
