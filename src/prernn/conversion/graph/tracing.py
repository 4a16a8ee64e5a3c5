"""A CNN as a torch.fx graph, with the shape of every value, and what each node is.

`trace` gives the graph of a copy, `propagate` the shapes; the predicates say which nodes are layers, activations,
poolings, vectors. `find_output_layer` finds where the network ends.
"""

import contextlib
import copy
import inspect
import logging
import math
import operator
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

LAYERS = (nn.Linear, _ConvNd)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)

ACTIVATION_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Threshold),
)
_ACTIVATION_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "celu", "selu", "gelu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "sigmoid", "sigmoid_", "tanh", "tanh_"),
    *("softplus", "softsign", "threshold"),
)
ACTIVATION_FUNCTIONS = {
    function
    for name in _ACTIVATION_NAMES
    for function in (getattr(F, name, None), getattr(torch, name, None))
    if function is not None
}

POOL_MODULES = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)
POOL_FUNCTIONS = {
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, torch.mean, "mean"),
}
ADAPTIVE_POOLS = {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, torch.mean, "mean"}

ADDITIONS = {operator.add, torch.add, "add"}
PRODUCTS = {operator.mul, torch.mul, torch.matmul, operator.matmul, torch.bmm, "mul", "matmul"}

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

# frame shapes (C is read from the first layer) that are tried in turn when nothing says what the CNN takes
IMAGE_SIZES = ((224, 224), (299, 299), (256, 256), (112, 112), (96, 96), (64, 64), (48, 48), (32, 32), (28, 28))
SNIPPET_SIZES = ((16, 112, 112), (8, 112, 112), (16, 224, 224), (8, 224, 224), (4, 224, 224), (32, 224, 224))


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
    _avoid_overwriting(module)
    _drop_assertions(module)
    _separate_activations(module)
    _make_dropout_modules(module)
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


def _avoid_overwriting(module: fx.GraphModule) -> None:
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


def _separate_activations(module: fx.GraphModule) -> None:
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


def _make_dropout_modules(module: fx.GraphModule) -> None:
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


def submodule_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that the node calls, or None."""
    return module.get_submodule(node.target) if node.op == "call_module" else None


def frame_candidates(module: fx.GraphModule, image_size: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
    """Shapes ``(C, H, W)`` or ``(C, D, H, W)`` to try, from the kind and the channels of the first layer.

    ``image_size`` leaves only the channels open.

    Raises:
        NotImplementedError: there is no convolution and no fc layer.
    """
    for node in module.graph.nodes:
        layer = submodule_of(module, node)
        if isinstance(layer, (nn.Conv3d, nn.Conv2d)):
            usual = SNIPPET_SIZES if isinstance(layer, nn.Conv3d) else IMAGE_SIZES
            sizes = usual if image_size is None else [image_size]
            # colour last: some CNNs rearrange pixels into channels before their first layer
            return [(channels, *size) for channels in dict.fromkeys((layer.in_channels, 3)) for size in sizes]
        if isinstance(layer, nn.Linear):
            features = layer.in_features
            if image_size is not None:
                return [(features // math.prod(image_size), *image_size)]
            shapes = [(c, *size) for c in (1, 3) for size in IMAGE_SIZES if c * size[0] * size[1] == features]
            return [*shapes, (features, 1, 1), (features,)]
    raise NotImplementedError("expected a CNN with at least one convolution or fc layer, found none")


def propagate(module: fx.GraphModule, frame_shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Stores each value's shape in ``node.meta["shape"]``, without computing; returns the first frame shape that fits.

    Raises:
        NotImplementedError: the CNN takes none of them.
    """
    failures = []
    parameter = next(iter(module.parameters()), torch.empty(0))
    for shape in frame_shapes:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            # a batch of 2: no other size of the graph should be mistaken for it
            frames = torch.empty(2, *shape, dtype=parameter.dtype, device=parameter.device)
            try:
                with _quiet():
                    FakeTensorProp(module, mode).propagate_dont_convert_inputs(frames)
            except Exception as error:
                failures.append(f"{shape}: {first_line(error)}")
                continue
        for node in module.graph.nodes:
            value = node.meta.pop("val", None)
            node.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        return shape
    raise NotImplementedError(
        f"the CNN takes none of the frame shapes tried; pass image_size. Tried {'; '.join(failures[:3])}"
    )


