"""Averages of weights over training, which are validated, tested and kept instead of the weights that train."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

Average = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]
"""Updates averages with the current tensors, after a number of earlier steps: ``AveragedModel``'s multi_avg_fn."""


def exponential(decay: float) -> Average:
    """``w' = d_n w' + (1 - d_n) w`` after the step preceded by n, with ``d_n = min(decay, (1 + n) / (10 + n))``.

    The average of Polyak and Juditsky (1992) in its exponential form. The decay grows at first, as in TensorFlow's
    ``ExponentialMovingAverage``, which keeps the initial weights out of a short training. Statistics of batch
    normalization are averaged like weights; integers take their current values.

    Example:
        >>> import torch
        >>> mean = [torch.zeros(1)]
        >>> exponential(0.5)(mean, [torch.ones(1)], 20)
        >>> mean
        [tensor([0.5000])]
    """

    def average(averaged: Sequence[Tensor], values: Sequence[Tensor], steps: Tensor | int) -> None:
        count = int(steps)
        kept = min(decay, (1 + count) / (10 + count))
        for mean, value in zip(averaged, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - kept)  # exact if both are equal, as for tensors that do not train
            else:
                mean.copy_(value)

    return average


def mean(averaged: Sequence[Tensor], values: Sequence[Tensor], steps: Tensor | int) -> None:
    """``w' = w + (v - w) / (n + 1)`` after n values: the mean of all, as in averaged SGD (Polyak and Juditsky, 1992).

    Integers take their current values.

    Example:
        >>> import torch
        >>> average = [torch.tensor([1.0])]
        >>> mean(average, [torch.tensor([4.0])], 2)  # of 1, 1 and 4
        >>> average
        [tensor([2.])]
    """
    for average, value in zip(averaged, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 / (int(steps) + 1))
        else:
            average.copy_(value)


TAIL = "tail"
"""Selects the `mean` of the weights since validation stopped improving."""

WAITS = 5
"""n in Merity, Keskar and Socher's algorithm 1: the best score must be at least this many validations old."""


class AveragedWeights(WeightAveraging):
    """An average of all weights, which is validated, tested and kept instead of those that train.

    Lightning's callback validates with it, and puts it into checkpoints as the weights, beside those that train.

    Args:
        average: `exponential` with some decay, or `mean`.
        score: validation score, as it is logged: the average begins with the step after a score that is worse than the
            best of all but the last ``WAITS - 1`` before it (NT-ASGD: "Regularizing and Optimizing LSTM Language
            Models", ICLR 2018). Until then there is none. None begins with the first step.
        mode: "max" or "min", whichever is better.
    """

    def __init__(self, average: Average, score: str | None = None, mode: str = "max") -> None:
        super().__init__(multi_avg_fn=average)
        self.score, self.sign = score, 1 if mode == "max" else -1
        self._scores: list[float] = []
        self._due = score is None

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """True after each step, once there is an average."""
        return step_idx is not None and self._due

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks whether the average begins now."""
        if self._due or trainer.sanity_checking:
            return
        assert self.score is not None  # otherwise it is due
        now = self.sign * float(trainer.callback_metrics[self.score])
        earlier = self._scores[: -WAITS + 1] if len(self._scores) > WAITS else []
        self._due = bool(earlier) and not now >= max(earlier)  # NaN counts as worse
        self._scores.append(now)
        if self._due and trainer.is_global_zero:
            print(f"average: {self.score} gets worse, from here on the mean of the weights is validated and kept")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises ValueError if it waits for a validation score but nothing is validated."""
        super().on_fit_start(trainer, pl_module)
        if self.score is not None and trainer.limit_val_batches == 0:
            raise ValueError(f"learning average {TAIL!r}: expected validation, got --trainer.limit_val_batches 0")

    def state_dict(self) -> dict[str, Any]:
        """The state, with the scores seen so far."""
        return {**super().state_dict(), "scores": list(self._scores), "due": self._due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state and the scores."""
        rest = dict(state_dict)
        self._scores, self._due = rest.pop("scores", []), rest.pop("due", self._due)
        super().load_state_dict(rest)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """As Lightning's; until there is an average, the weights that train take its place."""
        if self._average_model is not None and not self.begun:
            self._average_model.module.load_state_dict(pl_module.state_dict())
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    @property
    def begun(self) -> bool:
        """Whether there is an average of anything yet."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        if self.begun:  # before the first step the averages are those of an uncalibrated network
            super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: L.LightningModule) -> None:
        if self.begun:
            super()._copy_average_to_current(pl_module)

    @contextlib.contextmanager
    def in_place(self, module: L.LightningModule) -> Iterator[None]:
        """Puts the averages into the module temporarily."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)


@contextlib.contextmanager
def validated_weights(trainer: L.Trainer, module: Any) -> Iterator[nn.Module]:
    """Temporarily, the weights that validation sees and a run keeps: averages, if there are any."""
    with contextlib.ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AveragedWeights):
                stack.enter_context(callback.in_place(module))
        yield module
