"""Early stopping: training ends when validation no longer gets better."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping


class Patience(EarlyStopping):
    """Ends training once so many validations have brought no better score than the best; again after a resume.

    Args:
        score: of validation, as it is logged.
        mode: "max" or "min", which is better.
        patience: validations.
    """

    def __init__(self, score: str, mode: str, patience: int) -> None:
        super().__init__(score, patience=patience, mode=mode, check_finite=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the count of the run that is resumed, with the patience of now."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Trains no further where a run that is resumed had come to its end."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says so."""
        if self.wait_count >= self.patience and trainer.is_global_zero:
            print(f"patience: {self.patience} validations without a better {self.monitor} end the training")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises ValueError where nothing validates."""
        if trainer.limit_val_batches == 0:
            raise ValueError("learning patience: expected validation, got --trainer.limit_val_batches 0")
