"""Instant quantization: integer weights drawn from the trained ones, without retraining and without data.

The weights ``w`` of a layer, divided by their 1-norm, are a discrete density: ``P_i`` the sum of the first ``i + 1``
of ``|w| / ||w||_1`` parts the unit interval, and each of ``N`` samples ``x_j`` falls into one part, that of weight
``i_j`` where ``P_{i-1} <= x_j < P_i`` (the talk "Structural Sparsity", ternarization by simulating discrete probability
densities). The signed counts ``q_i = sign(w_i) |{j: i_j = i}|`` are integers whose magnitudes add up to ``N``, and

    sum over i of w_i a_i  ~  ||w||_1 / N  sum over i of q_i a_i.

Every count is ``N |w_i| / ||w||_1`` on average. With few samples the counts are -1, 0 and 1, and many weights are 0.

What makes few samples enough, beside samples that lie evenly:

- **Order.** Even samples get the sums over neighbours in the unit interval right, to less than one sample. Activations
  behind a ReLU are positive, so what a neuron must not lose is the sum of its positive weights and that of its negative
  ones: errors in them shift its mean, and no sample elsewhere makes up for it. ``order="sign"`` puts a neuron's
  positive weights side by side, and its negative ones.
- **Allocation.** The noise of a layer, against its signal, is about ``1 / s**2`` for ``s`` samples a weight, however
  many weights it has. The least sum of it over layers of ``n`` weights, for a given number of samples, has
  ``s ~ n**(-1/3)``: small layers are cheap to get right.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prernn.layers.arguments import SEEDS, real, whole
from prernn.layers.computed_weights import copy_of, settle
from prernn.layers.hidden_to_hidden import HiddenToHidden, RecurrentWeights, matrix_places
from prernn.layers.input_to_hidden import GateInput, StructuredLinear
from prernn.layers.rnn import RecurrentStack
from prernn.layers.structures.input_weights import InputWeights
from prernn.ops.narrow import refuse_narrow
from prernn.reports.tables import text_table
from prernn.sparsity.counts import ORDERS, SAMPLERS, SCALES, bits_of, signed_counts, smallest_integers
from prernn.sparsity.paths import PathConv2d, PathLinear

ALLOCATION = 1 / 3
"""Exponent of a layer's samples a weight over its number of weights: see above."""


Neurons = dict[str, Callable[[], Tensor]]


COUNTS, SCALE = "_counts", "_scale"
"""Ends of the names of the buffers beside a quantized weight."""


