"""Penalties on the last recurrent layer's outputs: on how large they are, and on how fast they change."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.sequence_network import SequenceNetwork


class Activity:
    """``activity mean(h_t**2) + slowness mean((h_t - h_{t-1})**2)`` of the last recurrent layer's outputs in training.

    Activation regularization and temporal activation regularization (Merity, McCann and Socher, "Revisiting Activation
    Regularization for Language RNNs", 2017), over all units, steps and videos, including padding. Both see the outputs
    as the layers behind do, with dropout.

    Args:
        network: the network, whose last recurrent layer is used.
        activity: weight of the first term.
        slowness: weight of the second term.

    Raises:
        ValueError: the network has no recurrent layer.
    """

    def __init__(self, network: SequenceNetwork, activity: float, slowness: float) -> None:
        self.activity, self.slowness = activity, slowness
        if not network.recurrent_layers:
            raise ValueError("learning activity, slowness: expected a network with a recurrent layer, got one without")
        self._layer = network.recurrent_layers[-1]

    @contextlib.contextmanager
    def noted(self) -> Iterator[list[Tensor]]:
        """Yields a list that collects the layer's outputs ``(T, B, D...)`` of each run inside the context."""
        found: list[Tensor] = []

        def note(layer: nn.Module, given: tuple[Any, ...], result: tuple[Tensor, Any]) -> None:
            batch = given[1][0].shape[0]  # of the state
            found.append(result[0].unflatten(0, (-1, batch)))

        handle = self._layer.register_forward_hook(note)
        try:
            yield found
        finally:
            handle.remove()

    def penalty(self, outputs: Sequence[Tensor]) -> Tensor:
        """The penalty of outputs ``(T, B, D...)``; parts of a batch are weighted by their sizes."""
        total, count = outputs[0].new_zeros(()), sum(out.numel() for out in outputs)
        for out in outputs:
            change = out.diff(dim=0).square().mean() if len(out) > 1 else torch.zeros_like(total)
            total = total + out.numel() / count * (self.activity * out.square().mean() + self.slowness * change)
        return total
