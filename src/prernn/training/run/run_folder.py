"""Writes what a run leaves behind: history, checkpoint with recipe, metrics, predictions, pictures."""

import pickle
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.models import checkpoint
from prernn.ops.backends import has_bfloat16
from prernn.reports.files import say_written, whole_file, write_json, write_table
from prernn.reports.numbers import plain
from prernn.tasks.task import Task
from prernn.training.learning.averaging import validated_weights
from prernn.training.run.saved_outputs import Outputs

UNEVEN = 3
"""How many times larger the largest class must be than the smallest for a remark."""


RESULTS = (
    "metrics.json",
    "outputs.safetensors",
    "predictions.csv",
    "classes.csv",
    "confusion.png",
    "ced.csv",
    "ced.png",
    "first_phase.json",
)
"""Files in a run's folder that belong to one network: results of a test, a prediction and a first phase."""


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoints, written next to their final place and renamed.

    Lightning moves them there from another file system, which on a full disk leaves half a file in place of the
    previous checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint that appears complete or not at all.

        Raises:
            ValueError: the weights are not finite; the existing file is kept.
            OSError: it can't be written, for example because the disk is full.
        """
        _check_finite(checkpoint["state_dict"], checkpoint.get("epoch", 0) + 1)
        with whole_file(path) as part:
            super().save_checkpoint(checkpoint, part, storage_options)

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint; ValueError if the file is none."""
        try:
            return super().load_checkpoint(path, *arguments, **options)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"{path}: expected a Lightning checkpoint, whole, found another file") from error


PIECES = "pieces that continue from the state of the previous one, through which no gradient flows"
"""How a task trains whose records continue each other."""


