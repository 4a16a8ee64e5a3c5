"""How arguments are read: options win over configurations, and a task has its own defaults."""

import pytest
import yaml

from footage import class_videos
from prernn.commands.main import main
from prernn.training.lightning_cli import plain_words


def shown(capsys, *words):
    """The configuration that ``--print_config`` shows."""
    with pytest.raises(SystemExit):
        main(["fit", *words, "--data.root", "x", "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_options_win_wherever_the_configuration_stands(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("model: {learning: {lr: 1e-3, momentum: 0.5}}")
    words = [["--config", str(tmp_path / "c.yaml")], ["--model.learning.lr", "0.5"]]
    for order in (words, words[::-1]):
        values = shown(capsys, *order[0], *order[1])
        assert values["model"]["learning"]["lr"] == 0.5
        assert values["model"]["learning"]["momentum"] == 0.5


@pytest.mark.parametrize("way", ["config", "option", "short"])
def test_a_task_does_not_inherit_the_defaults_of_another(way, tmp_path, capsys):
    """Action mirrors training clips, Gesture does not: "swipe left" is no "swipe right"."""
    (tmp_path / "c.yaml").write_text("data: {task: {class_path: prernn.tasks.Gesture, init_args: {snippet: 4}}}")
    words = {
        "config": ["--config", str(tmp_path / "c.yaml")],
        "option": ["--data.task", "prernn.tasks.Gesture"],
        "short": ["--data.task=gesture"],
    }
    task = shown(capsys, *words[way])["data"]["task"]
    assert task["class_path"] == "prernn.tasks.Gesture"
    assert task["init_args"]["flip"] is False


def test_the_default_task_takes_options_of_its_own(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: {task: {init_args: {size: 32}}}\nmodel: {recipe: {cell: lstm}}")
    task = shown(capsys, "--config", str(tmp_path / "c.yaml"), "--data.task.sampling.frames", "3")["data"]["task"]
    assert task["class_path"] == "prernn.tasks.Action"
    assert (task["init_args"]["size"], task["init_args"]["sampling"]["frames"]) == (32, 3)
    assert plain_words(["--weights", "w", "-c", "a.yaml"])[:2] == ["--data.task=prernn.tasks.Action", "--config=a.yaml"]


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_that_is_not_there_is_no_new_training(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    class_videos(tmp_path / "videos", ["a", "b"])
    words = ["--data.root", "videos", "--backbone", "timm/test_resnet", "--trainer.default_root_dir", "run"]
    assert main([command, *words, "--ckpt_path", name]) == 2
    assert f"expected a checkpoint at run/checkpoints/{name}.ckpt, found none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
