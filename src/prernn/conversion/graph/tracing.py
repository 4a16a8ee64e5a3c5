"""A copy of a CNN as a torch.fx graph in plain steps, ready for surgery."""

import inspect
import operator
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from prernn.conversion.graph.ending import find_output_layer
from prernn.conversion.graph.nodes import (
    NORMS,
    argument,
    layer_at,
    map_size,
    name_of,
    nodes_of,
    shape_of,
    step_name,
)
from prernn.conversion.graph.plain import avoid_overwriting, make_dropout_modules, separate_activations
from prernn.layers.computed_weights import copy_of
from prernn.layers.input_to_hidden import Layer


class CNNTracer(fx.Tracer):
    """Traces a CNN down to layers: a module of torch.nn, a childless one or a same-padding convolution is one node."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=_timm_leaves()[1])

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if isinstance(module, (Layer, *NORMS)) or not any(True for _ in module.children()):
            return True
        return type(module) in _timm_leaves()[0] or super().is_leaf_module(module, name)

    def proxy(self, node: fx.Node) -> "Aliased":
        """The object that represents a value while the CNN is traced."""
        return Aliased(node, self)


def _overwriting(operation: Callable[..., Any]) -> Callable[["Aliased", Any], "Aliased"]:
    def overwrite(value: "Aliased", other: Any) -> "Aliased":
        value.node = value.tracer.create_proxy("call_function", operation, (value, other), {}).node
        return value

    return overwrite


class Aliased(fx.Proxy):
    """A value that may have several names: after ``y = x; x += 1`` both are the sum, as with tensors.

    torch.fx treats ``x += 1`` as ``x = x + 1``, which would leave ``y`` unchanged.
    """

    __iadd__ = _overwriting(operator.iadd)
    __isub__ = _overwriting(operator.isub)
    __imul__ = _overwriting(operator.imul)
    __itruediv__ = _overwriting(operator.itruediv)
    __ifloordiv__ = _overwriting(operator.ifloordiv)
    __imod__ = _overwriting(operator.imod)
    __ipow__ = _overwriting(operator.ipow)


def _timm_leaves() -> tuple[set[type[nn.Module]], tuple[Callable[..., Any], ...]]:
    """Modules and functions that timm declares untraceable; empty if timm's models are not imported."""
    features = sys.modules.get("timm.models._features_fx")
    if features is None:
        return set(), ()
    return set(features.get_notrace_modules()), tuple(features.get_notrace_functions())


def trace(cnn: nn.Module, tracer: CNNTracer | None = None) -> fx.GraphModule:
    """The graph of a copy of ``cnn``, traced in evaluation mode; ``cnn`` itself is not changed.

    Fused normalization-and-activation modules are split, and functional dropout becomes modules, so that the graph can
    be trained as well.

    Raises:
        NotImplementedError: torch.fx can't follow the forward.
    """
    _check(cnn)
    cnn = copy_of(cnn).eval()
    # parameters with a default (forward(x, return_features=False)) are fixed to it
    parameters = inspect.signature(cnn.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    try:
        graph = (tracer or CNNTracer()).trace(cnn, concrete_args=defaults or None)
    except Exception as error:
        raise NotImplementedError(
            f"torch.fx can't trace {type(cnn).__name__}: {first_line(error)}; expected a forward without control flow "
            "that depends on the data: pass such a module, or wrap the part that branches in a module without children"
        ) from error
    _tell_of_hooks(cnn, graph)
    module = fx.GraphModule(cnn, graph, type(cnn).__name__)
    avoid_overwriting(module)
    _drop_assertions(module)
    separate_activations(module)
    make_dropout_modules(module)
    module.recompile()
    return module


def unwrapped(cnn: nn.Module) -> nn.Module:
    """The module inside wrappers of torch.compile and data parallelism."""
    parallel = isinstance(cnn, nn.DataParallel | nn.parallel.DistributedDataParallel)
    name = "module" if parallel else "_orig_mod"
    return unwrapped(cnn.get_submodule(name)) if name in cnn._modules else cnn


def _check(cnn: nn.Module) -> None:
    if isinstance(cnn, torch.jit.ScriptModule):
        raise NotImplementedError("torch.fx can't trace a ScriptModule: expected the module that it was made of")
    if any(map(nn.parameter.is_lazy, cnn.parameters())):
        raise ValueError("expected a CNN whose layers know their sizes, got a lazy one: put a frame through it first")


def _tell_of_hooks(cnn: nn.Module, graph: fx.Graph) -> None:
    """Warns of hooks on modules that are no step of the graph, because the graph splits blocks into their layers."""
    steps = {name_of(node) for node in nodes_of(graph) if node.op == "call_module"}
    hooked = [name for name, part in cnn.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    inside = tuple(f"{step}." for step in steps)
    if lost := [name for name in hooked if name not in steps and not name.startswith(inside)]:
        message = f"the hooks of {', '.join(map(repr, lost))} see no frame of the network: expected hooks of layers"
        warnings.warn(f"{message}, as blocks of them are taken apart", UserWarning, stacklevel=2)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _drop_assertions(module: fx.GraphModule) -> None:
    """Removes shape assertions, which would keep nodes alive that conversion cuts out."""
    for node in reversed(nodes_of(module.graph)):
        if node.op == "call_function" and step_name(node) == "_assert":
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def make_output_linear(module: fx.GraphModule) -> None:
    """Turns an output layer that is a 1x1 convolution on one position into the equivalent fc layer on a vector."""
    head = find_output_layer(module)
    if head is None:
        return
    conv, shape = layer_at(module, head), shape_of(head)
    if not isinstance(conv, _ConvNd) or len(shape) < 3:
        return
    inputs = argument(head, 0)
    if conv.groups != 1 or map_size(shape_of(inputs)) != 1:
        return
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=conv.weight.requires_grad)
    linear.bias = conv.bias  # type: ignore[assignment]  # torch types them differently: both are a parameter or None
    module.set_submodule(name_of(head), linear)
    with module.graph.inserting_before(head):
        vector = module.graph.call_function(torch.flatten, (inputs, 1))
    places = (..., *[None] * (len(shape) - 2))
    with module.graph.inserting_after(head):
        back = module.graph.call_function(operator.getitem, (head, places))  # type: ignore[arg-type]  # fx takes ...
    head.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    head.args = (vector,)
    vector.meta["shape"], head.meta["shape"], back.meta["shape"] = (2, conv.in_channels), shape[:2], shape
    module.recompile()
