"""Joint fine-tuning of a recurrent network: losses, learning rates, schedules, logging and predictions."""

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from prernn.conversion.calibration import (
    STEP,
    drop_calibration,
    gate_inputs_of,
    measure,
    saturation_lines,
    unmeasured,
)
from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.modes import channels_last, freeze_statistics
from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.layers.dropout import drop
from prernn.models.checkpoint import RECIPE_KEY, load_state
from prernn.models.from_config import NetworkSpec
from prernn.reports.numbers import plain
from prernn.tasks.task import Task
from prernn.training.batches import hold_last, none_readable
from prernn.training.continuity import SINGLE_CLIPS, Continuity, carried
from prernn.training.evaluation import add_batch, hears_all, next_outputs, onward, whole_outputs
from prernn.training.frozen_trunk.two_phases import begin_training
from prernn.training.learning import DEFAULT_LEARNING, SPARSE_POWER, Learning, rate_factors, rate_groups
from prernn.training.learning.activity import Activity
from prernn.training.learning.clipping import Clipping
from prernn.training.learning.optimizer import make_optimizer

CONTINUITY_KEY = "prernn_continuity"
"""Key in a checkpoint: how its states carried over in training."""

CALIBRATION = 32
"""Number of training videos on which gate inputs are calibrated."""


