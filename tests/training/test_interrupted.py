"""A training that the user stops: what stands, what is said, and that it goes on."""

import os
import signal

import pytest

from prernn.commands.main import main
from prernn.training.module import VideoModule
from small_runs import config, write

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_an_interrupted_training_leaves_its_curves_and_says_how_to_go_on(
    videos, tmp_path, capsys, monkeypatch, number, code
):
    file, root = write(tmp_path / "config.yaml", config(videos, tmp_path / "run", max_epochs=4)), tmp_path / "run"
    step = VideoModule.training_step

    def interrupted(module, batch, index):
        if (module.current_epoch, index) == (2, 0):
            os.kill(os.getpid(), number)
        return step(module, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(VideoModule, "training_step", interrupted)
        assert main(["fit", "--config", file, "--model.learning.lr", "0.01"]) == code
    signal.signal(signal.SIGINT, signal.default_int_handler)  # for what goes on below
    error = capsys.readouterr().err
    command = f"prernn fit --config {file} --model.learning.lr 0.01 --ckpt_path last"
    assert f"interrupted in epoch 3; continue from the end of epoch 2 with: {command}" in error
    assert "Traceback" not in error
    assert (root / "curves.png").is_file()
    assert (root / "history.csv").read_text().count("\n") == 3
    assert main(command.split()[1:]) == 0
    assert (root / "history.csv").read_text().count("\n") == 5


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from(videos, tmp_path, capsys, monkeypatch):
    file = write(tmp_path / "config.yaml", config(videos, tmp_path / "run"))

    def interrupted(module, batch, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoModule, "training_step", interrupted)
    assert main(["fit", "--config", file]) == 130
    assert "interrupted in epoch 1, before there was a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "run" / "curves.png").exists()
