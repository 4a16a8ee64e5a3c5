"""A copy of a CNN as a torch.fx graph in plain steps, ready for surgery."""

import copy
import inspect
import operator
import sys

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from prernn.conversion.graph.nodes import LAYERS, NORMS, find_output_layer, map_size, value_shape
from prernn.conversion.graph.plain import avoid_overwriting, make_dropout_modules, separate_activations


class CNNTracer(fx.Tracer):
    """Traces a CNN down to layers: what torch.nn, a childless module or a same-padding convolution does is one node."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if isinstance(module, (*LAYERS, *NORMS)) or not any(True for _ in module.children()):
            return True
        return type(module) in _timm_leaves()[0] or super().is_leaf_module(module, name)


def _timm_leaves() -> tuple[set, tuple]:
    """Modules and functions that timm declares untraceable; empty when no timm model can be about."""
    features = sys.modules.get("timm.models._features_fx")
    if features is None:
        return set(), ()
    return set(features.get_notrace_modules()), tuple(features.get_notrace_functions())


def trace(cnn: nn.Module) -> fx.GraphModule:
    """The graph of a copy of ``cnn``, traced in evaluation mode; ``cnn`` itself is not touched.

    Fused normalization-and-activation modules are taken apart, and functional dropout becomes modules, so that
    the graph serves training as well.

    Raises:
        NotImplementedError: torch.fx can't follow the forward.
    """
    cnn = copy.deepcopy(cnn).eval()
    # parameters with a default (forward(x, return_features=False)) take it
    parameters = inspect.signature(cnn.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    try:
        graph = CNNTracer(autowrap_functions=_timm_leaves()[1]).trace(cnn, concrete_args=defaults or None)
    except Exception as error:
        raise NotImplementedError(
            f"torch.fx can't trace {type(cnn).__name__}: {first_line(error)}; expected a forward without control flow "
            "that depends on the data: pass such a module, or wrap the part that branches in a module without children"
        ) from error
    module = fx.GraphModule(cnn, graph, type(cnn).__name__)
    avoid_overwriting(module)
    _drop_assertions(module)
    separate_activations(module)
    make_dropout_modules(module)
    module.recompile()
    return module


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _drop_assertions(module: fx.GraphModule) -> None:
    """Removes shape assertions: they would keep alive what conversion cuts out."""
    for node in reversed(module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "_assert":
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def make_output_linear(module: fx.GraphModule) -> None:
    """Turns an output layer that is a 1x1 convolution of one place into the fc layer it is: it reads a vector."""
    head = find_output_layer(module)
    if head is None or not isinstance(module.get_submodule(head.target), _ConvNd) or len(value_shape(head)) < 3:
        return
    conv, shape = module.get_submodule(head.target), value_shape(head)
    if conv.groups != 1 or map_size(value_shape(head.args[0])) != 1:
        return
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=conv.weight.requires_grad)
    linear.bias = conv.bias
    module.set_submodule(head.target, linear)
    with module.graph.inserting_before(head):
        vector = module.graph.call_function(torch.flatten, (head.args[0], 1))
    with module.graph.inserting_after(head):
        back = module.graph.call_function(operator.getitem, (head, (..., *[None] * (len(shape) - 2))))
    head.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    head.args = (vector,)
    vector.meta["shape"], head.meta["shape"], back.meta["shape"] = (2, conv.in_channels), shape[:2], shape
    module.recompile()
