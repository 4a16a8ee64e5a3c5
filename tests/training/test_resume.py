"""A run that was broken off and goes on is the run that was not: data, chance, learning rates, to the last bit."""

import csv

import pytest
import torch

from prernn.commands.main import main
from prernn.models import checkpoint
from prernn.training.module import VideoModule
from small_runs import config, write

PLATEAU = {"kind": "plateau", "every": 1, "factor": 0.5}
STEP = {"kind": "step", "every": 1, "factor": 0.5}


REGULARIZED = {
    "schedule": {"kind": "cosine", "warm_up": 1.5},
    "dropout": {"inputs": 0.2, "states": 0.3},
    "selective_decay": True,
    "weight_decay": 0.01,
    "clip_groups": True,
    "average": 0.9,
    "patience": 2,
    "optimizer": "adamw",
}
"""All that keeps a network from learning its videos by heart."""


def regularized(videos, root):
    """Four epochs of two batches of a recurrent network that learns so; the validation score never gets better."""
    values = config(videos, root, max_epochs=4, gradient_clip_val=0.5)
    values["model"]["learning"] = {"lr": 0.01, "pretrained_lr": 0.001, "frozen_statistics": False, **REGULARIZED}
    return values


def options(videos, root, workers, schedule, **trainer):
    """Four epochs of four batches of a network with dropout."""
    values = config(videos, root, max_epochs=4, **trainer)
    network = {"width": 2, "units": 8, "size": 32, "dropout": 0.5}
    values["model"]["recipe"] = {"backbone": "small_vgg", "method": "framewise", "backbone_options": network}
    values["model"]["learning"] |= {"schedule": schedule, "lr": 0.2, "frozen_statistics": False}
    values["data"] |= {"num_workers": workers, "batch_size": 2}
    return values


class Seen:
    """Which frames each training step had, by the sum of their values, and its loss."""

    def __init__(self, monkeypatch, stop=None):
        self.steps, step = [], VideoModule.training_step

        def watched(module, batch, index):
            if (module.current_epoch, index) == stop:
                raise RuntimeError("killed")
            loss = step(module, batch, index)
            self.steps.append((module.current_epoch, *batch["path"], batch["input"].sum().item(), loss.item()))
            return loss

        monkeypatch.setattr(VideoModule, "training_step", watched)


def stepwise(workers, schedule):
    return lambda videos, root: options(videos, root, workers, schedule)


CASES = {"0 workers": (stepwise(0, PLATEAU), 4), "2 workers": (stepwise(2, STEP), 4), "regularized": (regularized, 2)}
"""A configuration, and how many batches an epoch has."""


@pytest.mark.parametrize("case", list(CASES))
def test_a_run_killed_in_mid_epoch_goes_on_to_the_weights_of_an_unbroken_one(videos, tmp_path, monkeypatch, case):
    make, batches = CASES[case]
    with monkeypatch.context() as patch:
        whole = Seen(patch)
        file = write(tmp_path / "whole.yaml", make(videos, tmp_path / "whole"))
        assert main(["fit", "--config", file]) == 0
    file = write(tmp_path / "broken.yaml", make(videos, tmp_path / "broken"))
    with monkeypatch.context() as patch:
        Seen(patch, stop=(2, 1))
        with pytest.raises(RuntimeError, match="killed"):
            main(["fit", "--config", file])
    torch.rand(17)  # the chance of another process
    with monkeypatch.context() as patch:
        resumed = Seen(patch)
        assert main(["fit", "--config", file, "--ckpt_path", "last"]) == 0
    assert resumed.steps == whole.steps[2 * batches :]
    one, two = (checkpoint.load(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "broken")]
    assert histories[0] == histories[1]


def test_what_an_epoch_sees_does_not_depend_on_the_number_of_workers(videos, tmp_path, monkeypatch):
    seen = []
    for workers in (0, 2):
        with monkeypatch.context() as patch:
            watch = Seen(patch)
            file = write(tmp_path / "config.yaml", options(videos, tmp_path / str(workers), workers, STEP))
            assert main(["fit", "--config", file, "--trainer.max_epochs", "2"]) == 0
        seen.append(watch.steps)
    assert seen[0] == seen[1]
    frames = [row[-2] for row in seen[0]]
    assert len(set(frames)) == len(frames)  # every epoch draws anew


def rates(root):
    with (root / "history.csv").open() as lines:
        return [float(row["lr_new"]) for row in csv.DictReader(lines)]


def trained(videos, root, schedule, monkeypatch, losses, **trainer):
    """Runs with given losses, and gives the learning rate of each epoch."""
    rate = []

    def step(module, batch, index):
        if index == 0:
            rate.append(module.trainer.optimizers[0].param_groups[0]["lr"])
        loss = module.network.output_layer.bias.sum() * 0 + losses[module.current_epoch]
        module.log("train_loss", loss.detach(), on_epoch=True, on_step=False, batch_size=2)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(VideoModule, "training_step", step)
        values = options(videos, root, 0, schedule, limit_train_batches=1, limit_val_batches=0, **trainer)
        values["trainer"]["max_epochs"] = len(losses)
        assert main(["fit", "--config", write(root.parent / "config.yaml", values)]) == 0
    return rate


def test_the_history_has_the_rate_that_each_epoch_was_trained_at(videos, tmp_path, monkeypatch):
    assert trained(videos, tmp_path / "step", STEP, monkeypatch, [1, 1, 1]) == [0.2, 0.1, 0.05]
    assert rates(tmp_path / "step") == [0.2, 0.1, 0.05]
    cosine = trained(videos, tmp_path / "cosine", {"kind": "cosine"}, monkeypatch, [1, 1, 1])
    assert cosine == pytest.approx([0.2, 0.15, 0.05])  # at each epoch's first batch
    plateau = {"kind": "plateau", "every": 2, "factor": 0.5}
    rate = trained(videos, tmp_path / "plateau", plateau, monkeypatch, [2, 1, 1, 1, 0.5, 0.5, 0.5])
    assert rate == [0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1]
    assert rates(tmp_path / "plateau") == [0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("kind", ["step", "plateau"])
def test_training_ends_when_the_rate_comes_down_to_its_floor(videos, tmp_path, monkeypatch, kind):
    """Of either schedule, "when the learning rate lowers to" it (supplement, section 1), and again after a resume."""
    schedule = {"kind": kind, "every": 1, "factor": 0.1, "stop_at": 0.002}
    expected = [0.2, 0.2, 0.02] if kind == "plateau" else [0.2, 0.02]
    assert trained(videos, tmp_path / kind, schedule, monkeypatch, [1] * 6) == pytest.approx(expected)
    file = str(tmp_path / "config.yaml")
    assert main(["fit", "--config", file, "--ckpt_path", "last"]) == 0
    assert rates(tmp_path / kind) == pytest.approx(expected)
