"""How a network learns: learning rates, their schedule, and regularization against memorizing the training videos."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from prernn.layers.arguments import real, whole
from prernn.layers.dropout import Dropout
from prernn.training.continuity import Continuity
from prernn.training.learning.phases import FirstPhase
from prernn.training.learning.rates import SPARSE_POWER
from prernn.training.learning.schedule import Schedule

Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Learning:
    """How a network learns, with one learning rate for each part (PreRNN supplement, section 1).

    Attributes:
        lr: learning rate of the new part (``W_hh``, recurrent biases, new output layer, a traditional RNN).
        pretrained_lr: learning rate of the pre-trained part; 0 leaves it unchanged.
        optimizer: "sgd", with momentum, as in the paper; or "adamw" (Loshchilov and Hutter, "Decoupled Weight
            Decay Regularization", ICLR 2019), for networks trained from scratch: its rates are near 1e-3.
        momentum: of SGD.
        weight_decay: on all parameters, unless ``selective_decay`` is set.
        selective_decay: weight decay spares biases, normalization, and in ``W_hh`` what joins a neuron to itself: see
            `prernn.training.learning.decay`. The papers state one weight decay, 5e-4, and spare nothing.
        schedule: of both learning rates.
        frozen_statistics: batch normalization keeps its pre-computed statistics throughout.
        checkpoint: number of frames at a time that are recomputed in the backward pass, for long clips; see
            `SequenceNetwork`.
        continuity: how states carry over from clip to clip.
        first: first phase, in which only the part behind the trunk learns.
        sparse_power: a sparse ``W_hh`` learns at ``(D / fan_in) ** sparse_power`` times the rate, see
            `rate_factors`; 0 is one rate for all.
        dropout: of the recurrent layers' inputs and states.
        clip_groups: ``trainer.gradient_clip_val`` limits the gradient's norm of each parameter group separately (the
            new part, the pre-trained one, each rate of sparse recurrences), not of all together.
        average: validate, test and keep the exponential moving average of the weights with this decay, such as 0.99
            or 0.999, instead of those that train; or with "tail" the mean of the weights since validation stopped
            improving, see `prernn.training.learning.averaging`. None keeps those that train.
        activity: weight of a penalty on the last recurrent layer's outputs, see `prernn.training.learning.activity`.
        slowness: weight of a penalty on how fast these change.
        patience: end training after this many validations without a better score; None trains all epochs.
    Raises:
        ValueError: numbers out of range.
    """

    lr: float = 1e-2
    pretrained_lr: float = 3e-4
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = field(default_factory=Schedule)
    frozen_statistics: bool = True
    checkpoint: int | None = None
    continuity: Continuity = field(default_factory=Continuity)
    first: FirstPhase = field(default_factory=FirstPhase)
    sparse_power: float = SPARSE_POWER
    selective_decay: bool = False
    dropout: Dropout = field(default_factory=Dropout)
    clip_groups: bool = False
    average: float | Literal["tail"] | None = None
    patience: int | None = None
    activity: float = 0.0
    slowness: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"learning optimizer: expected one of sgd, adamw, got {self.optimizer!r}")
        for name in ("lr", "pretrained_lr", "weight_decay", "sparse_power", "activity", "slowness"):
            real(f"learning {name}", getattr(self, name), 0)
        if real("learning momentum", self.momentum, 0, 1) == 1:
            raise ValueError("learning momentum: expected a number from 0, below 1, got 1")
        if isinstance(self.average, str):
            if self.average != "tail":
                raise ValueError(f'learning average: expected a decay or "tail", got {self.average!r}')
        elif self.average is not None and real("learning average", self.average, 0, 1) in (0, 1):
            raise ValueError(f"learning average: expected a decay between 0 and 1, got {self.average}")
        if self.patience is not None:
            whole("learning patience", self.patience)


DEFAULT_LEARNING = Learning()
