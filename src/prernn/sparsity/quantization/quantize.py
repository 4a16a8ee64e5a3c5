"""Instant quantization: integer weights drawn from the trained ones, without retraining and without data.

The weights ``w`` of a layer, divided by their 1-norm, are a discrete density: the sums ``P_i`` of the first ``i + 1``
values of ``|w| / ||w||_1`` divide the unit interval into parts, and each of ``N`` samples ``x_j`` falls into one part,
that of weight ``i_j`` with ``P_{i-1} <= x_j < P_i`` (the talk "Structural Sparsity", ternarization by simulating
discrete probability densities). The signed counts ``q_i = sign(w_i) |{j: i_j = i}|`` are integers whose magnitudes add
up to ``N``, and

    sum over i of w_i a_i  ~  ||w||_1 / N  sum over i of q_i a_i.

Every count is ``N |w_i| / ||w||_1`` on average. With few samples the counts are -1, 0 and 1, and many weights are 0.

Besides evenly spaced samples, two things make few samples sufficient:

- **Order.** Evenly spaced samples get sums over neighbors in the unit interval right, to less than one sample.
  Activations after a ReLU are positive, so a neuron must preserve the sum of its positive weights and that of its
  negative ones: errors in them shift its mean, and no other sample compensates for it. ``order="sign"`` places a
  neuron's positive weights next to each other, and its negative ones too.
- **Allocation.** The noise of a layer, relative to its signal, is about ``1 / s**2`` for ``s`` samples per weight,
  however many weights it has. The sum of the noise over layers of ``n`` weights, for a given total number of samples,
  is smallest for ``s ~ n**(-1/3)``: it is cheap to represent small layers accurately.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prernn.layers.arguments import SEEDS, real, whole
from prernn.layers.computed_weights import copy_of, settle
from prernn.reports.tables import text_table
from prernn.sparsity.quantization.coding import coded_bits
from prernn.sparsity.quantization.correction import correct as corrected
from prernn.sparsity.quantization.correction import layer_statistics
from prernn.sparsity.quantization.counts import ORDERS, SAMPLERS, SCALES, bits_of, signed_counts
from prernn.sparsity.quantization.sensitivity import output_noise, samples_by_noise
from prernn.sparsity.quantization.synthetic_inputs import synthetic_inputs
from prernn.sparsity.quantization.weights import Weight, weights_of

ALLOCATION = 1 / 3
"""Exponent that relates a layer's samples per weight to its number of weights: see above."""
OUTPUTS = "outputs"
"""Allocates samples by how much each layer's noise changes the outputs."""


TALK: dict[str, Any] = {"sampler": "random", "scale": "neuron", "order": "natural", "allocation": 0.0}
"""Options of `quantize` as in the talk: every neuron is a separate density, sampled at random, unsorted."""