@contextlib.contextmanager
def _quiet():
    """A frame shape that does not fit is expected here, torch's log of it is not."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


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


def value_shape(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a node's value for a batch of 2, or None where it is no tensor."""
    return node.meta.get("shape")


def is_vector(node: fx.Node) -> bool:
    """Whether the value is one vector a frame, ``(N, D)``."""
    shape = value_shape(node)
    return shape is not None and len(shape) == 2 and shape[0] == 2


def is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an elementwise activation."""
    if node.op == "call_module":
        act = module.get_submodule(node.target)
        own_names = ("timm.layers.activations", "timm.layers.activations_me")
        return isinstance(act, ACTIVATION_MODULES) or type(act).__module__ in own_names
    if node.op == "call_function":
        return node.target in ACTIVATION_FUNCTIONS
    return node.op == "call_method" and node.target in _ACTIVATION_NAMES


def is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an fc or conv layer."""
    return isinstance(submodule_of(module, node), LAYERS)


def holds_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a layer, or a module that can't be traced with one inside."""
    inner = submodule_of(module, node)
    return inner is not None and any(isinstance(part, LAYERS) for part in inner.modules())


def final_value(module: fx.GraphModule) -> fx.Node:
    """The node whose value the CNN puts out.

    Raises:
        NotImplementedError: it puts out something other than one tensor.
    """
    value = next(node for node in module.graph.nodes if node.op == "output").args[0]
    if isinstance(value, tuple | list):
        value = value[0]  # a network in state form puts out (output, states)
    if not isinstance(value, fx.Node) or value_shape(value) is None:
        raise NotImplementedError("expected a CNN that puts out one tensor; wrap it in a module that picks one")
    return value


def find_output_layer(module: fx.GraphModule) -> fx.Node | None:
    """The fc or 1x1 conv layer whose values are the CNN's outputs, or None for a CNN that ends in features.

    Between it and the output only reshaping, dropout and a final softmax, log-softmax or sigmoid may stand.
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
    """Whether the node may stand between the output layer and the output."""
    modules = (
        nn.Identity,
        nn.Flatten,
        nn.Unflatten,
        nn.Dropout,
        nn.Softmax,
        nn.LogSoftmax,
        nn.Softmax2d,
        nn.Sigmoid,
    )
    names = (
        "flatten",
        "view",
        "reshape",
        "squeeze",
        "contiguous",
        "getitem",
        "softmax",
        "log_softmax",
        "sigmoid",
    )
    if not node.all_input_nodes or value_shape(node.all_input_nodes[0]) is None:
        return False
    if averages(module, node):
        return map_size(value_shape(node.all_input_nodes[0])) == 1
    if node.op == "call_module":
        return isinstance(module.get_submodule(node.target), modules)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in names


def map_size(shape: tuple[int, ...]) -> int:
    """Number of places of a map ``(N, C, ...)``; 1 for a vector."""
    return math.prod(shape[2:])


def is_constant(node: fx.Node) -> bool:
    """Whether the value comes from parameters and numbers alone, not from the frame or a state."""
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        if current.op == "placeholder":
            return False
        parents = [parent for parent in current.all_input_nodes if parent not in seen]
        seen.update(parents)
        todo.extend(parents)
    return True


def averages(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node averages a map or tokens down to one place."""
    before = value_shape(node.all_input_nodes[0]) if node.all_input_nodes else None
    after = value_shape(node)
    if before is None or after is None or len(before) < 3:
        return False
    kind = submodule_of(module, node)
    pools = isinstance(kind, POOL_MODULES) or node.target in POOL_FUNCTIONS
    pools = pools or "AdaptiveAvgPool" in type(kind).__name__ or "SelectAdaptivePool" in type(kind).__name__
    return pools and 2 * max(after[1:]) == torch.Size(after).numel() and after[0] == before[0]