class RunFolder(L.Callback):
    """Writes a run's results into ``trainer.default_root_dir``.

    At the start of a training it reports how it is validated, and whether classes are uneven. After each epoch it
    writes ``history.csv`` and ``model.safetensors`` (for `prernn.load`); at the end of training ``curves.png``; after a
    test ``metrics.json``, ``outputs.safetensors`` (for ``prernn fuse``) and the task's report; after predicting
    ``predictions.csv``; and a summary of the videos that were skipped.

    Args:
        again: the command that continues an interrupted training, shown to the user.
    """

    def __init__(self, again: str = "prernn fit --ckpt_path last") -> None:
        self.again = again
        self.validation = ""
        self.begun = time.time()
        self.trained = 0
        self.history: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.outputs = Outputs()

    def state_dict(self) -> dict[str, Any]:
        """The history, so that a resumed run continues it, and what chose the best checkpoint."""
        return {"history": self.history, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the history of the resumed run."""
        self.history = list(state_dict["history"])
        self.validation = state_dict.get("validation", "")

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        """Reports what a user may not expect: what is replaced, how it is validated, classes of very different size."""
        data: Any = getattr(trainer, "datamodule", None)
        self.validation = getattr(data, "validation", "")
        if trainer.is_global_zero:
            remarks = self._remarks(trainer, module.task, data)
            training = f"training: {PIECES if module.task.goes_on_in_training else module.continuity}"
            for line in (*remarks, *what_learns(module.network), training, *slow_precision(trainer)):
                print(line)

    def _remarks(self, trainer: L.Trainer, task: Task, data: Any) -> Iterator[str]:
        root = Path(trainer.default_root_dir)
        if not trainer.ckpt_path and (root / "checkpoints" / "last.ckpt").is_file():
            yield f"{root} holds a run, which this one replaces from epoch 1 on (--ckpt_path last would continue it)"
        yield from task.remarks
        if self.validation:
            yield f"validation, which chooses best.ckpt: {self.validation}"
            yield from uneven_classes(task.examples(data.datasets["train"].records))

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        """Adds an epoch to the history and writes the checkpoint, or raises ValueError for non-finite weights."""
        _check_finite(module.state_dict(), trainer.current_epoch + 1)
        # the learning rates under the logger's names are added again below
        logged = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("lr-")}
        values = {name: plain(value) for name, value in logged.items()}
        rates = {f"lr_{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}
        self.history.append({"epoch": trainer.current_epoch + 1, **values, **rates})
        keys = list(dict.fromkeys(key for row in self.history for key in row))
        root = Path(trainer.default_root_dir)
        write_table(root / "history.csv", [{key: row.get(key, "") for key in keys} for row in self.history])
        with validated_weights(trainer, module):
            checkpoint.save(module.network, root)
        if not self.trained and len(self.history) == 1:
            _remove_results(root, self.begun)
        self.trained += 1

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        """Draws the curves, and reports what was skipped."""
        skipped = _skipped(trainer)
        if trainer.is_global_zero:
            self._draw_curves(trainer, module)
            _report(skipped)
            self._say_checkpoints(Path(trainer.default_root_dir), module.task.score)

    def _say_checkpoints(self, root: Path, score: tuple[str, str]) -> None:
        if not self.trained:
            print(f"no epoch was left: the run has had {len(self.history)} (see --trainer.max_epochs)")
        else:
            name, better = f"val_{score[0]}", max if score[1] == "max" else min
            known = [row for row in self.history if name in row]
            if known and (root / "checkpoints" / "best.ckpt").is_file():
                best = better(known, key=lambda row: row[name])
                print(f"best.ckpt is of epoch {best['epoch']} ({name} {best[name]:.4g})", end=", ")
            print(f"model.safetensors of epoch {self.history[-1]['epoch']}, the last")
        say_written(root, self.begun)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Draws the curves so far of an interrupted or terminated training, and says how to continue."""
        ended = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not (ended and trainer.training and trainer.is_global_zero):
            return
        where = f"interrupted in epoch {trainer.current_epoch + 1}"
        if not self.history:
            print(f"prernn: {where}, before there was a checkpoint", file=sys.stderr)
            return
        self._draw_curves(trainer, module)
        last = self.history[-1]["epoch"]
        print(f"prernn: {where}; continue from the end of epoch {last} with: {self.again}", file=sys.stderr)

    def _draw_curves(self, trainer: L.Trainer, module: Any) -> None:
        from prernn.reports.plots import curves

        score = module.task.score[0]
        series = {}
        for metric, names in (("loss", ("train_loss", "val_loss")), (score, (f"val_{score}",))):
            lines = {name: [row[name] for row in self.history if name in row] for name in names}
            series[metric] = {name: values for name, values in lines.items() if values}
        if any(series.values()):
            path = Path(trainer.default_root_dir) / "curves.png"
            curves.curves({metric: lines for metric, lines in series.items() if lines}, path)

    def on_test_start(self, trainer: L.Trainer, module: Any) -> None:
        """Says which weights are tested."""
        if trainer.is_global_zero:
            print(f"weights: {self._weights(trainer, module)}")

    def _weights(self, trainer: L.Trainer, module: Any) -> str:
        path = str(trainer.ckpt_path or "as they are")
        epoch = f", of epoch {module.weights_epoch}" if module.weights_epoch else ""
        chosen = f", chosen on {self.validation}" if Path(path).name == "best.ckpt" and self.validation else ""
        return f"{path}{epoch}{chosen}"

    def on_predict_start(self, trainer: L.Trainer, module: Any) -> None:
        """Says which weights are used for predictions."""
        self.on_test_start(trainer, module)

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """Says which weights are validated, unless a training is running."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_start(trainer, module)

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Collects a batch's outputs."""
        if outputs is not None and module.task.keeps_outputs:
            self.outputs.add(outputs, batch)

    def on_test_end(self, trainer: L.Trainer, module: Any) -> None:
        """Writes metrics, outputs and the task's report."""
        parts, skipped = _gathered(trainer, self.outputs), _skipped(trainer)
        if trainer.is_global_zero:
            root, recipe = Path(trainer.default_root_dir), module.network.recipe
            if module.task.keeps_outputs:
                Outputs.joined(parts).save(root, recipe)
            results = module.task.report({"labels": recipe.labels, **module.test_results}, root)
            _report(skipped)
            chosen = {"best_checkpoint_chosen_on": self.validation} if self.validation else {}
            origin = {"weights": self._weights(trainer, module), **chosen}
            write_json(root / "metrics.json", {**results, **origin, "skipped": skipped})
            say_written(root, self.begun)

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Collects a batch's predictions."""
        self.predictions += outputs

    def on_predict_end(self, trainer: L.Trainer, module: Any) -> None:
        """Writes the predictions of all processes, in the order of the paths."""
        parts, skipped = _gathered(trainer, self.predictions), _skipped(trainer)
        if trainer.is_global_zero:
            rows = [row for part in parts for row in part]
            write_predictions(Path(trainer.default_root_dir), module.task, rows, skipped)
            say_written(trainer.default_root_dir, self.begun)


def write_predictions(root: Path, task: Task, rows: list[dict[str, Any]], skipped: dict[str, str]) -> Path:
    """Writes ``predictions.csv`` of a run in the order of the paths, and reports which videos were skipped."""
    ordered = sorted(rows, key=lambda row: (row["path"], row.get("frame", 0)))
    path = write_table(root / "predictions.csv", task.joined_predictions(ordered))
    _report(skipped)
    return path


def _remove_results(root: Path, begun: float) -> None:
    """Removes the results of the replaced run: its metrics would be taken for those of the new network beside them."""
    for name in (*RESULTS, "checkpoints/best.ckpt"):
        path = root / name
        if path.is_file() and path.stat().st_mtime < begun - 0.05:
            path.unlink()


def what_learns(network: SequenceNetwork) -> Iterator[str]:
    """A line with the numbers of parameters."""
    total, trained, new = (
        sum(p.numel() for p in part)
        for part in (
            network.parameters(),
            (p for p in network.parameters() if p.requires_grad),
            network.new_parameters(),
        )
    )
    yield f"network: {total:,} parameters, {trained:,} are trained, {new:,} of them new"


def slow_precision(trainer: L.Trainer) -> Iterator[str]:
    """A line if bfloat16 was requested on a CPU without instructions for it."""
    asked = str(trainer.precision).startswith("bf16") and trainer.strategy.root_device.type == "cpu"
    if asked and not has_bfloat16():
        yield f"precision {trainer.precision}: this CPU has no bfloat16, and takes many times as long as in float32"


def uneven_classes(examples: Mapping[str, int]) -> Iterator[str]:
    """A line if one class has many times the examples of another."""
    counted = sorted((count, name) for name, count in examples.items())
    if counted and counted[-1][0] >= UNEVEN * counted[0][0]:
        (few, rare), (many, common) = counted[0], counted[-1]
        yield (
            f"training examples a class: {few} ({rare}) to {many} ({common}); mean_class_accuracy counts all classes "
            "equally, other accuracies the large ones more"
        )


def _check_finite(weights: Mapping[str, torch.Tensor], epoch: int) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"epoch {epoch}: {name.removeprefix('network.')} is not finite any more, and training stops; the "
                "checkpoint of the epoch before stays. A lower learning rate or gradient_clip_val may help"
            )


def _skipped(trainer: L.Trainer) -> dict[str, str]:
    """Videos that any process skipped, with the reason."""
    own = dict(getattr(getattr(trainer, "datamodule", None), "skipped", {}))
    return {path: reason for part in _gathered(trainer, own) for path, reason in part.items()}


def _report(skipped: dict[str, str]) -> None:
    if skipped:
        print(f"skipped {len(skipped)} video{'s' * (len(skipped) > 1)}:")
        for reason in skipped.values():
            print(f"  {reason}")


def _gathered(trainer: L.Trainer, value: Any) -> list[Any]:
    """The values of a variable in all processes."""
    parts: list[Any] = [value]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, value)
    return parts
