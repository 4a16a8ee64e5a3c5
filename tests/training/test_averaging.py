"""Averages of weights and early stopping: what is averaged, what is validated, kept and tested, when training ends."""

import csv
import json

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import prernn
from equations import close
from prernn.commands.main import main
from prernn.training.learning import Learning
from prernn.training.learning.averaging import AveragedWeights, exponential, mean
from prernn.training.learning.stopping import Patience
from small_runs import config, write

DECAY = 0.7


class Drift(L.LightningModule):
    """Weights that move by 1 with each step; statistics and a count beside them, and a weight that stays."""

    def __init__(self, scores=()):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 1).double(), nn.BatchNorm1d(2).double()
        self.still = nn.Parameter(torch.tensor([0.1, 1 / 3], dtype=torch.float64), requires_grad=False)
        self.scores, self.trained, self.validated = list(scores), [], []

    def training_step(self, batch, index):
        return self.layer(self.norm(batch)).sum() * 0 - sum(p.sum() for p in self.layer.parameters())

    def on_train_batch_end(self, outputs, batch, index):
        self.trained.append((self.layer.weight.detach().clone(), self.norm.running_mean.clone()))

    def validation_step(self, batch, index):
        if not self.trainer.sanity_checking:
            self.validated.append((self.layer.weight.detach().clone(), self.norm.running_mean.clone()))
            self.log("val_score", torch.tensor(float(self.scores[self.current_epoch]) if self.scores else 0.0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), lr=1.0)


def trained(module, *callbacks, epochs=3, **options):
    batches = DataLoader(torch.randn(8, 2, dtype=torch.float64), batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **quiet, **options)
    trainer.fit(module, batches, DataLoader(torch.randn(2, 2, dtype=torch.float64)))
    return trainer


def test_an_average_is_the_formulas_and_validation_sees_it():
    L.seed_everything(0)
    module = Drift()
    still = module.still.clone()
    trained(module, AveragedWeights(exponential(DECAY)))
    averages = []
    for number, values in enumerate(module.trained):
        kept = min(DECAY, (1 + number) / (10 + number)) if number else 0
        before = averages[-1] if averages else values
        averages.append(tuple(kept * old + (1 - kept) * new for old, new in zip(before, values, strict=True)))
    assert len(averages) == 12
    close(module.validated[0::2], averages[3::4])  # two items each
    assert (averages[-1][0] != module.trained[-1][0]).any()
    close(module.layer.weight.detach(), averages[-1][0])  # what is left behind training
    assert torch.equal(module.still, still)  # to the last bit
    assert module.norm.num_batches_tracked == 12


@pytest.mark.parametrize(
    ("mode", "scores", "begin"),
    [
        ("min", [9, 8, 7, 6, 5, 4, 3, 2, 1], None),
        ("min", [9, 5, 7, 6, 8, 9, 9, 2, 1], 7),  # worse than the 5
        ("max", [1, 2, 3, 4, 5, 1.5, 2, 1, 9], 8),  # 2 is as good as 2
        ("max", [1, 2, 3, 4, 5, 6, float("nan"), 7], 7),
    ],
)
def test_the_mean_begins_when_validation_gets_worse(mode, scores, begin, tmp_path):
    L.seed_everything(0)
    module, average = Drift(scores), AveragedWeights(mean, "val_score", mode)
    trainer = trained(module, average, epochs=len(scores))
    steps = [weight for weight, _ in module.trained]  # four an epoch
    for epoch in range(len(scores)):
        seen, behind = module.validated[2 * epoch][0], steps[: 4 * (epoch + 1)]
        after = behind[4 * begin :] if begin is not None else []
        close(seen, torch.stack(after).mean(0) if after else behind[-1])
    assert average.begun == (begin is not None)
    trainer.save_checkpoint(tmp_path / "now.ckpt")
    saved = torch.load(tmp_path / "now.ckpt", weights_only=True)
    kept = saved["state_dict"]["layer.weight"]
    close(kept, torch.stack(steps[4 * begin :]).mean(0) if begin is not None else steps[-1])
    again = AveragedWeights(mean, "val_score", mode)
    again.load_state_dict(average.state_dict())
    assert again.should_update(step_idx=0) == (begin is not None)
    assert not again.should_update(epoch_idx=0)


def test_a_mean_that_waits_wants_validation():
    with pytest.raises(ValueError, match="average 'tail': expected validation"):
        trained(Drift(), AveragedWeights(mean, "val_score", "max"), limit_val_batches=0)


@pytest.mark.parametrize(
    ("mode", "scores", "epochs"),
    [
        ("max", [1, 2, 2, 1, 3, 0], 4),
        ("min", [3, 2, 2.5, 1, 1, 1], 6),
        ("max", [1, float("nan"), float("nan"), 2], 3),
    ],
)
def test_training_ends_when_patience_does(mode, scores, epochs):
    module = Drift(scores)
    trainer = trained(module, Patience("val_score", mode, 2), epochs=6)
    assert trainer.current_epoch == epochs


def test_patience_wants_validation():
    with pytest.raises(ValueError, match="patience: expected validation"):
        trained(Drift(), Patience("val_score", "max", 2), limit_val_batches=0)


def rows(root):
    with (root / "history.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_a_run_keeps_and_tests_averages_and_a_stopped_one_stays_stopped(videos, tmp_path, capsys):
    """One run for all of it: the score can't get better than all right, so that its patience of 1 ends."""
    root = tmp_path / "run"
    values = config(videos, root, max_epochs=9)
    values["model"]["learning"] |= {"average": 0.9, "patience": 1}
    values["model"]["recipe"]["calibrate"] = True
    file = write(tmp_path / "config.yaml", values)
    assert main(["fit", "--config", file]) == 0
    history = rows(root)
    assert 1 < len(history) < 9
    kept = prernn.load(root).state_dict()
    saved = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in kept.items():
        assert torch.equal(saved["state_dict"][f"network.{name}"], value), name
    assert any((saved["current_model_state"][f"network.{name}"] != value).any() for name, value in kept.items())
    assert all(value for name, value in kept.items() if name.endswith("measured"))  # an integer, which is no mean
    assert "patience: 1 validations without a better val_clip_accuracy" in capsys.readouterr().out
    assert main(["test", "--config", file]) == 0
    tested = json.loads((root / "metrics.json").read_text())
    assert tested["clip_accuracy"] == pytest.approx(
        float(history[-1]["val_clip_accuracy"])
    )  # holdout 0: the same videos
    capsys.readouterr()
    assert main(["fit", "--config", file, "--ckpt_path", "last"]) == 0
    assert "no epoch was left" in capsys.readouterr().out
    assert rows(root) == history


@pytest.mark.parametrize("wrong", [{"patience": 0}, *({"average": value} for value in (1.0, 0, -1, "x"))])
def test_numbers_out_of_range_are_said(wrong):
    with pytest.raises(ValueError, match="learning " + next(iter(wrong))):
        Learning(**wrong)


@pytest.mark.parametrize(
    ("learning", "said"),
    [
        ({"clip_groups": True}, "expected the limit as --trainer.gradient_clip_val"),
        ({"schedule": {"kind": "plateau", "warm_up": 2}}, "expected no warm_up before a plateau, got 2"),
        ({"dropout": {"inputs": 1.5}}, "dropout inputs: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(videos, tmp_path, capsys, learning, said):
    values = config(videos, tmp_path / "run")
    values["model"]["learning"] |= learning
    assert main(["fit", "--config", write(tmp_path / "config.yaml", values)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said in line
