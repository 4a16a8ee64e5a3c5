"""A graph in plain steps: nothing works in place, activations stand on their own, dropout is a module."""

import copy
import inspect
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from prernn.conversion.graph.nodes import NORMS, submodule_of

PLAIN = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}
"""Functions that overwrite their first argument, and the plain form of each."""


VIEWS = ("getitem", "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute")
VIEWS += ("chunk", "split", "narrow", "select", "expand", "expand_as", "movedim", "unbind", "detach", "contiguous")


def avoid_overwriting(module: fx.GraphModule) -> None:
    """Makes in-place steps plain ones wherever a value that they overwrite has another reader.

    Conversion moves steps about, a tail runs once for each gate, and a step whose result nobody uses would be
    dropped: none of that may change what another step reads.

    Raises:
        NotImplementedError: a part of a value is overwritten, and the value read afterwards.
    """
    order = {node: count for count, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if not _works_in_place(module, node):
            continue
        value = node.all_input_nodes[0]
        source = value
        while _is_view(source):
            source = source.all_input_nodes[0]
            if any(order[user] > order[node] for user in source.users):
                raise NotImplementedError(f"{node} overwrites a part of {source}, which is read afterwards")
        if len(value.users) == 1 and source is value and value.op != "placeholder" and node.op == "call_module":
            continue
        _make_plain(module, node)
        for user in list(value.users):
            if order[user] > order[node]:
                user.replace_input_with(value, node)


def _works_in_place(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(node.target), "inplace", False))
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.startswith("__") and hasattr(Tensor, node.target[:-1])
    return node.op == "call_function" and (node.target in PLAIN or _inplace_argument(node) is not None)


def _inplace_argument(node: fx.Node) -> inspect.BoundArguments | None:
    """The arguments of a function called with ``inplace=True``, or None."""
    if getattr(node.target, "__module__", "") != "torch.nn.functional":
        return None
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return None
    return bound if bound.arguments.get("inplace") is True else None


def _make_plain(module: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_module":
        plain = copy.copy(module.get_submodule(node.target))  # others may call the same one
        plain.inplace = False
        name = f"{node.target}_plain"
        module.add_submodule(name, plain)
        node.target = name
    elif node.op == "call_method":
        node.target = node.target[:-1]
    elif node.target in PLAIN:
        node.target = PLAIN[node.target]
    else:
        bound = _inplace_argument(node)
        bound.arguments["inplace"] = False
        node.args, node.kwargs = bound.args, bound.kwargs


def _is_view(node: fx.Node) -> bool:
    """Whether the value may share memory with what it is made of."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in VIEWS


def separate_activations(module: fx.GraphModule) -> None:
    """Splits norm-act modules (timm's BatchNormAct2d and kin) into the norm and a node for its activation."""
    for node in list(module.graph.nodes):
        norm = submodule_of(module, node)
        act = getattr(norm, "act", None)
        if not isinstance(norm, NORMS) or not isinstance(act, nn.Module):
            continue
        norm.act = nn.Identity()
        if not isinstance(act, nn.Identity):
            name = f"{node.target}_act"
            module.add_submodule(name, act)
            with module.graph.inserting_after(node):
                act_node = module.graph.call_module(name)
            node.replace_all_uses_with(act_node)
            act_node.args = (node,)


def make_dropout_modules(module: fx.GraphModule) -> None:
    """Functional dropout has the mode of tracing time burnt in; a module follows train() and eval()."""
    kinds = {F.dropout: nn.Dropout, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d}
    for count, node in enumerate(list(module.graph.nodes)):
        if node.op == "call_function" and node.target in kinds:
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            name = f"dropout_{count}"
            module.add_submodule(name, kinds[node.target](p))
            with module.graph.inserting_after(node):
                replacement = module.graph.call_module(name, (node.args[0],))
            node.replace_all_uses_with(replacement)
            module.graph.erase_node(node)
