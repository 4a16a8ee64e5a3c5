"""Learning rates of a network's parts: sparse recurrences learn faster."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from prernn.layers.cells import LinearCell
from prernn.layers.input_to_hidden import StructuredLinear
from prernn.layers.recurrent_layer import RecurrentLayer

SPARSE_POWER = 0.5
"""Exponent of D over the fan-in; see `rate_factors`."""


def rate_factors(module: nn.Module, power: float = SPARSE_POWER) -> dict[nn.Parameter, float]:
    """The factors of the learning rate that suit each sparse ``W_hh`` of a module: ``(D / fan_in) ** power``.

    The same for each sparse ``W_ih`` of a stacked layer (`prernn.traditional`), ``(I / fan_in) ** power``.

    A unit's recurrent input is a sum over its fan-in n. Weights start within ``1 / sqrt(n)``, so that the sum starts at
    the same scale for any n; a step of gradient descent changes each weight by about the same amount, and so the sum in
    proportion to n. Of D units, the n weights of a sparse unit move the sum n / D times as far as the D weights of a
    full one, but they would have to move it ``sqrt(D / n)`` times as far for the same change relative to their initial
    values. That is the power 0.5. On the embedded data set, 1 learns no better, and 0, one rate for all, much worse
    (docs/results.md).

    The same holds for inputs, with I in place of D. Full structures have no entry. Nor have the units of an RCN, whose
    ``W_hh`` starts as the identity.

    Example:
        >>> import prernn
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16).eval()
        >>> net = prernn.convert(cnn, "fc6", cell="gru", hidden="diagonal")
        >>> [(tuple(weight.shape), factor) for weight, factor in rate_factors(net).items()]
        [((3, 16), 4.0)]
    """
    recurrent = {
        layer.hidden_to_hidden.weight: (layer.hidden_size / fan_in) ** power
        for layer in module.modules()
        if isinstance(layer, RecurrentLayer) and not isinstance(layer.cell, LinearCell)
        if (fan_in := layer.hidden_to_hidden.structure.fan_in(layer.hidden_size)) < layer.hidden_size
    }
    projections = {
        layer.weight: (layer.input_size / layer.fan_in) ** power
        for layer in module.modules()
        if isinstance(layer, StructuredLinear) and layer.fan_in < layer.input_size
    }
    return recurrent | projections


def rate_groups(
    name: str, parameters: Iterable[nn.Parameter], rate: float, factors: dict[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: those with the base rate under ``name``, then one group for each other rate."""
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in parameters:
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [
        {"params": each, "lr": rate * factor, "name": name if factor == 1 else f"{name}_x{factor:.3g}"}
        for factor, each in groups.items()
        if each
    ]
