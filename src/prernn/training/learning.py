"""How a network learns: learning rates and schedules."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from prernn.layers.cells import LinearCell
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.training.continuity import Continuity

SPARSE_POWER = 0.5
"""Of D over the fan-in; see `rate_factors`."""


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule (PreRNN supplement, section 1).

    Attributes:
        kind: "constant"; "step": times ``factor`` after every ``every`` epochs from epoch ``start`` on;
            "plateau": times ``factor`` once the training loss has not come down for ``every`` epochs; any fall
            below the lowest so far counts, however small.
        every: epochs.
        start: epochs before the first interval begins.
        factor: of the learning rate.
        stop_at: end training when the new part's learning rate comes down to this, before an epoch at that rate.

    Action recognition: ``step``, every 10, factor 0.5. Face alignment: ``step``, every 5, start 10, factor 0.5.
    Hand gestures: ``plateau``, every 40, factor 0.1, stop_at 3e-7.
    """

    kind: Literal["constant", "step", "plateau"] = "step"
    every: int = 10
    start: int = 0
    factor: float = 0.5
    stop_at: float = 0.0

    def __post_init__(self) -> None:
        if self.every < 1 or self.start < 0:
            raise ValueError(f"schedule: expected every >= 1 and start >= 0 epochs, got {self.every} and {self.start}")
        if not 0 < self.factor <= 1 or self.stop_at < 0:
            wanted = "a factor above 0 and at most 1, and stop_at >= 0"
            raise ValueError(f"schedule: expected {wanted}, got {self.factor} and {self.stop_at}")

    def rate(self, epoch: int) -> float:
        """Share of the base learning rate in an epoch (not for plateaus)."""
        if self.kind == "constant" or epoch < self.start:
            return 1.0
        return self.factor ** ((epoch - self.start) // self.every)


@dataclass(frozen=True)
class Learning:
    """How a network learns, with one learning rate for each part (PreRNN supplement, section 1).

    Attributes:
        lr: learning rate of the new part (``W_hh``, recurrent biases, new output layer, a traditional RNN).
        pretrained_lr: learning rate of the pre-trained part; 0 leaves it as it is.
        optimizer: "sgd", with momentum, which is the paper's; or "adamw" (Loshchilov and Hutter, "Decoupled Weight
            Decay Regularization", ICLR 2019), for networks that learn from nothing: its rates are near 1e-3.
        momentum: of SGD.
        weight_decay: on all weights.
        schedule: of both learning rates.
        frozen_statistics: keep batch normalization on its pre-computed statistics throughout.
        checkpoint: frames at a time that are computed again on the way back, for long clips; see `RecurrentNetwork`.
        continuity: how states go on from clip to clip.
        sparse_power: a sparse ``W_hh`` learns at ``(D / fan_in) ** sparse_power`` times the rate, see
            `rate_factors`; 0 is one rate for all.
    """

    lr: float = 1e-2
    pretrained_lr: float = 3e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = field(default_factory=Schedule)
    frozen_statistics: bool = True
    checkpoint: int | None = None
    continuity: Continuity = field(default_factory=Continuity)
    sparse_power: float = SPARSE_POWER


DEFAULT_LEARNING = Learning()


def rate_factors(module: nn.Module, power: float = SPARSE_POWER) -> dict[nn.Parameter, float]:
    """How many times the learning rate suits each sparse ``W_hh`` of a module: ``(D / fan_in) ** power``.

    A unit's recurrent input is a sum over its fan-in n. Weights start within ``1 / sqrt(n)``, so that the sum starts at
    one scale whatever n is; a step of gradient descent changes each weight by about the same, and so the sum in
    proportion to n. Of D units, a sparse unit's n weights move the sum n / D times as far as a full one's D, and they
    would have to move ``sqrt(D / n)`` times as far to change as much in proportion to what they start from. That is the
    power 0.5. On the embedded data set 1 learns no better than it, and 0, one rate for all, much worse
    (docs/results.md).

    Full structures have no entry. Neither have the units of an RCN, whose ``W_hh`` starts as the identity.

    Example:
        >>> import prernn
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16).eval()
        >>> net = prernn.convert(cnn, "fc6", cell="gru", hidden="diagonal")
        >>> [(tuple(weight.shape), factor) for weight, factor in rate_factors(net).items()]
        [((3, 16), 4.0)]
    """
    return {
        layer.hidden_to_hidden.weight: (layer.hidden_size / fan_in) ** power
        for layer in module.modules()
        if isinstance(layer, RecurrentLayer) and not isinstance(layer.cell, LinearCell)
        if (fan_in := layer.hidden_to_hidden.structure.fan_in(layer.hidden_size)) < layer.hidden_size
    }


def rate_groups(
    name: str, parameters: Iterable[nn.Parameter], rate: float, factors: dict[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: those of one rate under ``name``, then a group for each other rate."""
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in parameters:
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [
        {"params": each, "lr": rate * factor, "name": name if factor == 1 else f"{name}_x{factor:.3g}"}
        for factor, each in groups.items()
        if each
    ]
