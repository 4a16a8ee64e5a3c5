"""Runs a CNN's fc layers with the faster matrix product, during a training pass."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor, nn

from prernn.conversion.modes import lent_forwards
from prernn.ops.input_projection import linear


def plain_layers(cnn: nn.Module) -> list[nn.Linear]:
    """A CNN's fc layers that are exactly torch's own class."""
    return [part for part in cnn.modules() if type(part) is nn.Linear]


@contextlib.contextmanager
def faster_products(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Makes fc layers use `prernn.ops.input_projection.linear` within a block, with the same weights."""
    chosen = [layer for layer in layers if "forward" not in vars(layer)]
    with lent_forwards({layer: partial(_forward, layer) for layer in chosen}):
        yield


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
