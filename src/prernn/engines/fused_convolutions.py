"""Fuses a CNN's convolutions with what follows them: batch normalization, an addition, an activation.

With fixed statistics, as in a stream, ``B(w * x + b)`` is a convolution with other weights (`torch.nn.utils.fusion`).
On the CPU oneDNN then computes convolution, addition and activation in one pass, from weights that were laid out for
this once. Its operators are not part of torch's public interface: they are tried once, and not used if they fail.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from prernn.conversion.graph.nodes import ADDITIONS, nodes_of, step_name, submodule_of
from prernn.conversion.graph.same_padding import pads_same, same_sides
from prernn.conversion.lighter.folding import foldable, has_hooks, pairs_of
from prernn.ops.backends import forced

Fused = tuple[str, tuple[float, ...]]
"""An activation by oneDNN's name, with its parameters."""

Folded = tuple[Tensor, Tensor | None]
"""Weight and bias of a convolution with the normalization after it folded in."""

Layout = tuple[int, torch.Size]
"""The conditions for which weights are laid out: threads and size of the input."""

LAYOUTS = 4
"""Number of layouts kept of a convolution's weights."""

ACTIVATIONS: dict[str, tuple[Fused, Callable[[Tensor], Tensor]]] = {
    "relu": (("relu", ()), F.relu),
    "relu6": (("hardtanh", (0.0, 6.0)), F.relu6),
    "silu": (("swish", ()), F.silu),
    "hardswish": (("hardswish", ()), F.hardswish),
    "hardsigmoid": (("hardsigmoid", ()), F.hardsigmoid),
    "sigmoid": (("sigmoid", ()), torch.sigmoid),
    "tanh": (("tanh", ()), torch.tanh),
}
"""By the name of function, method or module, in lower case."""

MODULES = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh)


class FusedConvolution(nn.Module):
    """``act(conv(x) + other)`` with the weights of a convolution and the normalization after it.

    Args:
        conv: the convolution.
        norm: the batch normalization, the only one to read its output, or None.
        activation: a key of `ACTIVATIONS`, or "".
        dtype: of the weights.
    """

    def __init__(self, conv: nn.Conv2d, norm: _BatchNorm | None, activation: str, dtype: torch.dtype):
        super().__init__()
        self._conv, self._norm, self._activation, self._dtype = (conv,), (norm,), activation, dtype  # not registered
        self._same = type(conv) is not nn.Conv2d
        self._packed: dict[Layout, Folded] = {}
        self._plain: Folded | None = None

    def sources(self) -> list[Tensor]:
        """The tensors that the weights are made from."""
        (conv,), (norm,) = self._conv, self._norm
        parts: list[Tensor | None] = [conv.weight, conv.bias]
        if norm is not None:
            parts += [norm.running_mean, norm.running_var, norm.weight, norm.bias]
        return [part for part in parts if part is not None]

    def refresh(self) -> None:
        """Discards what was made from weights that have changed since."""
        self._packed.clear()
        self._plain = None

    @torch.no_grad()
    def _folded(self) -> Folded:
        """Weight and bias, made from those of convolution and normalization."""
        (conv,), (norm,) = self._conv, self._norm
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None  # because its statistics are frozen
            assert variance is not None
            weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)
        return weight.detach().to(self._dtype), None if bias is None else bias.detach().to(self._dtype)

    def _laid_out(self, geometry: tuple[Any, ...], shape: torch.Size) -> Folded:
        """Weight and bias for a number of threads and a size of input: with others they are correct, but maybe slow.

        A stream of one ResNet-50 took twice as long on two threads, or 8 streams did, with the layout for one thread.
        """
        layout = (torch.get_num_threads(), shape)
        if layout not in self._packed:
            if len(self._packed) >= LAYOUTS:
                del self._packed[next(iter(self._packed))]
            weight, bias = self._folded()
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape))
            self._packed[layout] = packed, bias
        return self._packed[layout]

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Takes ``x (N, C, H, W)``, and what is added to the result."""
        (conv,) = self._conv
        padding = conv.padding
        if self._same:
            x, padding = _padded(x, conv), (0, 0)
        x = x.to(self._dtype)
        if not (
            type(x) is Tensor and x.device.type == "cpu" and x.numel() and _onednn_works()
        ):  # it may be a fake tensor
            self._plain = self._plain or self._folded()
            out = F.conv2d(x, *self._plain, conv.stride, padding, conv.dilation, conv.groups)
            return self._active(out if other is None else out + other)
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (padding, conv.stride, conv.dilation, conv.groups)
        packed, bias = self._laid_out(geometry, x.shape)
        name, numbers = ACTIVATIONS[self._activation][0] if self._activation else ("none", ())
        if other is None:
            plain: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, name, list(numbers), "")
            return plain
        other = other.to(self._dtype)
        if other.shape[-2:] == (1, 1):  # which torch 2.10's oneDNN can't add
            return self._active(
                torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, "none", [], "") + other
            )
        other = other.contiguous(memory_format=torch.channels_last)
        active = self._activation == "relu"  # oneDNN's operator knows no other after an addition
        added: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, packed, bias, *geometry, "add", None, *(("relu", [], "") if active else (None, [], None))
        )
        return added if active else self._active(added)

    def _active(self, out: Tensor) -> Tensor:
        return ACTIVATIONS[self._activation][1](out) if self._activation else out


def _padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Pads as TensorFlow does, by the size of the input, for timm's convolutions."""
    sides = same_sides(x.shape[-2:], conv.kernel_size, conv.stride, conv.dilation)
    return F.pad(x, sides) if any(sides) else x


