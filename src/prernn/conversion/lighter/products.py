"""A CNN's fc layers by the faster matrix product, for as long as a pass of training takes."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor, nn

from prernn.conversion.modes import lent_forwards
from prernn.ops.input_projection import linear


def plain_layers(cnn: nn.Module) -> list[nn.Linear]:
    """Its fc layers that are torch's own."""
    return [part for part in cnn.modules() if type(part) is nn.Linear]


@contextlib.contextmanager
def faster_products(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Lets fc layers compute as `prernn.ops.input_projection.linear` for a while, with the same weights."""
    chosen = [layer for layer in layers if "forward" not in vars(layer)]
    with lent_forwards({layer: partial(_forward, layer) for layer in chosen}):
        yield


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
