"""Training: resuming, several processes, learning rates, frozen statistics, what a run leaves behind."""

import csv
import itertools
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from torch.nn.modules.batchnorm import _BatchNorm

import prernn
from prernn.commands.main import main
from prernn.media.sampling import Sampling
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.tasks.action.task import Action
from prernn.training.continuity import SINGLE_CLIPS, Continuity
from prernn.training.data_module import VideoData
from prernn.training.learning import Learning
from prernn.training.learning.averaging import AveragedWeights, exponential
from prernn.training.module import VideoModule
from small_runs import CLASSES, TINY, config, render, write


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """A run of three epochs in one go."""
    root = tmp_path_factory.mktemp("whole")
    file = write(root / "config.yaml", config(videos, root / "run", max_epochs=3))
    assert main(["fit", "--config", file]) == 0
    return root / "run", file


def test_a_run_keeps_batch_statistics_frozen(finished):
    """Lightning trains in the mode that it finds, so the module has to be in the right one from the start."""
    state = checkpoint.load(finished[0]).state_dict()
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means
    assert not any(value.any() for value in means)
    assert not any(value for name, value in state.items() if name.endswith("num_batches_tracked"))


def test_a_run_leaves_its_results(videos, finished):
    run, file = finished
    assert main(["test", "--config", file]) == 0
    assert main(["predict", "--config", file]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["labels"] == list(CLASSES)
    assert np.sum(metrics["confusion"]) == 4
    assert metrics["labels"] == list(CLASSES)
    with (run / "predictions.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 4
    hits = [row["label"] == os.path.basename(os.path.dirname(row["path"])) for row in rows]
    assert np.mean(hits) == pytest.approx(metrics["clip_accuracy"])
    with (run / "history.csv").open() as lines:
        history = list(csv.DictReader(lines))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    kept = yaml.safe_load((run / "config.yaml").read_text())  # of the training, after a test too
    assert kept["trainer"]["max_epochs"] == 3
    assert kept["model"]["recipe"]["backbone"] == TINY
    for picture in ("curves.png", "confusion.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")


def test_both_kinds_of_checkpoint_load_as_the_same_network(finished):
    run, _ = finished
    video = torch.randn(1, 2, 3, 32, 32)
    first, second = prernn.load(run), prernn.load(run / "checkpoints" / "last.ckpt")
    assert first.recipe == second.recipe
    assert first.recipe.labels == list(CLASSES)
    with torch.no_grad():
        assert torch.equal(first(video)[0], second(video)[0])


def test_a_checkpoint_of_another_network_is_refused_in_one_line(videos, finished, tmp_path, capsys):
    values = config(videos, tmp_path / "run")
    values["model"]["recipe"]["cell"] = "lstm"
    last = finished[0] / "checkpoints" / "last.ckpt"
    for command in ("fit", "test"):
        assert main([command, "--config", write(tmp_path / "c.yaml", values), "--ckpt_path", str(last)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("prernn: error:")
        assert "another network" in error


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["data"].update(bogus=1), "bogus"),
        (lambda c: c.update(bogus=1), "bogus"),
        (lambda c: c["model"]["recipe"].update(cell="elman"), "elman"),
        (lambda c: c["model"]["recipe"].update(hidden="band:4"), "band:4"),
        (lambda c: c["model"]["recipe"].update(layer="nowhere"), "nowhere"),
        (lambda c: c["model"]["recipe"].update(backbone="resnet5000"), "resnet5000"),
        (lambda c: c["model"]["recipe"].update(weights="absent.pth"), "absent.pth"),
        (lambda c: c["data"].update(root="absent"), "absent"),
        (lambda c: c["data"]["task"]["init_args"].update(layout="ucf101"), "classInd.txt"),
        (lambda c: c["data"]["task"]["init_args"]["sampling"].update(rule="sometimes"), "sometimes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(videos, tmp_path, capsys, change, complaint):
    values = config(videos, tmp_path)
    change(values)
    assert main(["fit", "--config", write(tmp_path / "config.yaml", values)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("prernn: error:")
    assert complaint in lines[-1]
    assert "Traceback" not in "".join(lines)


def test_a_bad_video_stops_the_run_or_is_skipped_as_the_user_chose(videos, tmp_path, capsys):
    root = tmp_path / "videos"
    for label, name in enumerate(CLASSES):
        for number in range(2):
            render(root / "train" / name, label, number)
            render(root / "test" / name, label, number)
    bad = root / "train" / CLASSES[0] / "bad.mp4"
    bad.write_text("not a video")
    values = config(root, tmp_path / "run", max_epochs=1)
    values["data"]["num_workers"] = 1
    file = write(tmp_path / "config.yaml", values)
    assert main(["fit", "--config", file, "--data.on_error", "raise"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("prernn: error:")
    assert "bad.mp4" in error
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.warns(RuntimeWarning, match="skipped"):
        assert main(["fit", "--config", file, "--data.on_error", "skip", "--data.num_workers", "0"]) == 0
    assert "skipped 1 video:" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").exists()
    for path in (root / "test" / CLASSES[0]).glob("*.mp4"):  # all that the check before training reads
        path.write_text("not a video")
    one_by_one = ["--data.batch_size", "1", "--trainer.num_sanity_val_steps", "2", "--data.holdout", "0"]
    assert main(["fit", "--config", file, "--data.on_error", "skip", *one_by_one]) == 0
    assert "skipped 3 videos:" in capsys.readouterr().out
    for path in (root / "test").rglob("*.mp4"):
        path.write_text("not a video")
    assert main(["test", "--config", file, "--data.on_error", "skip"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("prernn: error: none of 4 videos could be read: ")
    assert "0.mp4: not a video" in error


def test_a_full_disk_leaves_the_old_checkpoint(videos, tmp_path, capsys, monkeypatch):
    file = write(tmp_path / "config.yaml", config(videos, tmp_path / "run"))
    assert main(["fit", "--config", file, "--trainer.max_epochs", "1"]) == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()

    def full(self, checkpoint, path, storage_options=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.plugins.io.TorchCheckpointIO.save_checkpoint", full)
    assert main(["fit", "--config", file, "--ckpt_path", "last"]) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_training_that_diverges_stops_and_keeps_what_was_finite(videos, tmp_path, capsys, monkeypatch, where):
    file, root = tmp_path / "config.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(config(videos, root, max_epochs=1)))
    assert main(["fit", "--config", str(file)]) == 0
    kept = {path: path.read_bytes() for path in (root / "model.safetensors", *(root / "checkpoints").iterdir())}
    history = (root / "history.csv").read_text()
    step = VideoModule.training_step

    def diverge(module, batch, index):
        loss = step(module, batch, index) if where == "weights" or index == 0 else None
        if index == 1:  # the last of the epoch
            module.network.output_layer.weight.data.fill_(math.nan)
        return step(module, batch, index) if loss is None else loss

    monkeypatch.setattr(VideoModule, "training_step", diverge)
    assert main(["fit", "--config", str(file), "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prernn: error")]
    if where == "loss":
        assert "epoch 2, batch 2" in line
        assert "the loss is nan" in line
        assert ".mp4" in line
    else:
        assert "epoch 2: cnn." in line
        assert "not finite any more" in line
    for path, content in kept.items():
        assert path.read_bytes() == content
    assert (root / "history.csv").read_text() == history
    assert all(value.isfinite().all() for value in prernn.load(root).state_dict().values())


ROWS = Continuity(clips=2, carry=True, reset=0.0, onset=0.5)
"""Rows whose state goes on."""


class Watch(L.Callback):
    """What each step of a process was."""

    def __init__(self):
        self.losses, self.paths = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.paths += batch["path"]

    def on_train_epoch_end(self, trainer, module):
        self.losses.append(float(trainer.callback_metrics["train_loss"]))


def prepare(root, devices, watch, continuity=SINGLE_CLIPS, **reading):
    """A trainer, for two epochs of global batches of four, and what it trains."""
    L.seed_everything(0)
    task = Action(sampling=Sampling(frames=4, rule="uniform"), size=32, scale=(1.0, 1.0), flip=False)
    data = VideoData(root, task, batch_size=4 // devices, num_workers=0, holdout=0, **reading)
    spec = NetworkSpec(TINY, cell="gru", input="single")
    module = VideoModule(spec, Learning(lr=0.05, pretrained_lr=0.01, continuity=continuity), data.task)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        use_distributed_sampler=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch, AveragedWeights(exponential(0.5))],  # whose averages are left behind
        **quiet,
    )
    return trainer, module, data


def train_in_processes(root, out, devices, continuity=SINGLE_CLIPS):
    """Each process writes what it saw, under its rank."""
    watch = Watch()
    trainer, module, data = prepare(root, devices, watch, continuity)
    trainer.fit(module, data)
    weights = sum(p.double().abs().sum().item() for p in module.network.parameters())
    result = {"losses": watch.losses, "paths": watch.paths, "weights": weights}
    Path(f"{out}{trainer.global_rank}").write_text(json.dumps(result))
    return result


def read_nothing_in_processes(root, devices):
    """What a training says of videos that can't be read, in every process."""
    trainer, module, data = prepare(root, devices, Watch(), on_error="skip")
    said = pytest.raises(ValueError, match=r"none of 5 videos could be read: .*; and 2 more")
    with pytest.warns(RuntimeWarning, match="skipped"), said:
        trainer.fit(module, data)


def test_two_processes_train_as_one_on_the_same_global_batch(videos, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)  # Lightning's, where something else has started the processes
    for part, number in itertools.product(("train", "test"), range(5)):
        (bad := tmp_path / "bad" / part / CLASSES[number % 2]).mkdir(parents=True, exist_ok=True)
        (bad / f"{number}.mp4").write_text("no video")
    call = f"train_in_processes({str(videos)!r}, {str(tmp_path / 'rank')!r}, 2)"
    call += f"; train_in_processes({str(videos)!r}, {str(tmp_path / 'rows')!r}, 2, ROWS)"
    call += f"; read_nothing_in_processes({str(tmp_path / 'bad')!r}, 2)"
    code = f"import sys; sys.path[:0] = {sys.path}; from test_training import *; {call}"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "LOCAL_RANK": "1"}) as other:
        try:
            one = train_in_processes(videos, tmp_path / "one", 1)  # while the other process starts
            train_in_processes(videos, tmp_path / "rank", 2)
            row = train_in_processes(videos, tmp_path / "row", 1, ROWS)
            train_in_processes(videos, tmp_path / "rows", 2, ROWS)
            read_nothing_in_processes(tmp_path / "bad", 2)
            assert other.wait(60) == 0
        finally:
            other.kill()
            torch.distributed.destroy_process_group()
    rows = [json.loads((tmp_path / f"rows{rank}").read_text()) for rank in (0, 1)]
    assert sorted(rows[0]["paths"] + rows[1]["paths"]) == sorted(row["paths"])  # each process has states of its own
    np.testing.assert_allclose(rows[0]["losses"], row["losses"], rtol=1e-5)
    np.testing.assert_allclose([part["weights"] for part in rows], row["weights"], rtol=1e-5)
    two = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1)]
    seen = [path for rank in two for path in rank["paths"]]
    assert sorted(seen) == sorted(one["paths"])
    assert len(seen) == 2 * 8
    assert len(set(seen)) * 2 == len(seen)  # two epochs, no clip twice in one
    assert not set(two[0]["paths"][:4]) & set(two[1]["paths"][:4])
    np.testing.assert_allclose(two[0]["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(two[0]["weights"], one["weights"], rtol=1e-5)
    np.testing.assert_allclose(two[1]["weights"], two[0]["weights"], rtol=1e-12)


def module_of(**learning):
    task = Action()
    task.labels = ["a", "b"]
    return VideoModule(NetworkSpec(TINY, cell="gru", input="gate"), Learning(**learning), task)


def test_each_part_learns_at_its_own_rate():
    module = module_of(lr=0.3, pretrained_lr=0.01)
    groups = {group["name"]: group for group in module.configure_optimizers()["optimizer"].param_groups}
    names = {id(p): name for name, p in module.network.named_parameters()}
    new = {names[id(p)] for p in groups["new"]["params"]}
    layer = module.network.recipe.steps[0].arguments["layer"][0]
    assert new == {f"cnn.{layer}.hidden_to_hidden.weight", f"cnn.{layer}.bias", "cnn.fc.weight", "cnn.fc.bias"}
    assert groups["new"]["lr"] == 0.3
    assert groups["pretrained"]["lr"] == 0.01
    assert len(groups["new"]["params"]) + len(groups["pretrained"]["params"]) == len(names)


def test_a_layer_drawn_anew_and_a_stacked_rnn_are_new():
    for recipe, part in (
        (NetworkSpec(TINY, pretrained_layer=False), "input_to_hidden"),
        (NetworkSpec(TINY, method="traditional"), "recurrent_0.input_to_hidden"),
    ):
        net = recipe.build(2)
        new = {id(p) for p in net.new_parameters()}
        inside = [p for name, p in net.named_parameters() if part in name and "tail" not in name]
        assert inside
        assert all(id(p) in new for p in inside)


def test_zero_rate_freezes_the_pretrained_part():
    module = module_of(pretrained_lr=0.0)
    trained = {name for name, p in module.network.named_parameters() if p.requires_grad}
    assert 0 < len(trained) < 6
    assert len(module.configure_optimizers()["optimizer"].param_groups) == 1


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_statistics_stay_frozen_if_asked(frozen):
    module = module_of(frozen_statistics=frozen)
    assert module.training
    trunk = [m for name, m in module.network.cnn.named_modules() if isinstance(m, _BatchNorm) and "tail" not in name]
    before = trunk[0].running_mean.clone()
    module(torch.randn(2, 2, 3, 32, 32))
    assert torch.equal(before, trunk[0].running_mean) == frozen
    tail = [m for name, m in module.network.cnn.named_modules() if isinstance(m, _BatchNorm) and "tail" in name]
    assert tail
    assert not any(m.training for m in tail)  # eqs. 6, 7, 10: pre-computed statistics, always


@pytest.mark.parametrize("frozen", [True, False])
def test_padding_repeats_the_last_frame_where_batch_statistics_are_learned(frozen):
    video = torch.randn(2, 3, 3, 4, 4)
    video[0, 2:] = 0
    batch = {"input": video, "lengths": torch.tensor([2, 3])}
    seen = module_of(frozen_statistics=frozen)._video(batch)
    assert torch.equal(seen[1], video[1])
    assert torch.equal(seen[0, :2], video[0, :2])
    assert torch.equal(seen[0, 2], video[0, 2 if frozen else 1])
