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
    """Dropout of the recurrent layers of a network, in training alone.

    A unit's gate inputs ``u_t`` are dropped for all its gates, and a state ``h_{t-1}`` where the recurrent product
    reads it, ``W_hh (m * h_{t-1})``; the cell's own way past the product, such as ``(1 - z) h_{t-1}`` of a GRU and the
    c of an LSTM, is left alone. What stays is divided by ``1 - p``, so that evaluation needs no factor. In feature maps
    whole channels are dropped. Noise and dropout of states between batches are `Continuity`'s.

    What is behind a layer sees its outputs with dropout of their own, ``m * h_t``, which the recurrence itself does not
    see; and single weights of ``W_hh`` can be dropped, in their compact form, by one mask for a sequence and all its
    videos (DropConnect on the hidden-to-hidden weights: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM
    Language Models", ICLR 2018, section 2).

    With one mask for all steps this is the variational dropout of Gal and Ghahramani ("A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks", NeurIPS 2016). A sequence is what one call of the network
    gets: the next batch of a row whose state goes on has masks of its own.

    Attributes:
        inputs: share of the units whose gate inputs are set to 0.
        states: share of the units that the recurrent product does not see.
        each_step: draw anew at each step, as ordinary dropout does, and not once for a sequence; weights are always
            drawn once.
        outputs: share of the units that what is behind a layer does not see.
        weights: share of the weights of ``W_hh`` that are set to 0.

    Raises:
        ValueError: a share that is not from 0 to below 1.
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
        """Whether there is any."""
        return bool(self.inputs or self.states or self.outputs or self.weights)

    def draw(self, rows: int, like: Tensor, weight: Tensor) -> "Masks":
        """Masks of a sequence of ``rows`` videos, for as many units as ``like (G, D)`` has, of its type.

        ``weight`` is the compact one of ``W_hh``.
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
    """What is dropped of a sequence.

    Attributes:
        dropout: of which they are.
        inputs: factors of units, 0 or ``1 / (1 - p)``, ``(B, D)``; None where they are drawn at each step, or where
            nothing is dropped.
        states: the same of states.
        outputs: the same of outputs.
        weights: factors of the recurrent weights, as compact as they are.
    """

    dropout: Dropout
    inputs: Tensor | None = None
    states: Tensor | None = None
    outputs: Tensor | None = None
    weights: Tensor | None = None

    def of_rows(self, rows: Tensor) -> "Masks":
        """Those of some of the videos."""
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
        """Factors for ``values (T, B, D...)``: of ``mask (B, D)``, or drawn for each step; None for none."""
        if mask is not None:
            mask = mask.unsqueeze(0)  # (1, B, D)
        elif self.dropout.each_step and share:
            mask = F.dropout(values.new_ones(values.shape[:3]), share)  # (T, B, D)
        return None if mask is None else mask.view(*mask.shape, *[1] * (values.ndim - 3))

    def on_weights(self, weights: RecurrentWeights, places: int) -> "RecurrentWeights | DroppedWeights":
        """Recurrent weights with dropout, that see a state with dropout; a video has ``places`` rows in it."""
        if self.weights is not None:
            weights = replace(weights, weight=weights.weight * self.weights)
        if not self.dropout.states:
            return weights
        mask = None if self.states is None else self.states.repeat_interleave(places, dim=0)
        return DroppedWeights(weights, self.dropout.states, places, mask)


@dataclass(frozen=True)
class DroppedWeights:
    """Recurrent weights whose products see a state with dropout: for the reference, as no kernel knows of masks."""

    weights: RecurrentWeights
    share: float
    places: int
    mask: Tensor | None  # (B * places, D); None draws one for each product

    @property
    def weight(self) -> Tensor:
        """Compact, the gates first."""
        return self.weights.weight

    @property
    def bias(self) -> Tensor | None:
        """``(G, D)``."""
        return self.weights.bias

    def band(self) -> None:
        """None, which is how kernels are told that they can't."""

    def products(self, groups: tuple[tuple[int, int], ...]) -> list[Product]:
        """``W_hh (m * h) + b`` for each range of gates."""
        return [self._behind(product) for product in self.weights.products(groups)]

    def _behind(self, product: Product) -> Product:
        return lambda h: product(h * (self._drawn(h) if self.mask is None else self.mask))

    def _drawn(self, h: Tensor) -> Tensor:
        ones = h.new_ones(h.shape[0] // self.places, h.shape[1])
        return F.dropout(ones, self.share).repeat_interleave(self.places, dim=0)


class Dropping(Protocol):
    """A layer that drops, and may be lent masks."""

    dropout: Dropout
    masks: Masks | None

    def draw_masks(self, rows: int) -> Masks | None:
        """Masks of a sequence of so many videos, those that it is lent where it is; None where nothing is dropped."""


def drop(layers: Sequence[Dropping], dropout: Dropout) -> None:
    """Lets layers drop so in training."""
    for layer in layers:
        layer.dropout = dropout


@contextlib.contextmanager
def lent(layers: Sequence[Dropping], masks: Sequence[Masks | None]) -> Iterator[None]:
    """Lets layers drop by these masks for a while, as parts of one sequence do."""
    before = [layer.masks for layer in layers]
    for layer, mask in zip(layers, masks, strict=True):
        layer.masks = mask
    try:
        yield
    finally:
        for layer, mask in zip(layers, before, strict=True):
            layer.masks = mask


def of_rows(masks: Sequence[Masks | None], rows: Tensor) -> list[Masks | None]:
    """Each layer's masks of some of the videos."""
    return [None if mask is None else mask.of_rows(rows) for mask in masks]
