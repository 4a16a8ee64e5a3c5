"""Typical mistakes: each is one line that says what was expected, with the option or path as typed."""

import shlex
import shutil

import pytest

from footage import class_videos
from prernn.commands.arguments.complaints import plain
from prernn.commands.main import main

SMALL = (
    "--backbone timm/test_resnet --data.num_workers 0 --trainer.accelerator cpu --trainer.logger false "
    "--trainer.enable_progress_bar false"
)
FIT = f"fit --data.root videos {SMALL}"
MISTAKES = {
    f"{FIT} --model.learning.lrr 1": "unknown option --model.learning.lrr; did you mean --model.learning.lr or",
    f"{FIT} --model.learning.lr x": "--model.learning.lr: expected a number, got 'x'",
    f"{FIT} --model.learning '{{lrr: 1}}'": "option --model.learning.lrr; did you mean",
    f"{FIT} --model.learning.schedule.kind stpe": "got 'stpe'; did you mean step?",
    f"{FIT} --model.recipe.method prern": "--model.recipe.method: expected one of prernn, traditional, ",
    f"{FIT} --model.recipe.cell gruu": "got 'gruu'; did you mean gru or ligru or mingru?",
    f"{FIT} --backbone tset_resnet": "did you mean test_resnet",
    f"{FIT} --data.task.layout folder": "--data.task.layout: expected one of folders, ucf101, hmdb51",
    f"{FIT} --data.task.sampling uniform": "expected --data.task.sampling.frames, --data.task.sampling.rule",
    f"{FIT} --data.task Actoin": "face, segments, or a class as file.py:Name, got 'Actoin'; did",
    f"{FIT} --trainer.max_epochs ten": "--trainer.max_epochs: expected a whole number, got 'ten'",
    f"{FIT} --trainer.max_epochs -5": "max_epochs",
    f"{FIT} --ckpt_path text.txt": "--ckpt_path text.txt: expected a file such as RUN/checkpoints/last.ckpt",
    f"{FIT} --ckpt_path broken.ckpt": "broken.ckpt: expected a Lightning checkpoint",
    f"{FIT} word": "unknown word word",
    "test runs/absent": "runs/absent: expected a run folder with its config.yaml, found none",
    "predict text.txt --engine torch": "text.txt: expected a run folder with its config.yaml, found none",
    "fit --config absent.yaml": "--config: expected a file, found no ",
    f"fit {SMALL}": "expected --data.root (the data set's folder), got none",
    f"fit --data.root vidoes {SMALL}": "vidoes: expected a folder of videos, found none; did you mean videos?",
    f"fit --data.root one {SMALL}": "one: expected at least 2 classes, found only a",
    f"fit --data.root one/train/a {SMALL}": "expected train/<class>/<video>, found no folder train but",
    f"fit --data.root videos/train {SMALL}": "found no folder train but the folders a, b: take videos",
    f"fit --data.root phone {SMALL}": "the folders a, b: move a to phone/train/a, some of its videos to phone/test/a",
    "streem": "did you mean stream?",
    "stream x.mp4 --checkpoint run --cvs out.csv": "unknown option --cvs; did you mean --csv",
    f"compare --data.root videos --out x {SMALL} --epoch 2": "unknown option --epoch; did you mean --epochs?",
    f"compare --out x {SMALL}": "expected --data.root (the data set's folder), got none",
    "bench recurence": "did you mean recurrence or sequences?",
    "paper shw": "did you mean show?",
    "quantize nothing/here": "nothing/here: expected a run folder or checkpoint, found none",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mistakes")
    class_videos(root / "videos", ["a", "b"])
    class_videos(root / "one", ["a"])
    (root / "one" / "train" / "a" / "1.mp4").unlink()
    shutil.copytree(root / "videos" / "train", root / "phone")
    (root / "text.txt").write_text("no checkpoint")
    (root / "broken.ckpt").write_text("no checkpoint")
    return root


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_that_helps(words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(shlex.split(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prernn: error: ")
    assert MISTAKES[words] in line
    assert "Union" not in line
    assert "Parser key" not in line


def test_other_messages_stay_as_they_are():
    for message in ("a.mp4: no such file", "resnet5000: unknown", "line 3: expected a number"):
        assert plain(message) == message
