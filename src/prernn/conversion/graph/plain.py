"""A graph in plain steps: nothing works in place, activations are separate nodes, dropout is a module."""

import copy
import inspect
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import Target

from prernn.conversion.graph.nodes import NORMS, name_of, nodes_of, step_name, submodule_of

PLAIN: dict[Target, Target] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    torch.relu_: torch.relu,
}
"""Functions that overwrite their first argument, and the plain form of each."""

VIEWS = (
    *("getitem", "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute"),
    *("chunk", "split", "narrow", "select", "expand", "expand_as", "movedim", "unbind", "detach", "contiguous"),
    *(
        "view_as",
        "reshape_as",
        "swapaxes",
        "swapdims",
        "moveaxis",
        "tensor_split",
        "diagonal",
        "unfold",
        "to",
        "type_as",
    ),
)
"""Functions and methods whose result may share memory with their arguments."""

DROPOUTS: dict[Target, type[nn.Dropout | nn.Dropout2d | nn.Dropout3d]] = {
    F.dropout: nn.Dropout,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}
"""Functional dropouts and the module for each."""


def avoid_overwriting(module: fx.GraphModule) -> None:
    """Replaces in-place steps by plain ones wherever a value that they overwrite is also read elsewhere.

    Conversion moves steps around, a tail runs once for each gate, and a step whose result is unused would be dropped:
    none of this may change what another step reads.

    Raises:
        NotImplementedError: a part of a value is overwritten, and the value is read afterwards.
    """
    order = {node: count for count, node in enumerate(nodes_of(module.graph))}
    for node in nodes_of(module.graph):
        if not _works_in_place(module, node):
            continue
        value = node.all_input_nodes[0]
        source = value
        while _is_view(source):
            source = source.all_input_nodes[0]
            if any(order[user] > order[node] for user in source.users):
                raise NotImplementedError(f"{node} overwrites a part of {source}, which is read afterwards")
        if view := _seen_afterwards(value, node, order):
            raise NotImplementedError(f"{node} overwrites {value}, of which {view} is a part that is read afterwards")
        if len(value.users) == 1 and source is value and value.op != "placeholder" and node.op == "call_module":
            continue
        _make_plain(module, node)
        for user in list(value.users):
            if order[user] > order[node]:
                user.replace_input_with(value, node)


def _seen_afterwards(value: fx.Node, step: fx.Node, order: dict[fx.Node, int]) -> fx.Node | None:
    """A view of ``value``, taken before ``step`` and read after it; None if there is none."""
    for view in value.users:
        if view is step or not _is_view(view) or order.get(view, order[step]) >= order[step]:
            continue
        if any(order.get(user, -1) > order[step] for user in view.users):
            return view
        if (further := _seen_afterwards(view, step, order)) is not None:
            return further
    return None


def _works_in_place(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(submodule_of(module, node), "inplace", False))
    if node.op == "call_method":
        name = name_of(node)
        return name.endswith("_") and not name.startswith("__") and hasattr(Tensor, name[:-1])
    return node.op == "call_function" and (node.target in PLAIN or _inplace_argument(node) is not None)


def _inplace_argument(node: fx.Node) -> inspect.BoundArguments | None:
    """The arguments of a function called with ``inplace=True``, or None."""
    if isinstance(node.target, str) or getattr(node.target, "__module__", "") != "torch.nn.functional":
        return None
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return None
    return bound if bound.arguments.get("inplace") is True else None


def _make_plain(module: fx.GraphModule, node: fx.Node) -> None:
    if (called := submodule_of(module, node)) is not None:
        plain = copy.copy(called)  # other nodes may call the same one
        plain.inplace = False  # type: ignore[assignment]  # to mypy an unknown attribute is a tensor or a module
        name = f"{node.target}_plain"
        module.add_submodule(name, plain)
        node.target = name
    elif node.op == "call_method":
        node.target = name_of(node)[:-1]
    elif node.target in PLAIN:
        node.target = PLAIN[node.target]
    elif (bound := _inplace_argument(node)) is not None:
        bound.arguments["inplace"] = False
        node.args, node.kwargs = bound.args, bound.kwargs


def _is_view(node: fx.Node) -> bool:
    """Whether the value may share memory with the value it is computed from."""
    return node.op in ("call_function", "call_method") and step_name(node) in VIEWS


def separate_activations(module: fx.GraphModule) -> None:
    """Splits norm-act modules (timm's BatchNormAct2d and the like) into the norm and a node for its activation."""
    for node in nodes_of(module.graph):
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
    """Replaces functional dropout, whose mode is fixed by tracing, by modules that follow train() and eval()."""
    for count, node in enumerate(nodes_of(module.graph)):
        if node.op == "call_function" and node.target in DROPOUTS:
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            if not isinstance(p, int | float):
                raise TypeError(f"expected dropout's probability as a number, got {p!r}")
            name = f"dropout_{count}"
            module.add_submodule(name, DROPOUTS[node.target](p).eval())  # like everything that is traced
            with module.graph.inserting_after(node):
                replacement = module.graph.call_module(name, (node.args[0],))
            node.replace_all_uses_with(replacement)
            module.graph.erase_node(node)
