"""Decides whether a training of `prernn fit` begins with a first phase, and reports on it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prernn.conversion.graph.trunk import split
from prernn.conversion.modes import channels_last
from prernn.reports.files import write_json
from prernn.training.frozen_trunk.first_phase import MEMORY, Setting, bytes_of_features, cut_of, run_first_phase
from prernn.training.learning.phases import USUAL_EPOCHS

FILE = "first_phase.json"
"""File in the run's folder with the cost and results of the first phase."""


def begin_training(module: Any, trainer: Any) -> dict[str, Any] | None:
    """Runs the first phase of a training, if it has one, and slows the new part down afterward.

    Args:
        module: a `VideoModule` at the beginning of its training.
        trainer: Lightning's, with a `VideoData`.

    Returns:
        The contents of ``first_phase.json``; None if there is no first phase.

    Raises:
        NotImplementedError: a first phase is requested, but the network has no trunk or its features do not fit.
    """
    phase, said = module.learning.first, trainer.is_global_zero
    epochs = _epochs(module, trainer)
    if not epochs:
        return None
    try:
        views = _views(module, trainer)
    except (NotImplementedError, ValueError) as reason:
        if phase.epochs is not None:
            raise NotImplementedError(f"learning.first: {reason}") from None
        return None
    if said:
        print(
            f"phase 1 of 2: the part behind the frozen trunk, {epochs} epochs on features of {views} views of each "
            "video"
        )
    results = run_first_phase(_setting(module, trainer), epochs=epochs, views=views)
    module.train()  # the trunk was in evaluation mode, and shares its modules
    if trainer.world_size > 1:  # each process has computed everything; no bit may differ from here on
        state = {name: value.cpu() for name, value in module.network.state_dict().items()}
        module.network.load_state_dict(trainer.strategy.broadcast(state))
    _slow_down(trainer, phase.then)
    if said:
        write_json(Path(trainer.default_root_dir) / FILE, results)
        for line in _lines(module, trainer, results):
            print(line)
    return results


def _epochs(module: Any, trainer: Any) -> int:
    """Number of epochs of the first phase of this training."""
    if module.task is None or module.weights_epoch is not None or trainer.fast_dev_run:
        return 0
    if module.learning.first.epochs is not None:
        return int(module.learning.first.epochs)
    spec = module.recipe
    known = spec is not None and spec.method != "rcn" and not spec.rcn_below and bool(spec.pretrained or spec.weights)
    return USUAL_EPOCHS if known else 0


def _views(module: Any, trainer: Any) -> int:
    """Number of views of the videos that fit into memory."""
    data = trainer.datamodule
    trunk = channels_last(split(module.network, cut_of(module.network))[0])
    video: Tensor | None = next(data.some_training_videos(1), None)
    if video is None:
        raise ValueError("expected videos that can be read, got none")
    each = bytes_of_features(trunk, video[0].to(module.device), data.datasets["train"])
    if each > MEMORY:
        raise ValueError(f"expected features of at most {MEMORY / 2**30:g} GiB, got {each / 2**30:.1f} GiB a view")
    return min(int(module.learning.first.views), max(1, MEMORY // max(each, 1)))


def _setting(module: Any, trainer: Any) -> Setting:
    data = trainer.datamodule
    return Setting(
        network=module.network,
        task=module.task,
        training=data.datasets["train"],
        validation=data.datasets["val"],
        learning=module.learning,
        continuity=module.continuity,
        sparse_power=module.sparse_power,
        batch_size=data.batch_size * trainer.world_size,
        clip=module.clipping(trainer.gradient_clip_val, trainer.gradient_clip_algorithm),
        seed=torch.initial_seed(),
        device=module.device,
        shown=trainer.is_global_zero,
    )


def _slow_down(trainer: Any, share: float) -> None:
    """Makes the new part learn at a share of its rate from now on."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if group["name"].startswith("new"):
                for rate in {"lr", "initial_lr"} & group.keys():
                    group[rate] *= share
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]


def _lines(module: Any, trainer: Any, results: dict[str, Any]) -> list[str]:
    score = module.task.score[0]
    size = results["bytes"] / 2**20
    return [
        f"phase 1 of 2: {results['videos']} videos in {results['seconds_features']:.0f} s ({size:.0f} MiB), trained in "
        f"{results['seconds_training']:.0f} s; train loss {results['train_loss'][-1]:.3f}, validation {score} "
        f"{results[f'val_{score}']:.3f}",
        f"phase 2 of 2: the whole network, {trainer.max_epochs} epochs, the new part at "
        f"{module.learning.first.then:g} of its rate",
    ]