def quantize(
    module: nn.Module,
    samples_per_weight: float = 1.0,
    *,
    sampler: str = "systematic",
    scale: str = "layer",
    order: str = "sign",
    allocation: float = ALLOCATION,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``module`` whose weights are integers times a scale: signed counts of samples of the trained weights.

    Example:
        >>> import prernn, torch
        >>> layer = torch.nn.Linear(64, 32)
        >>> small = prernn.quantize(layer, samples_per_weight=2)
        >>> prernn.quantization_report(small).bits < 6
        True
        >>> bool((layer.weight - small.weight).abs().max() < 0.1)
        True

    Quantized are the weights of ``nn.Linear``, convolutions, recurrent layers (prernn's in any structure, and torch's)
    and path layers. Transposed convolutions, embeddings, the joint projection of ``nn.MultiheadAttention``, biases and
    normalization stay as they are. The copy computes with the products of counts and scale
    in its own type, so that everything that runs the module runs the copy; beside each weight stand the counts
    (``weight_counts``, the smallest integers that hold them) and the scale (``weight_scale``). Quantized weights don't
    train, and those that are computed from others (pruning, weight and spectral norm) become plain ones.

    Args:
        module: any module, a `RecurrentNetwork` among them; it is left as it is.
        samples_per_weight: samples over weights, of the whole module; a layer's share follows from ``allocation``.
        sampler: "systematic" (one offset for all strata), "jittered" (each stratum its own), "sobol" (the first
            component of the sequence, moved by one offset) or "random" (independent).
        scale: one scale for each "layer", or for each "neuron", whose weights then are a density of their own. All
            neurons of a layer then get the same number of samples, rounded, and at least one.
        order: "sign" or "natural", of the weights along the unit interval.
        allocation: exponent ``e``: a layer of ``n`` weights gets ``n**-e`` samples a weight, times a number that makes
            up the total. 0 treats all alike.
        seed: of all draws.

    Raises:
        ValueError: a number of samples that is negative, too large or no number, an unknown sampler, scale or order,
            weights that are not finite, a module without weights to quantize or one that is quantized.
    """
    samples_per_weight, allocation = (
        real("samples_per_weight", samples_per_weight, 0),
        real("allocation", allocation, -8, 8),
    )
    _check(sampler=(sampler, SAMPLERS), scale=(scale, SCALES), order=(order, ORDERS))
    module = settle(copy_of(module))
    found = _trained_weights(module)
    sizes = torch.tensor([int((weight.neuron >= 0).sum()) for weight in found], dtype=torch.float64)
    shares = samples_per_weight * sizes.pow(1 - allocation) * (sizes.sum() / sizes.pow(1 - allocation).sum())
    generator = torch.Generator().manual_seed(whole("seed", seed, *SEEDS))
    options = {"sampler": sampler, "scale": scale, "order": order}
    for weight, samples in zip(found, shares.tolist(), strict=True):
        _draw(weight, samples, generator, **options)
    return module


def _draw(weight: "Weight", samples: float, generator: torch.Generator, **options: str) -> None:
    try:
        weight.set(*signed_counts(weight.values, weight.neuron, samples, generator=generator, **options))
    except ValueError as error:
        raise ValueError(f"{weight.name}: {error}") from None


def _trained_weights(module: nn.Module) -> "list[Weight]":
    """What there is to quantize; raises as `quantize` does where there is nothing, or it can't be."""
    found = list(weights_of(module))
    if not found:
        raise ValueError(f"expected a module with weights to quantize, got {type(module).__name__} without")
    if done := [weight.name for weight in found if weight.is_quantized]:
        raise ValueError(f"expected trained weights, got {done[0]} that is quantized already")
    return found


def _check(**choices: tuple[str, Collection[str]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")


@dataclass(frozen=True)
class Weight:
    """A parameter that can be quantized: ``parameter`` of ``module``."""

    name: str
    module: nn.Module
    parameter: str
    find_neuron: Callable[[], Tensor]

    @functools.cached_property
    def neuron(self) -> Tensor:
        """The neuron that each weight feeds, in the weights' shape; -1 for what is no weight (outside a band)."""
        return self.find_neuron()

    @property
    def values(self) -> Tensor:
        """The weights as they are now."""
        return self._tensor(self.parameter)

    @property
    def is_quantized(self) -> bool:
        """Whether counts stand beside the parameter."""
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

    def set(self, counts: Tensor, scale: Tensor) -> None:
        """Puts counts and scale beside the parameter and their product into it."""
        values = self.values
        wide = values.dtype if values.dtype.itemsize > 2 else torch.float32  # large counts leave the range of 16 bits
        counts, scale = counts.to(values.device, smallest_integers(counts)), scale.to(values.device, wide)
        if not bool(scale.isfinite().all()):
            raise ValueError(f"expected weights whose magnitudes add up to a number of {wide}, got an infinite one")
        each = scale if scale.ndim == 0 else scale[self.neuron.to(values.device).clamp(min=0)]
        with torch.no_grad():
            values.copy_(counts * each)
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
"""The parameters of each kind of module that are quantized, and what finds the neuron that each weight feeds."""


@dataclass(frozen=True)
class QuantizedLayer:
    """What quantization made of one parameter.

    Attributes:
        weights: how many there are.
        samples: that were drawn.
        bits: of each count in a file, for the range that they have.
        nonzero: share of the weights.
        scale: the mean where each neuron has its own.
    """

    name: str
    weights: int
    samples: int
    bits: int
    nonzero: float
    scale: float


@dataclass(frozen=True)
class QuantizationReport:
    """Layer by layer; ``bits`` and ``nonzero`` are averages over all weights."""

    rows: tuple[QuantizedLayer, ...]

    @property
    def weights(self) -> int:
        """Quantized weights."""
        return sum(row.weights for row in self.rows)

    @property
    def samples(self) -> int:
        """Samples drawn."""
        return sum(row.samples for row in self.rows)

    @property
    def bits(self) -> float:
        """Bits a weight, on average."""
        return sum(row.bits * row.weights for row in self.rows) / self.weights

    @property
    def nonzero(self) -> float:
        """Share of the weights that is not 0."""
        return sum(row.nonzero * row.weights for row in self.rows) / self.weights

    def __iter__(self) -> Iterator[QuantizedLayer]:
        return iter(self.rows)

    def table(self) -> str:
        """A text table, one line a layer and a total."""
        head = ("layer", "weights", "samples", "bits", "non-zero", "scale")
        lines = [
            (x.name, f"{x.weights:,}", f"{x.samples:,}", f"{x.bits}", f"{x.nonzero:.1%}", f"{x.scale:.4g}")
            for x in self.rows
        ]
        total = ("all", f"{self.weights:,}", f"{self.samples:,}", f"{self.bits:.2f}", f"{self.nonzero:.1%}", "")
        return text_table([head, *lines, total])


def quantization_report(module: nn.Module) -> QuantizationReport:
    """What `quantize` made of each layer of a module.

    Example:
        >>> import prernn, torch
        >>> small = prernn.quantize(torch.nn.Sequential(torch.nn.Linear(64, 32)), samples_per_weight=1)
        >>> report = prernn.quantization_report(small)
        >>> [row.name for row in report.rows]
        ['0.weight']
        >>> 0.4 < report.nonzero < 0.9
        True

    Raises:
        ValueError: a module that is not quantized.
    """
    rows = tuple(_row(weight) for weight in weights_of(module) if weight.is_quantized)
    if not rows:
        raise ValueError(f"expected a quantized module, got {type(module).__name__} with weights as they were trained")
    return QuantizationReport(rows)


def _row(weight: Weight) -> QuantizedLayer:
    inside = weight.counts[(weight.neuron >= 0).to(weight.counts.device)].long()
    nonzero = float((inside != 0).double().mean())
    samples = int(inside.abs().sum())
    return QuantizedLayer(weight.name, len(inside), samples, bits_of(inside), nonzero, float(weight.scale.mean()))