def quantize(
    module: nn.Module,
    samples_per_weight: float = 1.0,
    *,
    sampler: str = "systematic",
    scale: str = "layer",
    order: str = "sign",
    allocation: float | str = ALLOCATION,
    correct: bool = False,
    inputs: Tensor | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``module`` whose weights are integers times a scale: signed counts of samples of the trained weights.

    Example:
        >>> import prernn, torch
        >>> layer = torch.nn.Linear(64, 32)
        >>> small = prernn.quantize(layer, samples_per_weight=2)
        >>> prernn.quantization_report(small).bits < 6
        True

    The weights in `prernn.sparsity.quantization.weights.NEURONS` are quantized: linear layers, convolutions, recurrent
    and path layers. The copy computes with the products of counts and scale in its own type; next to each weight it has
    buffers ``weight_counts``, in the smallest integer type, and ``weight_scale``. Quantized weights are not trainable.

    Args:
        module: any module, such as a `RecurrentNetwork`; it is not changed.
        samples_per_weight: samples per weight in the whole module; ``allocation`` determines each layer's share.
        sampler: "systematic" (one offset for all strata), "jittered" (an offset for each stratum), "sobol" (the first
            component of the sequence, shifted by one offset) or "random" (independent).
        scale: one scale for each "layer", or for each "neuron", whose weights then are a separate density. All neurons
            of a layer then get the same number of samples, rounded, and at least one.
        order: order of the weights along the unit interval, "sign" or "natural".
        allocation: exponent ``e``: a layer of ``n`` weights gets ``n**-e`` samples per weight, times a constant that
            gives the total. "outputs" measures how much each layer's noise changes the outputs (see `output_noise`).
        correct: correct batch normalization and biases for the errors of the weights (see `layer_statistics`).
        inputs: inputs for these measurements; None synthesizes some, only for a `RecurrentNetwork`
            (`prernn.synthetic_inputs`).
        seed: seed of all samples.

    Raises:
        ValueError: samples that are negative, too many or not a number, an unknown sampler, scale, order or allocation,
            missing inputs, weights that are not finite, no weights to quantize, or a module that is already quantized.
    """
    _check(sampler=(sampler, SAMPLERS), scale=(scale, SCALES), order=(order, ORDERS))
    share = real("samples_per_weight", samples_per_weight, 0)
    allocation = allocation if allocation == OUTPUTS else real("allocation", allocation, -8, 8)
    module = settle(copy_of(module))
    found = _trained_weights(module)
    if inputs is None and (correct or allocation == OUTPUTS):
        inputs = synthetic_inputs(module)
    generator = torch.Generator().manual_seed(whole("seed", seed, *SEEDS))
    draw = functools.partial(_draw, sampler=sampler, scale=scale, order=order, generator=generator)
    samples = _samples(module, found, share, allocation, draw, inputs)
    wanted = layer_statistics(module, inputs) if correct and inputs is not None else {}
    for weight, own in zip(found, samples.tolist(), strict=True):
        weight.set(*draw(weight, own))
    if wanted and inputs is not None:
        corrected(module, wanted, inputs)
    return module


def _samples(
    module: nn.Module,
    found: "list[Weight]",
    share: float,
    allocation: float | str,
    draw: Callable[..., tuple[Tensor, Tensor]],
    inputs: Tensor | None,
) -> Tensor:
    """The number of samples for each weight tensor."""
    sizes = torch.tensor([int((weight.neuron >= 0).sum()) for weight in found], dtype=torch.float64)
    if isinstance(allocation, str):
        assert inputs is not None

        def quantized(place: int) -> Tensor:
            return found[place].product(*draw(found[place], share * float(sizes[place])))

        noise = output_noise(module, [weight.values for weight in found], quantized, inputs)
        samples = sizes * samples_by_noise(noise, sizes)
    else:
        samples = sizes.pow(1 - allocation)
    return samples * (share * sizes.sum() / samples.sum())


def _draw(weight: "Weight", samples: float, **options: Any) -> tuple[Tensor, Tensor]:
    try:
        return signed_counts(weight.values, weight.neuron, samples, **options)
    except ValueError as error:
        raise ValueError(f"{weight.name}: {error}") from None


def _trained_weights(module: nn.Module) -> "list[Weight]":
    """The weights to quantize; raises ValueError as in `quantize` if there are none, or they are already quantized."""
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
class QuantizedLayer:
    """The result of quantization for one parameter.

    Attributes:
        weights: number of weights.
        samples: number of samples drawn.
        bits: bits per count, given their range.
        coded: bits per count in a file, where frequent counts have short codes (see `pack`).
        nonzero: share of the weights that are not 0.
        scale: the scale, or its mean if each neuron has its own.
    """

    name: str
    weights: int
    samples: int
    bits: int
    coded: float
    nonzero: float
    scale: float


@dataclass(frozen=True)
class QuantizationReport:
    """Layer by layer; ``bits``, ``coded`` and ``nonzero`` are averages over all weights."""

    rows: tuple[QuantizedLayer, ...]

    @property
    def weights(self) -> int:
        """Number of quantized weights."""
        return sum(row.weights for row in self.rows)

    @property
    def samples(self) -> int:
        """Number of samples drawn."""
        return sum(row.samples for row in self.rows)

    @property
    def bits(self) -> float:
        """Bits per weight, on average."""
        return sum(row.bits * row.weights for row in self.rows) / self.weights

    @property
    def coded(self) -> float:
        """Bits per weight in a file, on average."""
        return sum(row.coded * row.weights for row in self.rows) / self.weights

    @property
    def nonzero(self) -> float:
        """Share of the weights that are not 0."""
        return sum(row.nonzero * row.weights for row in self.rows) / self.weights

    def __iter__(self) -> Iterator[QuantizedLayer]:
        return iter(self.rows)

    def table(self) -> str:
        """A text table with one line per layer and a total."""
        head = ("layer", "weights", "samples", "bits", "in a file", "non-zero", "scale")
        lines = [
            (
                x.name,
                f"{x.weights:,}",
                f"{x.samples:,}",
                f"{x.bits}",
                f"{x.coded:.2f}",
                f"{x.nonzero:.1%}",
                f"{x.scale:.4g}",
            )
            for x in self.rows
        ]
        sums = (
            f"{self.weights:,}",
            f"{self.samples:,}",
            f"{self.bits:.2f}",
            f"{self.coded:.2f}",
            f"{self.nonzero:.1%}",
        )
        total = ("all", *sums, "")
        return text_table([head, *lines, total])


def quantization_report(module: nn.Module) -> QuantizationReport:
    """The result of `quantize` for each layer of a module.

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
    bits, coded = bits_of(inside), coded_bits(inside)
    return QuantizedLayer(weight.name, len(inside), samples, bits, coded, nonzero, float(weight.scale.mean()))
