"""Inference with the integers of a quantized network: scales are applied after the sums, or moved to later layers.

A quantized layer ``W = s Q`` computes ``s (Q a) + b``. A positive factor can pass through the ReLU and pooling that
follow (`prernn.sparsity.normalize`), so ``s`` need not be multiplied here: the next layer takes ``Q a + b / s`` instead
of ``s Q a + b`` and multiplies its own scale by ``s``, and so on up to a layer whose factor can't be moved on, at the
latest the outputs.
"""

import copy

import torch
from torch import Tensor, fx, nn

from prernn.conversion.graph.nodes import submodule_of
from prernn.conversion.lighter.skipping import unskipped
from prernn.layers.input_to_hidden import GateInput, Layer, with_weight
from prernn.ops.backends import kernels
from prernn.ops.narrow import fits
from prernn.sparsity.normalize import graph_of, readers_of
from prernn.sparsity.quantization.weights import Weight, weights_of

LARGEST = 1e12
"""The largest factor that is moved on; the smallest is its reciprocal. This leaves room for sums in float32."""


class IntegerLayer(nn.Module):
    """``scale (Q x) + bias`` with integer weights ``Q`` in their smallest type; ``scale`` may move to a later layer.

    Attributes:
        counts: ``Q``, in the layer's shape.
        scale: ``()`` or one for each output.
        bias: in the units of the outputs.
    """

    counts: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: Layer, counts: Tensor, scale: Tensor):
        super().__init__()
        self.layer = unskipped(copy.deepcopy(layer))
        for name in ("weight", "bias"):
            self.layer.register_parameter(name, None)
        for name in [name for name, _ in self.layer.named_buffers()]:
            delattr(self.layer, name)
        self.register_buffer("counts", counts)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        for hook in layer._forward_pre_hooks.values():  # activations may be sampled (`prernn.sparsity.online`)
            self.register_forward_pre_hook(hook)

    @property
    def weight(self) -> Tensor:
        """``scale Q``, for inspection."""
        scale = self.scale if self.scale.ndim == 0 else self.scale.view(-1, *[1] * (self.counts.ndim - 1))
        return self.counts * scale

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for ``x``, computed in at least 32 bits, because sums of integers would overflow 16."""
        wide = x if x.dtype.itemsize > 2 else x.float()
        rows = wide.reshape(-1, wide.shape[-1])
        if type(self.layer) is nn.Linear and self.counts.dtype == torch.int8 and fits(rows):
            scale, bias = self.scale.float().expand(len(self.counts)), None if self.bias is None else self.bias.float()
            few: Tensor = kernels("native").narrow_product(rows, self.counts, scale, bias)
            return few.view(*x.shape[:-1], -1).to(x.dtype)
        y = with_weight(self.layer, self.counts.to(wide.dtype), wide)
        y = y * self._over_places(self.scale)
        return (y if self.bias is None else y + self._over_places(self.bias)).to(x.dtype)

    def _over_places(self, value: Tensor) -> Tensor:
        """One value for each output, along the dimension of the outputs."""
        if isinstance(self.layer, nn.Linear) or value.ndim == 0:
            return value
        return value.view(-1, *[1] * len(self.layer.kernel_size))


def integer_network(module: nn.Module) -> nn.Module:
    """A copy of a quantized module for inference that stores and multiplies integers, and gives the same outputs.

    Every quantized linear layer and convolution becomes an `IntegerLayer`. If a layer's scale is one number and only
    such layers read its outputs, through steps that factors can pass, the scale is moved on to them. The
    hidden-to-hidden products of recurrent layers and the copies of PreRNN's gates remain products of counts and scale.

    Args:
        module: the result of `prernn.quantize` for a `RecurrentNetwork`, for a CNN that torch.fx can trace, or for its
            `prernn.sparsity.normalize.normalized` form, in which the scales of all neurons are also one number.

    Raises:
        ValueError: a module that is not quantized.
        NotImplementedError: a module that can't be traced.
    """
    network, graph = graph_of(module)
    if not any(weight.is_quantized for weight in weights_of(module)):
        raise ValueError(f"expected a quantized module, got {type(module).__name__} with weights as they were trained")
    quantized = {id(weight.module): weight for weight in weights_of(network) if weight.is_quantized}
    readers = readers_of(graph)
    if not _replace(network, quantized):
        raise NotImplementedError(f"{type(module).__name__}: expected linear layers or convolutions inside, found none")
    carried: dict[fx.Node, float] = {}
    for node, others in readers.items():
        if isinstance(layer := submodule_of(graph, node), IntegerLayer):
            factor = _carry(layer, carried.get(node, 1.0), [submodule_of(graph, other) for other in others])
            carried |= dict.fromkeys(others, factor)
    return network


def _replace(network: nn.Module, quantized: dict[int, Weight]) -> int:
    """Replaces quantized layers by integer layers, except those whose weights a gate uses; returns their number."""
    count = 0
    gates = {id(part.layer) for part in network.modules() if isinstance(part, GateInput)}
    for path, part in list(network.named_modules()):
        if isinstance(part, Layer) and id(part) in quantized and id(part) not in gates:
            weight = quantized[id(part)]
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, IntegerLayer(part, weight.counts, weight.scale))
            count += 1
    return count


def _carry(layer: IntegerLayer, incoming: float, readers: list[nn.Module | None]) -> float:
    """Absorbs the factor of the layer's inputs; returns the factor that its outputs have to be multiplied by."""
    scale = layer.scale.double() * incoming
    used = scale[scale > 0]  # a neuron without weights has scale 0, and no counts to multiply
    one = float(used.mean()) if used.numel() else 0.0
    on = bool(readers) and all(isinstance(reader, IntegerLayer) for reader in readers)
    # norms are 1 only up to rounding
    same = torch.allclose(used, torch.full_like(used, one), rtol=8 * torch.finfo(layer.scale.dtype).eps, atol=0)
    room = layer.bias is None or layer.bias.dtype.itemsize > 2
    if not (on and same and room and 1 / LARGEST < one < LARGEST):
        layer.scale.copy_(scale)
        return 1.0
    layer.scale.fill_(1.0)
    if layer.bias is not None:
        layer.bias.div_(one)
    return one
