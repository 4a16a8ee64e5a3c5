"""Learning-rate schedules: per epoch, and per batch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from prernn.layers.arguments import real

RISE = 0.3
"""Share of training during which a one-cycle rate rises; as in torch."""
START, END = 1 / 25, 1 / 25e4
"""Initial and final rates of a one-cycle schedule, as shares of the highest; as in torch."""


Kind = Literal["constant", "step", "plateau", "cosine", "one_cycle"]


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule (PreRNN supplement, section 1).

    Attributes:
        kind: "constant"; "step": multiplied by the factor after each interval;
            "plateau": multiplied by it once the training loss has not decreased for an interval, where any value below
            the lowest so far is a decrease; "cosine": down to 0 at the end of training, half a cosine;
            "one_cycle": up and down, half a cosine each.
        every: number of epochs of an interval.
        start: number of epochs before the first interval begins.
        factor: factor of the learning rate.
        stop_at: end training when the new part's learning rate decreases to this, before an epoch at that rate.
        warm_up: number of epochs, possibly fractional, over which the rate rises linearly from 0, batch by batch; for
            "one_cycle", those during which the rate rises, and None is then 0.3 of training.

    Action recognition: ``step``, every 10, factor 0.5. Face alignment: ``step``, every 5, start 10, factor 0.5.
    Hand gestures: ``plateau``, every 40, factor 0.1, stop_at 3e-7. The cosine is that of Loshchilov and Hutter, "SGDR",
    ICLR 2017, without restarts; one cycle is Smith and Topin's ("Super-convergence", 2018), with the rates of
    `torch.optim.lr_scheduler.OneCycleLR`, at one momentum.

    Raises:
        ValueError: numbers out of range; stop_at with a rate that changes with each batch.
        NotImplementedError: a warm-up before a plateau.
    """

    kind: Kind = "step"
    every: int = 10
    start: int = 0
    factor: float = 0.5
    stop_at: float = 0.0
    warm_up: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"schedule kind: expected one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if self.every < 1 or self.start < 0:
            raise ValueError(f"schedule: expected every >= 1 and start >= 0 epochs, got {self.every} and {self.start}")
        if not 0 < self.factor <= 1 or self.stop_at < 0:
            wanted = "a factor above 0 and at most 1, and stop_at >= 0"
            raise ValueError(f"schedule: expected {wanted}, got {self.factor} and {self.stop_at}")
        if self.warm_up is not None:
            real("schedule warm_up", self.warm_up, 0)
        if self.kind == "plateau" and self.warm_up:
            raise NotImplementedError(f"schedule: expected no warm_up before a plateau, got {self.warm_up}")
        if self.each_batch and self.stop_at:
            wanted = "no stop_at if the rate changes with each batch (cosine, one_cycle, warm_up)"
            raise ValueError(f"schedule: expected {wanted}, got {self.stop_at}")

    @property
    def each_batch(self) -> bool:
        """Whether the rate changes with each batch, by `rate_at`, rather than with each epoch."""
        return self.kind in ("cosine", "one_cycle") or bool(self.warm_up)

    def rate(self, epoch: int) -> float:
        """Share of the base learning rate in an epoch (for kinds "constant" and "step", after a warm-up)."""
        if self.kind == "constant" or epoch < self.start:
            return 1.0
        return self.factor ** ((epoch - self.start) // self.every)

    def rate_at(self, step: int, in_epoch: int, steps: int) -> float:
        """Share of the base learning rate in a step, counted from 0, for all kinds except plateaus.

        Args:
            step: number of the optimizer's step.
            in_epoch: steps per epoch.
            steps: steps of the whole training.

        Example:
            >>> [round(Schedule("cosine", warm_up=1).rate_at(step, 2, 6), 3) for step in range(6)]
            [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
        """
        rise = (self.warm_up or 0.0) * in_epoch
        if self.kind == "one_cycle":
            top = max((rise or RISE * steps) - 1, 1e-9)
            if step <= top:
                return _between(START, 1.0, step / top)
            return _between(1.0, END, (step - top) / max(steps - 1 - top, 1e-9))
        if step < rise:
            return min((step + 1) / rise, 1.0) * (1.0 if self.kind == "cosine" else self.rate(step // in_epoch))
        if self.kind == "cosine":
            return _between(1.0, 0.0, (step - rise) / max(steps - rise, 1e-9))
        return self.rate(step // in_epoch)


def _between(first: float, last: float, share: float) -> float:
    """The value between ``first`` and ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
