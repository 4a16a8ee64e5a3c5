"""How active the layers of a network are, and what sampling its activations saves."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prernn.conversion.modes import evaluating
from prernn.layers.input_to_hidden import GateInput, SingleInput, StructuredLinear
from prernn.reports.tables import text_table
from prernn.sparsity.online import row_rank, rows_of, sampling_layers, sampling_of, weighted_layer


@dataclass(frozen=True)
class LayerActivity:
    """Inputs and work of one layer in a run.

    Attributes:
        inputs: number of activations in a row: a picture for a convolution, a vector for a linear layer.
        samples: number of samples ``N`` per row, of activations, channels or positions, whichever are drawn; None if
            the layer is not sampled.
        non_zero: share of the activations that were not zero before sampling.
        used: share of the activations that are not zero after sampling.
        multiply_adds: multiply-adds for one picture, not counting those with a convolution's own zero padding.
        remaining: the multiply-adds with an activation that is not zero after sampling.
    """

    name: str
    inputs: int
    samples: int | None
    non_zero: float
    used: float
    multiply_adds: float
    remaining: float


@dataclass(frozen=True)
class ActivationReport:
    """Inputs and work of a network's layers in one run, in order; averages are over the layers that are sampled.

    If no layer is sampled, averages are over all layers.
    """

    layers: tuple[LayerActivity, ...]

    @property
    def non_zero(self) -> float:
        """Mean share of activations that were not zero before sampling."""
        return self._mean([layer.non_zero for layer in self._averaged])

    @property
    def used(self) -> float:
        """Mean share of activations that are not zero after sampling (the talk's "a_ij != 0")."""
        return self._mean([layer.used for layer in self._averaged])

    @property
    def used_of_non_zero(self) -> float:
        """Mean share of used activations among those that were not zero before sampling (the talk's "used a_i")."""
        return self._mean([layer.used / layer.non_zero for layer in self._averaged if layer.non_zero])

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of all layers, for one picture."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def remaining(self) -> float:
        """Multiply-adds that remain if zeros are skipped."""
        return sum(layer.remaining for layer in self.layers)

    @property
    def _averaged(self) -> list[LayerActivity]:
        return [layer for layer in self.layers if layer.samples is not None] or list(self.layers)

    @staticmethod
    def _mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values else math.nan

    def table(self) -> str:
        """A text table with one line per layer and one for averages and sums."""
        head = ("layer", "inputs", "samples", "non-zero", "used", "multiply-adds", "remaining")
        rows: list[tuple[str | float, ...]] = [
            (x.name, x.inputs, "" if x.samples is None else x.samples, x.non_zero, x.used, x.multiply_adds, x.remaining)
            for x in self.layers
        ]
        rows.append(("all", "", "", self.non_zero, self.used, self.multiply_adds, self.remaining))
        return text_table([head, *(tuple(map(_text, head, row)) for row in rows)])


def _text(column: str, value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{100 * value:.2f}%" if column in ("non-zero", "used") else f"{value:,.0f}"


def activation_report(module: nn.Module, *inputs: Any) -> ActivationReport:
    """Runs a network once, in evaluation mode, and counts the activations that its layers see and use.

    Layers that did not run are left out, and so are recurrent products, because states are not sampled.

    Args:
        module: the result of `online_sparsity`; for other networks the report shows how sparse their activations are.
        inputs: inputs of the module.
    """
    counts = [_Counts(name, layer) for name, layer in sampling_layers(module)]
    hooks = [hook for count in counts for hook in count.watch()]
    try:
        with torch.no_grad(), evaluating(module):
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return ActivationReport(tuple(count.activity() for count in counts if count.pictures))


class _Counts:
    """Sums over the calls of one layer."""

    def __init__(self, name: str, layer: nn.Module):
        self.name, self.layer = name, layer
        self.pictures = self.total = self.width = 0
        self.samples: int | None = None
        self.before = self.after = self.dense = self.left = 0.0

    def watch(self) -> list[RemovableHandle]:
        """Hooks before and after the layer's own."""
        register = self.layer.register_forward_pre_hook
        return [register(self._see_before, prepend=True), register(self._see_after)]

    def _see_before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = rows_of(layer, inputs[0])
        self.width = rows.shape[1]
        if sampling := sampling_of(layer):
            self.samples = sampling.samples(sampling.parts(layer, inputs[0]))
        self.total += rows.numel()
        self.before += float((rows != 0).sum())

    def _see_after(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        self.after += float((x != 0).sum())
        if isinstance(layer, SingleInput):
            x, _ = layer.pooled(x, ())
        gates = 1 + len(layer.copies) if isinstance(layer, GateInput) else 1
        weighted = weighted_layer(layer)
        self.pictures += len(x) if x.ndim > row_rank(weighted) else 1
        self.dense += gates * _products(weighted, torch.ones_like(x, dtype=torch.float64))
        self.left += gates * _products(weighted, (x != 0).double())

    def activity(self) -> LayerActivity:
        """The shares, and the multiply-adds of one picture."""
        return LayerActivity(
            name=self.name,
            inputs=self.width,
            samples=self.samples,
            non_zero=self.before / self.total,
            used=self.after / self.total,
            multiply_adds=self.dense / self.pictures,
            remaining=self.left / self.pictures,
        )


def _products(layer: Any, mask: Tensor) -> float:
    """Multiply-adds of a layer with the activations whose ``mask`` is 1, not 0."""
    if isinstance(layer, nn.Linear):
        return float(mask.sum()) * layer.out_features
    if isinstance(layer, StructuredLinear):
        heard = layer.structure.mask(layer.size, layer.input_size).sum(0).to(mask)  # neurons that receive each input
        return layer.gates * float((mask * heard).sum())
    # one output of each group tells how many nonzero inputs each position reads
    weight = torch.ones_like(layer.weight[: layer.groups], dtype=torch.float64)
    reads: Tensor = layer._conv_forward(mask, weight, None)  # (B, groups, H', W')
    outputs: int = layer.out_channels // layer.groups
    return float(reads.sum()) * outputs