def fused(cnn: fx.GraphModule, dtype: torch.dtype) -> tuple[fx.GraphModule, list[FusedConvolution]]:
    """A graph that computes the same in evaluation mode, in fewer steps, and its fused convolutions.

    All other modules are those of ``cnn`` itself. Convolutions with hooks are left unchanged, as are those that are not
    plain: called several times, or with a computed weight.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(cnn.graph, {}))
    module = fx.GraphModule(cnn, graph)
    _drop_identities(module)
    pairs = [pair for pair in pairs_of(module) if not any(map(has_hooks, pair))]
    norms: dict[nn.Module, _BatchNorm] = dict(foldable(pairs))
    made = []
    calls = [node.target for node in nodes_of(graph) if node.op == "call_module"]
    for node in nodes_of(graph):
        conv = submodule_of(module, node)
        plain = calls.count(node.target) == 1 and len(node.args) == 1 and not node.kwargs
        if plain and isinstance(conv, nn.Conv2d) and _is_plain(conv):
            made.append(_fuse(module, node, conv, norms.get(conv), dtype))
    graph.lint()
    module.recompile()
    return module, made


def _drop_identities(module: fx.GraphModule) -> None:
    """Removes the steps that do nothing in evaluation mode, because they stand between steps that can be fused."""
    for node in nodes_of(module.graph):
        part = submodule_of(module, node)
        nothing = type(part) in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
        if part is not None and (nothing or type(part).__name__ == "DropPath") and not has_hooks(part):
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)


def _fuse(
    module: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, norm: _BatchNorm | None, dtype: torch.dtype
) -> FusedConvolution:
    """Puts a fused convolution in the place of the last of the steps that it replaces."""
    last, arguments = node, [node.args[0]]
    following = _only_user(last)
    if norm is not None and following is not None:
        last = following
        following = _only_user(last)
    if following is not None and (other := _added(following, last)) is not None:
        arguments, last = [node.args[0], other], following
        following = _only_user(last)
    activation = _activation(module, following)
    if activation:
        assert following is not None
        last = following
    part = FusedConvolution(conv, norm, activation, dtype)
    name = f"{node.target}_fused"
    module.add_submodule(name, part)
    with module.graph.inserting_after(last):
        call = module.graph.call_module(name, tuple(arguments))
    call.meta["shape"] = last.meta.get("shape")
    last.replace_all_uses_with(call)
    while last is not node:  # backwards, because each is read only by the next
        before = [value for value in last.all_input_nodes if value in (node, *_chain(node, last))]
        module.graph.erase_node(last)
        last = before[0]
    module.graph.erase_node(node)
    return part


def _chain(node: fx.Node, last: fx.Node) -> list[fx.Node]:
    """The steps from ``node`` to the one that ``last`` follows."""
    found = [node]
    while (following := _only_user(found[-1])) is not None and following is not last:
        found.append(following)
    return found


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _added(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """What is added to ``value``, of the same shape; None if the step is no such addition."""
    plain = node.op in ("call_function", "call_method") and node.target in ADDITIONS and not node.kwargs
    if not plain or len(node.args) != 2 or len(node.all_input_nodes) != 2:
        return None
    (other,) = [argument for argument in node.all_input_nodes if argument is not value]
    shape = value.meta.get("shape")
    return other if shape is not None and other.meta.get("shape") == shape else None


def _activation(module: fx.GraphModule, node: fx.Node | None) -> str:
    """The name of the activation that a step is, if it can be fused."""
    if node is None:
        return ""
    if (act := submodule_of(module, node)) is not None:
        return type(act).__name__.lower() if type(act) in MODULES and not has_hooks(act) else ""
    plain = node.op in ("call_function", "call_method") and len(node.args) == 1 and not node.kwargs.get("inplace")
    return step_name(node) if plain and step_name(node) in ACTIVATIONS else ""


def _is_plain(conv: nn.Conv2d) -> bool:
    known = type(conv) is nn.Conv2d or pads_same(conv)
    weight = conv._parameters.get("weight")
    own = isinstance(weight, Tensor) and weight.dtype == torch.float32 and not weight.is_inference()
    return known and own and not has_hooks(conv) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


@functools.cache
def _onednn_works() -> bool:
    """Whether oneDNN's operators exist and compute what torch does."""
    if not torch.backends.mkldnn.is_available() or forced() == "reference":
        return False
    conv = nn.Conv2d(4, 8, 3, padding=1)
    x = torch.linspace(-1, 1, 4 * 64).view(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    try:
        with torch.no_grad():
            expected = conv(x)
            packed = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *geometry, list(x.shape))
            out = torch.ops.mkldnn._convolution_pointwise(x, packed, conv.bias, *geometry, "relu", [], "")
            more = torch.ops.mkldnn._convolution_pointwise.binary(
                x, expected, packed, conv.bias, *geometry, "add", None, None, [], None
            )
            return torch.allclose(out, expected.relu(), atol=1e-5) and torch.allclose(more, 2 * expected, atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False
