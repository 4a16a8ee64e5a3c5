"""Dropout of recurrent layers in training: one mask for all steps of a sequence, or a new one for each."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import real
from prernn.layers.hidden_to_hidden import RecurrentWeights
from prernn.ops.reference import Product


@dataclass(frozen=True)
class Dropout:
    """Dropout of the recurrent layers of a network, in training only.

    A unit's gate inputs ``u_t`` are dropped for all its gates, and a state ``h_{t-1}`` only where the recurrent product
    reads it, ``W_hh (m * h_{t-1})``; the paths around the product, such as ``(1 - z) h_{t-1}`` in a GRU and c in an
    LSTM, are not affected. The remaining values are divided by ``1 - p``, so that evaluation needs no factor. In
    feature maps, whole channels are dropped. `Continuity` handles noise and dropout of states between batches.

    The layers that follow see the outputs with separate dropout, ``m * h_t``, which the recurrence itself does not see.
    Single weights of ``W_hh`` can be dropped in their compact form, by one mask for a sequence and all its videos
    (DropConnect on the hidden-to-hidden weights: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language
    Models", ICLR 2018, section 2).

    With one mask for all steps this is the variational dropout of Gal and Ghahramani ("A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks", NeurIPS 2016). A sequence is the input of one call of the
    network: when a row's state continues in the next batch, new masks are drawn.

    Attributes:
        inputs: share of the units whose gate inputs are set to 0.
        states: share of the units that are hidden from the recurrent product.
        each_step: draw new masks at each step, as ordinary dropout does, instead of once per sequence; masks of weights
            are always drawn once.
        outputs: share of the units that are hidden from the layers that follow.
        weights: share of the weights of ``W_hh`` that are set to 0.

    Raises:
        ValueError: a share that is below 0, or 1 or more.
    """

    inputs: float = 0.0
    states: float = 0.0
    each_step: bool = False
    outputs: float = 0.0
    weights: float = 0.0

    def __post_init__(self) -> None:
        for name in ("inputs", "states", "outputs", "weights"):
            if real(f"dropout {name}", getattr(self, name), 0, 1) == 1:
                raise ValueError(f"dropout {name}: expected a share below 1, got 1")

    @property
    def any(self) -> bool:
        """Whether anything is dropped."""
        return bool(self.inputs or self.states or self.outputs or self.weights)

    def draw(self, rows: int, like: Tensor, weight: Tensor) -> "Masks":
        """Masks for a sequence of ``rows`` videos, with the number of units and the type of ``like (G, D)``.

        ``weight`` is the compact weight of ``W_hh``.
        """
        ones = like.new_ones(rows, like.shape[1])
        weights = F.dropout(torch.ones_like(weight), self.weights) if self.weights else None
        if self.each_step:
            return Masks(self, weights=weights)
        inputs, states, outputs = (
            F.dropout(ones, share) if share else None for share in (self.inputs, self.states, self.outputs)
        )
        return Masks(self, inputs, states, outputs, weights)


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one sequence.

    Attributes:
        dropout: the settings that they were drawn from.
        inputs: factors of the units' gate inputs, 0 or ``1 / (1 - p)``, ``(B, D)``; None if they are drawn at each
            step, or if nothing is dropped.
        states: the same for states.
        outputs: the same for outputs.
        weights: factors of the recurrent weights, in their compact shape.
    """

    dropout: Dropout
    inputs: Tensor | None = None
    states: Tensor | None = None
    outputs: Tensor | None = None
    weights: Tensor | None = None

    def of_rows(self, rows: Tensor) -> "Masks":
        """The masks of some of the videos."""
        units = {name: getattr(self, name) for name in ("inputs", "states", "outputs")}
        return replace(self, **{name: mask[rows] for name, mask in units.items() if mask is not None})

    def on_inputs(self, u: Tensor) -> Tensor:
        """Gate inputs ``(T, B, G, D...)`` with dropout."""
        units = self._of_steps(self.inputs, self.dropout.inputs, u[:, :, 0])
        return u if units is None else u * units.unsqueeze(2)

    def on_outputs(self, out: Tensor) -> Tensor:
        """Outputs ``(T, B, D...)`` with dropout."""
        units = self._of_steps(self.outputs, self.dropout.outputs, out)
        return out if units is None else out * units

    def _of_steps(self, mask: Tensor | None, share: float, values: Tensor) -> Tensor | None:
        """Factors for ``values (T, B, D...)``: from ``mask (B, D)``, or drawn for each step; None without dropout."""
        if mask is not None:
            mask = mask.unsqueeze(0)  # (1, B, D)
        elif self.dropout.each_step and share:
            mask = F.dropout(values.new_ones(values.shape[:3]), share)  # (T, B, D)
        return None if mask is None else mask.view(*mask.shape, *[1] * (values.ndim - 3))

    def on_weights(self, weights: RecurrentWeights, places: int) -> "RecurrentWeights | DroppedWeights":
        """Recurrent weights with dropout, which also see states with dropout; each video has ``places`` rows."""
        if self.weights is not None:
            weights = replace(weights, weight=weights.weight * self.weights)
        if not self.dropout.states:
            return weights
        mask = None if self.states is None else self.states.repeat_interleave(places, dim=0)
        return DroppedWeights(weights, self.dropout.states, places, mask)


@dataclass(frozen=True)
class DroppedWeights:
    """Recurrent weights whose products see states with dropout, for the reference: no kernel supports masks."""

    weights: RecurrentWeights
    share: float
    places: int
    mask: Tensor | None  # (B * places, D); None draws one for each product

    @property
    def weight(self) -> Tensor:
        """The compact weight, gates first."""
        return self.weights.weight

    @property
    def bias(self) -> Tensor | None:
        """``(G, D)``."""
        return self.weights.bias

    def band(self) -> None:
        """None, which tells the kernels that they can't compute this."""

    def products(self, groups: tuple[tuple[int, int], ...]) -> list[Product]:
        """``W_hh (m * h) + b`` for each range of gates."""
        return [self._behind(product) for product in self.weights.products(groups)]

    def _behind(self, product: Product) -> Product:
        return lambda h: product(h * (self._drawn(h) if self.mask is None else self.mask))

    def _drawn(self, h: Tensor) -> Tensor:
        ones = h.new_ones(h.shape[0] // self.places, h.shape[1])
        return F.dropout(ones, self.share).repeat_interleave(self.places, dim=0)


class Dropping(Protocol):
    """A layer with dropout, whose masks can be set from outside."""

    dropout: Dropout
    masks: Masks | None

    def draw_masks(self, rows: int) -> Masks | None:
        """Masks for a sequence of ``rows`` videos: those set by `lent` if any, else new ones; None without dropout."""


def drop(layers: Sequence[Dropping], dropout: Dropout) -> None:
    """Sets the dropout of layers in training."""
    for layer in layers:
        layer.dropout = dropout


@contextlib.contextmanager
def lent(layers: Sequence[Dropping], masks: Sequence[Masks | None]) -> Iterator[None]:
    """Makes layers use these masks within a block, for parts of one sequence that must share masks."""
    before = [layer.masks for layer in layers]
    for layer, mask in zip(layers, masks, strict=True):
        layer.masks = mask
    try:
        yield
    finally:
        for layer, mask in zip(layers, before, strict=True):
            layer.masks = mask


def of_rows(masks: Sequence[Masks | None], rows: Tensor) -> list[Masks | None]:
    """Each layer's masks for some of the videos."""
    return [None if mask is None else mask.of_rows(rows) for mask in masks]
