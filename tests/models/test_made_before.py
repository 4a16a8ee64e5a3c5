"""Files that prernn wrote before recipes had a version and modules their rooms: they load and give what they gave.

The networks are small VGGs of random weights, made by prernn at d5b2648: a PreGRU at fc6 with band:5, an RCN with a
diagonal, and Lightning's checkpoint of a training of one epoch, PreGRU at fc6 with a diagonal.
"""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import prernn
from footage import class_videos
from prernn.commands.main import main
from prernn.tasks import restore

BEFORE = Path(__file__).parent / "made_before"
LABELS = ["close", "open", "wave"]


@pytest.mark.parametrize("name", ["converted", "rcn"])
def test_a_checkpoint_gives_what_it_gave(name):
    net = prernn.load(BEFORE / f"{name}.safetensors")
    known = load_file(BEFORE / f"{name}-outputs.safetensors")
    with torch.inference_mode():
        out, _ = net(known["video"])
        torch.testing.assert_close(out, known["outputs"], rtol=1e-5, atol=1e-5)
        state = None
        for frame in known["video"].unbind(1):
            step, state = net.step(frame, state)
        torch.testing.assert_close(step, known["outputs"][:, -1], rtol=1e-5, atol=1e-5)
    assert net.recipe.labels == LABELS
    assert net.recipe.transform["size"] == 16
    task = restore(net.recipe)
    assert (task.name, task.stream, task.flow.bound) == ("action", "color", 20.0)


def test_saved_again_it_has_a_version_and_gives_the_same(tmp_path):
    net = prernn.load(BEFORE / "converted.safetensors")
    again = prernn.load(prernn.save(net, tmp_path))
    assert again.recipe == net.recipe
    video = torch.randn(1, 3, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(video)[0], net(video)[0])


def test_a_training_of_before_goes_on_with_its_config_of_before(tmp_path, capsys):
    class_videos(tmp_path / "videos", LABELS)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(BEFORE / "lightning.ckpt", tmp_path / "run" / "checkpoints" / "last.ckpt")
    options = {"size": 16, "sampling": {"frames": 4, "rule": "uniform"}}
    small = {"width": 2, "units": 16, "size": 16}
    recipe = {"backbone": "small_vgg", "backbone_options": small, "layer": "fc6", "cell": "gru", "hidden": "diagonal"}
    task = {"class_path": "prernn.tasks.action.Action", "init_args": options}
    trainer = {"max_epochs": 2, "enable_progress_bar": False, "logger": False}
    values = {
        "trainer": {**trainer, "default_root_dir": str(tmp_path / "run")},
        "model": {"recipe": recipe},
        "data": {"root": str(tmp_path / "videos"), "batch_size": 3, "num_workers": 0, "task": task},
    }
    config = tmp_path / "before.yaml"
    config.write_text(yaml.safe_dump(values))
    assert main(["fit", "--config", str(config), "--ckpt_path", "last"]) == 0
    said = capsys.readouterr()
    assert "training: single clips, each from a zero state" in said.out  # at one rate for all, as it began
    assert "lr_new_x4" not in (tmp_path / "run" / "history.csv").read_text()
    (line,) = [line for line in said.err.splitlines() if "is now" in line]
    assert line == "prernn: before.yaml: prernn.tasks.action.Action is now prernn.tasks.Action"
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
