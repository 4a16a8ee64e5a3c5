"""Exponential moving averages of weights: what is validated, tested and kept in place of the weights that train."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

Average = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]
"""Brings averages up to date with the tensors of now, after so many steps before: ``AveragedModel``'s multi_avg_fn."""


def exponential(decay: float) -> Average:
    """``w' = d_n w' + (1 - d_n) w`` after the step that has n before it, with ``d_n = min(decay, (1 + n) / (10 + n))``.

    The average of Polyak and Juditsky (1992) in its exponential form; that the decay grows at first, as TensorFlow's
    ``ExponentialMovingAverage`` lets it, keeps the weights of the beginning out of a short training. Statistics of
    batch normalization are averaged like weights; integers are those of now.

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
                mean.lerp_(value, 1 - kept)  # exact where both are equal, as in what does not train
            else:
                mean.copy_(value)

    return average


class AveragedWeights(WeightAveraging):
    """The `exponential` average of all weights, which is validated, tested and kept in place of those that train.

    Lightning's callback validates with it, and puts it into checkpoints as the weights, with those that train beside.

    Args:
        decay: between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=exponential(decay))

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
        """Puts the averages into the module for a while."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)


@contextlib.contextmanager
def validated_weights(trainer: L.Trainer, module: Any) -> Iterator[nn.Module]:
    """The weights that validation sees and a run keeps, for a while: averages, where there are some."""
    with contextlib.ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AveragedWeights):
                stack.enter_context(callback.in_place(module))
        yield module
