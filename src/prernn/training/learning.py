"""How a network learns: learning rates and schedules."""

from dataclasses import dataclass, field
from typing import Literal

from prernn.training.continuity import Continuity
from prernn.training.rates import SPARSE_POWER


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule (PreRNN supplement, section 1).

    Attributes:
        kind: "constant"; "step": times ``factor`` after every ``every`` epochs from epoch ``start`` on;
            "plateau": times ``factor`` once the training loss has not come down for ``every`` epochs.
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
            `prernn.training.rates.rate_factors`; 0 is one rate for all.
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
