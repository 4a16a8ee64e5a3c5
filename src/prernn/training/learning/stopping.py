"""Early stopping: training ends when validation no longer improves."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping


class Patience(EarlyStopping):
    """Ends training after a number of validations without a better score than the best; also after a resume.

    Args:
        score: validation score, as it is logged.
        mode: "max" or "min", whichever is better.
        patience: number of validations.
    """

    def __init__(self, score: str, mode: str, patience: int) -> None:
        super().__init__(score, patience=patience, mode=mode, check_finite=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the count of the resumed run, but keeps the current patience."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops at once if the resumed run had already ended."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says so."""
        if self.wait_count >= self.patience and trainer.is_global_zero:
            print(f"patience: {self.patience} validations without a better {self.monitor} end the training")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises ValueError if nothing is validated."""
        if trainer.limit_val_batches == 0:
            raise ValueError("learning patience: expected validation, got --trainer.limit_val_batches 0")
