"""The weights of a module that can be quantized, and the integers stored with those that are.

These are the weights of ``nn.Linear``, convolutions, recurrent layers (prernn's in any structure, and torch's) and path
layers. Transposed convolutions, embeddings, the joint projection of ``nn.MultiheadAttention``, biases and normalization
are left as they are. Computed weights (by pruning, weight norm or spectral norm) are replaced by plain ones.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prernn.layers.hidden_to_hidden import HiddenToHidden, RecurrentWeights, matrix_places
from prernn.layers.input_to_hidden import GateInput, StructuredLinear
from prernn.layers.rnn import RecurrentStack
from prernn.layers.structures.input_weights import InputWeights
from prernn.ops.narrow import refuse_narrow
from prernn.sparsity.path_convolution import PathConv2d
from prernn.sparsity.paths import PathLinear
from prernn.sparsity.quantization.counts import smallest_integers

Neurons = dict[str, Callable[[], Tensor]]

COUNTS, SCALE = "_counts", "_scale"
"""Suffixes of the names of the buffers that belong to a quantized weight."""


@dataclass(frozen=True)
class Weight:
    """A parameter that can be quantized: ``parameter`` of ``module``."""

    name: str
    module: nn.Module
    parameter: str
    find_neuron: Callable[[], Tensor]

    @functools.cached_property
    def neuron(self) -> Tensor:
        """The neuron that each weight feeds, in the weights' shape; -1 for entries that are no weight."""
        return self.find_neuron()

    @property
    def values(self) -> Tensor:
        """The current weights."""
        return self._tensor(self.parameter)

    @property
    def is_quantized(self) -> bool:
        """Whether the parameter has counts."""
        return hasattr(self.module, self.parameter + COUNTS)

    @property
    def counts(self) -> Tensor:
        """Signed counts, in the weights' shape."""
        return self._tensor(self.parameter + COUNTS)

    @property
    def scale(self) -> Tensor:
        """``()``, or one for each neuron."""
        return self._tensor(self.parameter + SCALE)

    def _tensor(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self.module, name)
        return tensor

    def product(self, counts: Tensor, scale: Tensor) -> Tensor:
        """The weights that counts and a scale represent."""
        each = scale if scale.ndim == 0 else scale[self.neuron.to(scale.device).clamp(min=0)]
        return counts.to(scale.device) * each

    def set(self, counts: Tensor, scale: Tensor) -> None:
        """Stores counts and scale with the parameter, and their product in it.

        Raises:
            ValueError: a scale outside the range of the weights' type.
        """
        values = self.values
        wide = values.dtype if values.dtype.itemsize > 2 else torch.float32  # large counts would overflow 16 bits
        counts, scale = counts.to(values.device, smallest_integers(counts)), scale.to(values.device, wide)
        if not bool(scale.isfinite().all()):
            raise ValueError(
                f"{self.name}: expected weights whose magnitudes add up to a number of {wide}, got an infinite one"
            )
        with torch.no_grad():
            values.copy_(self.product(counts, scale))
        values.requires_grad_(False)
        self.module.register_buffer(self.parameter + COUNTS, counts)
        self.module.register_buffer(self.parameter + SCALE, scale)


def weights_of(module: nn.Module) -> Iterator[Weight]:
    """The parameters of a module that can be quantized, each once, in the module's order."""
    refuse_narrow(module, "quantize the network first, low_precision then keeps its integers")
    seen = set()
    for path, part in module.named_modules():
        for kind, neurons in NEURONS.items():
            if not isinstance(part, kind):
                continue
            for parameter, find in neurons(part).items():
                value = getattr(part, parameter)
                if id(value) not in seen and value.is_floating_point() and value.numel():
                    seen.add(id(value))
                    yield Weight(f"{path}.{parameter}".lstrip("."), part, parameter, find)


def _rows(weight: Tensor, leading: int = 1) -> Tensor:
    """The index over the first dimensions, for every entry of ``weight``."""
    first = weight.shape[:leading]
    neuron = torch.arange(math.prod(first)).view(*first, *[1] * (weight.ndim - leading))
    return neuron.expand(weight.shape)


def _of_layer(layer: nn.Linear | _ConvNd) -> Neurons:
    return {} if isinstance(layer, _ConvTransposeNd) else {"weight": lambda: _rows(layer.weight)}


def _of_structure(weights: RecurrentWeights | InputWeights) -> Tensor:
    place = matrix_places(weights)
    return torch.where(place >= 0, place // weights.columns, -1)


def _of_hidden(layer: HiddenToHidden | StructuredLinear) -> Neurons:
    return {"weight": lambda: _of_structure(layer.weights())}


def _of_gates(layer: GateInput) -> Neurons:
    return {"copies": lambda: _rows(layer.copies, 2)}


def _of_prernn(layer: RecurrentStack) -> Neurons:
    def recurrent(suffix: str) -> Tensor:
        return _of_structure(layer.recurrent_weights(suffix)).view_as(getattr(layer, f"weight_hh{suffix}"))

    def projection(suffix: str) -> Tensor:
        return _of_structure(layer.input_weights(suffix)).view_as(getattr(layer, f"weight_ih{suffix}"))

    found = _of_rows(layer, "weight_hr")
    found |= {f"weight_ih{suffix}": functools.partial(projection, suffix) for suffix in layer.suffixes()}
    return found | {f"weight_hh{suffix}": functools.partial(recurrent, suffix) for suffix in layer.suffixes()}


def _of_rows(layer: nn.Module, start: str = "weight_") -> Neurons:
    return {name: functools.partial(_rows, value) for name, value in layer.named_parameters() if name.startswith(start)}


def _of_paths(layer: PathLinear | PathConv2d) -> Neurons:
    def ends() -> Tensor:
        return layer.destination.long().view(-1, *[1] * (layer.weight.ndim - 1)).expand(layer.weight.shape)

    return {"weight": ends}


NEURONS: dict[type[nn.Module], Callable[..., Neurons]] = {
    nn.Linear: _of_layer,
    _ConvNd: _of_layer,
    PathLinear: _of_paths,
    PathConv2d: _of_paths,
    GateInput: _of_gates,
    HiddenToHidden: _of_hidden,
    StructuredLinear: _of_hidden,
    RecurrentStack: _of_prernn,
    nn.RNNBase: _of_rows,
    nn.RNNCellBase: _of_rows,
}
"""The parameters that are quantized in each kind of module, with functions for the neuron that each weight feeds."""