class VideoModule(L.LightningModule):
    """A task learned by a recurrent network, for Lightning's Trainer.

    Args:
        recipe: the network.
        learning: how it learns.
        task: what it learns: outputs, loss and metrics; labels and transform go into the checkpoint.
        network: a network that is already built, instead of ``recipe``.

    Raises:
        ValueError, NotImplementedError: what `NetworkSpec.build` raises; checkpoints for a network of whole clips.
    """

    def __init__(
        self,
        recipe: NetworkSpec,
        learning: Learning = DEFAULT_LEARNING,
        task: Task | None = None,
        network: SequenceNetwork | None = None,
    ):
        super().__init__()
        self.recipe, self.learning = recipe, learning
        if network is None:
            spec = recipe if task is None else recipe.knowing(task.backbone_options)
            network = spec.network(None if task is None else task.outputs)
        self.network = network
        self.task = task
        self.metrics: Any = None
        if task is not None:
            self.network.recipe = task.noted(self.network.recipe)
            self.metrics = task.metrics()
        channels_last(self.network)  # checkpoints are not affected
        self.run_seed: int | None = None
        self.weights_epoch: int | None = None
        self.test_results: dict[str, Any] = {}
        self._read, self._skipped = 0, dict[str, str]()  # by this process, in the current pass
        if self.learning.pretrained_lr == 0:
            self._freeze_pretrained()
        if learning.checkpoint is not None and (is_clip_network(self.network) or self.network.wants_lengths):
            raise NotImplementedError("learning.checkpoint is for networks that go through a video frame by frame")
        if learning.frozen_statistics and self.network.wants_lengths:
            raise ValueError("learning frozen_statistics: expected false for Deep Speech, which has none yet, got true")
        self.continuity = learning.continuity.of(task, self.network) if task else learning.continuity
        self.sparse_power = learning.sparse_power
        drop(self.network.recurrent_layers, learning.dropout)
        penalised = learning.activity or learning.slowness
        self._activity = Activity(self.network, learning.activity, learning.slowness) if penalised else None
        self._onward = onward(self.network)
        self._pieces = onward(self.network)  # for training, since validation may come in the middle of an epoch
        self._steps: tuple[int, int] | None = None  # of the optimizer, per epoch and in total
        self._state: NetworkState | None = None  # from which rows of the next batch continue
        self.train()  # Lightning keeps the mode that it finds

    def _freeze_pretrained(self) -> None:
        new = {id(p) for p in self.network.new_parameters()}
        for p in self.network.parameters():
            p.requires_grad_(id(p) in new)

    def evaluate_by(self, network: SequenceNetwork) -> None:
        """Lets another form of the network compute evaluations."""
        self.network, self._onward = network, onward(network)

    def train(self, mode: bool = True):
        """Sets the mode; batch normalization keeps its statistics if they are frozen."""
        super().train(mode)
        if self.learning.frozen_statistics:
            freeze_statistics(self)
        return self

    def forward(self, video: Tensor) -> Tensor:
        """Video ``(B, T, C, H, W)`` to outputs ``(B, T, K)``."""
        return self.network(video, checkpoint=self.learning.checkpoint if self.training else None)[0]

    def configure_optimizers(self) -> Any:
        """The optimizer, with groups for the new and the pre-trained part, and for each sparse recurrence's weights."""
        new = self.network.new_parameters()
        known = {id(p) for p in new}
        old = [p for p in self.network.parameters() if id(p) not in known and p.requires_grad]
        factors = rate_factors(self.network, self.sparse_power)
        groups = rate_groups("new", new, self.learning.lr, factors)
        groups += rate_groups("pretrained", old, self.learning.pretrained_lr, factors)
        optimizer = make_optimizer(groups, self.network, self.learning)
        schedule = self.learning.schedule
        if schedule.each_batch:
            by_batch = LambdaLR(optimizer, self._rate_of_step)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_batch, "interval": "step"}}
        if schedule.kind == "plateau":
            # torch's patience is the number of tolerated epochs without improvement; the next one reduces the rate
            counts: dict[str, Any] = {
                "patience": schedule.every - 1,
                "threshold": 0.0,
                "eps": 0.0,
            }  # any decrease counts
            plateau = ReduceLROnPlateau(optimizer, factor=schedule.factor, **counts)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "train_loss"}}
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, schedule.rate)}

    def _rate_of_step(self, step: int) -> float:
        """Share of the base learning rate, for a schedule per batch; 1 until the number of batches is known."""
        return self.learning.schedule.rate_at(step, *self._steps) if self._steps else 1.0

    def _begin_by_batch(self) -> None:
        """Counts the optimizer's steps; not earlier, as that would make Lightning read the first epoch's batches."""
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("learning schedule: expected --trainer.max_epochs, at whose end it ends, got none")
        in_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        self._steps = in_epoch, int(steps)
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
            group["lr"] = base * self._rate_of_step(scheduler.last_epoch)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a rate that changes per batch; one per epoch is stepped before Lightning writes the checkpoint."""
        if self.learning.schedule.each_batch:
            scheduler.step()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limits the gradient of everything that trains, or its norm in each parameter group separately."""
        clip = self.clipping(gradient_clip_val, gradient_clip_algorithm)
        if clip.each_group:
            clip(optimizer)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clipping(self, limit: float | None, algorithm: str | None) -> Clipping:
        """How the gradient is clipped, by the trainer's options and ``learning.clip_groups``."""
        by_value = algorithm == "value"
        return Clipping(float(limit or math.inf), by_value, self.learning.clip_groups and not by_value)

    def on_fit_start(self) -> None:
        """Calibrates gate inputs and trains behind the frozen trunk first, unless training continues a checkpoint."""
        if self.learning.clip_groups and not self.trainer.gradient_clip_val:
            raise ValueError("learning clip_groups: expected the limit as --trainer.gradient_clip_val, got none")
        self._calibrate()
        begin_training(self, self.trainer)

    def _calibrate(self) -> None:
        if not unmeasured(self.network):
            return
        videos = partial(self.trainer.datamodule.some_training_videos, CALIBRATION)  # type: ignore[attr-defined]

        def read() -> Iterator[Tensor]:
            return (video.to(self.device) for video in videos())

        before = gate_inputs_of(self.network, read())
        if not before:  # no video can be read, which training reports in detail
            return
        measure(self.network, lambda: [self.network(video) for video in read()])
        after = gate_inputs_of(self.network, read())
        if self.trainer.is_global_zero:
            print(f"gate inputs brought to one scale on up to {CALIBRATION} training videos:")
            for line in saturation_lines(before, after):
                print(f"  {line}")

    def on_train_start(self) -> None:
        """Stops at once if the resumed run had already reached its floor."""
        if self.learning.schedule.each_batch:
            self._begin_by_batch()
        self._stop_at_floor()

    def on_train_epoch_start(self) -> None:
        """Makes an epoch's randomness a function of the seed and its number, so that a resumed run repeats it."""
        if self.run_seed is None:
            self.run_seed = torch.initial_seed()
        torch.manual_seed((self.run_seed + self.current_epoch) % 2**63)
        self._state = None
        self._pieces = onward(self.network)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The task's loss of a batch, weighted so that processes with unequal batches average correctly."""
        videos = len(batch["path"])
        self._note(batch)
        if self.trainer.is_last_batch:
            self._check_some_read()
        # a batch whose videos were all skipped still takes part in the processes' gradient exchange
        loss = self._training_loss(batch) if videos else self._nothing()
        if not bool(loss.isfinite()):
            raise ValueError(
                f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}: the loss is {loss.item()}, training stops. "
                f"A lower learning rate or gradient_clip_val may help; the batch was {', '.join(batch['path'])}"
            )
        self.log("train_loss", loss.detach(), on_epoch=True, on_step=False, batch_size=max(videos, 1), sync_dist=True)
        if self.trainer.world_size == 1:
            return loss
        counts = self.all_gather(torch.tensor(float(videos), device=self.device))  # (processes,)
        assert isinstance(counts, Tensor)
        return loss * videos * self.trainer.world_size / counts.sum().clamp(min=1)

    def _training_loss(self, batch: dict[str, Any]) -> Tensor:
        """The task's loss, plus penalties on the outputs of recurrent layers."""
        if self._activity is None:
            return self._loss(self._training_outputs(batch), batch)
        with self._activity.noted() as outputs:
            loss = self._loss(self._training_outputs(batch), batch)
        return loss + self._activity.penalty(outputs)

    def _training_outputs(self, batch: dict[str, Any]) -> Tensor:
        if "goes_on" in batch:  # pieces that continue each other
            return self._pieces(batch)
        if "weight" not in batch:  # clips that start from a zero state
            return self._outputs(batch, self._video(batch))
        state = carried(self._state, self.continuity)
        video = self._video(batch)
        if video is not batch["input"]:  # the state of a row that has ended continues with its last frame
            batch = {**batch, "input": video, "lengths": torch.full_like(batch["lengths"], video.shape[1])}
        out, self._state = next_outputs(self.network, batch, state, self.learning.checkpoint)
        return out

    def _video(self, batch: dict[str, Any]) -> Tensor:
        """The videos; if batch statistics are learned, padded with their last frames, as zeros would distort them."""
        video, lengths = batch["input"], batch["lengths"]
        pads = not self.learning.frozen_statistics and not self.network.wants_lengths
        if not pads or int(lengths.min()) == video.shape[1]:
            return video
        return hold_last(video, lengths)

    def _outputs(self, batch: dict[str, Any], video: Tensor) -> Tensor:
        """Outputs ``(B, T, K)``; a network of clips sees each video as one clip."""
        return whole_outputs(self.network, batch) if hears_all(self.network, video) else self(video)

    def _evaluated(self, batch: dict[str, Any]) -> Tensor:
        """Outputs ``(B, T, K)`` in evaluation, in which pieces of a video continue each other."""
        return self._onward(batch) if "goes_on" in batch else self._outputs(batch, batch["input"])

    def _loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        assert self.task is not None  # training and evaluation need a task
        return self.task.loss(out, batch)

    def _nothing(self) -> Tensor:
        return torch.stack([p.sum() for p in self.network.parameters() if p.requires_grad]).sum() * 0.0

    def on_train_epoch_end(self) -> None:
        """Sets the next epoch's learning rate, after the history has this one's and before a checkpoint is written."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics["train_loss"])
        elif isinstance(scheduler, LambdaLR) and not self.learning.schedule.each_batch:
            scheduler.step()
        self._stop_at_floor()

    def _stop_at_floor(self) -> None:
        """Ends training once the schedule has decreased the learning rate to its floor."""
        floor = self.learning.schedule.stop_at * (1 + 1e-6)  # 3e-3 divided by 10 four times is slightly above 3e-7
        if floor and self.trainer.optimizers[0].param_groups[0]["lr"] <= floor:
            self.trainer.should_stop = True

    def _note(self, batch: dict[str, Any]) -> None:
        """Remembers what was read of a batch, and what was skipped."""
        self._read += len(batch["path"])
        self._skipped.update(batch["skipped"])
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and batch["skipped"]:
            data.note_skipped(batch)

    def _check_some_read(self) -> bool:
        """Ends a pass over videos. If no process has read any: ValueError in each, or False in a sanity check."""
        passes: list[Any] = [(self._read, self._skipped)]  # of each process
        self._read, self._skipped = 0, {}
        if self.trainer.world_size > 1:
            own, passes = passes[0], [None] * self.trainer.world_size
            torch.distributed.all_gather_object(passes, own)
        some = any(read for read, _ in passes)
        if not some and not self.trainer.sanity_checking:
            raise none_readable({path: reason for _, skipped in passes for path, reason in skipped.items()})
        return some

    def _evaluate(self, batch: dict[str, Any], name: str) -> Tensor | None:
        """Adds a batch to loss and metrics; returns its outputs ``(B, T, K)``, None if all videos were skipped."""
        self._note(batch)
        videos = len(batch["path"])
        out = add_batch(self._evaluated, self.metrics, batch)
        loss = torch.zeros((), device=self.device) if out is None else self._loss(out, batch)
        # logged for an empty batch too, with no weight: every process must take part in the exchange
        self.log(f"{name}_loss", loss, batch_size=videos, sync_dist=True)
        return out

    def _finish(self, name: str) -> dict[str, Tensor]:
        assert self.task is not None
        values = self.metrics.compute()
        self.metrics.reset()
        for key, value in values.items():
            if value.ndim == 0:
                self.log(f"{name}_{key}", value, prog_bar=key == self.task.score[0])
        return values

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds a batch to the validation metrics."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Logs the task's metrics as ``val_...``."""
        if self._check_some_read():
            self._finish("val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """Adds a batch to the test metrics; returns its outputs ``(B, T, K)``."""
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Logs the task's metrics as ``test_...`` and keeps them all in ``test_results``, as plain numbers."""
        self._check_some_read()
        self.test_results = {name: plain(value) for name, value in self._finish("test").items()}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """The task's prediction for each video of a batch."""
        self._note(batch)
        if not batch["path"]:
            return []
        assert self.task is not None
        return self.task.predictions(self._evaluated(batch).float(), batch)

    def on_predict_epoch_end(self) -> None:
        """Checks that there was something to predict."""
        self._check_some_read()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the recipe and the run's seed into Lightning's checkpoint."""
        checkpoint[RECIPE_KEY] = json.loads(json.dumps(self.network.recipe.to_json()))
        checkpoint["prernn_seed"] = self.run_seed
        checkpoint[CONTINUITY_KEY] = str(self.continuity)

    def _train_as_before(self) -> None:
        """Trains as before there were rows and rates of sparse recurrences, except where the configuration says so."""
        if self.learning.continuity == Continuity():
            self.continuity = SINGLE_CLIPS
        if self.learning.sparse_power == SPARSE_POWER:
            self.sparse_power = 0.0

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is of this network, and takes over its seed.

        Raises:
            ValueError: another network, or classes in another order.
        """
        self.run_seed = checkpoint.get("prernn_seed")
        self.weights_epoch = checkpoint["epoch"] + 1
        if CONTINUITY_KEY not in checkpoint:
            self._train_as_before()
        steps = Recipe.from_json(checkpoint[RECIPE_KEY]).steps if RECIPE_KEY in checkpoint else ()
        if self.recipe.calibrate and steps and STEP not in [step.name for step in steps]:
            drop_calibration(self.network)  # trained before calibration was the default
        prefix = "network."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        load_state(self.network, weights, "checkpoint")
        labels, own = checkpoint.get(RECIPE_KEY, {}).get("labels"), self.network.recipe.labels
        if labels != own:
            raise ValueError(f"checkpoint: expected the classes {own}, got {labels}")
