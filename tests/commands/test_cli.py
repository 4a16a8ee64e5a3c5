"""The command line: what it prints, and that a user's mistake is one line and exit code 2."""

import argparse
import errno
import os
import re
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest
import torch

from prernn.commands import compare
from prernn.commands.main import main
from prernn.media.encoding import write_video
from prernn.media.transforms import TransformSpec
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.studies.comparison.lineup import Budget


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained network."""
    root = tmp_path_factory.mktemp("run")
    net = NetworkSpec("timm/test_resnet", cell="gru", input="single").build(3)
    spec = {**TransformSpec(size=32).__dict__}
    net.recipe = replace(net.recipe, labels=["left", "right", "still"], transform=spec)
    checkpoint.save(net, root)
    return root


@pytest.fixture
def clip(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", frames, 5)
    return tmp_path / "clip.mp4"


def test_inspect_prints_the_papers_numbers(capsys):
    assert main(["inspect", "vgg16", "--layer", "classifier.0", "--cell", "lstm", "--hidden", "full", "diagonal"]) == 0
    text = capsys.readouterr().out
    assert "0.179" in text  # Table 3: PreRNN-SIH to PreRNN on fc6, LSTM
    assert "375,390,208" in text  # 3 copies of 25088 x 4096 and 4 W_hh of 4096 x 4096
    assert "16,384" in text  # four diagonals
    assert "0.000044" in text  # of all new weights
    assert "0.000 " not in text


def test_inspect_prints_the_state_of_an_rcn(capsys):
    assert main(["inspect", "resnet18", "--rcn", "--hidden", "full", "diagonal", "--layer", "layer4.?.conv?"]) == 0
    text = capsys.readouterr().out
    assert "layer4.1.conv2" in text
    assert "layer3" not in text
    assert "25,089" in text  # 512 x 7 x 7, and whether it has started
    assert "100,356" in text  # four of them ...
    assert "0.4" in text  # ... in MB
    assert "1,865,453,568" in text  # 1,814,073,344 of ResNet-18 and 4 x 512 x 512 x 49
    assert main(["inspect", "resnet18", "--rcn", "--size", "112", "--hidden", "diagonal"]) == 0
    assert "56x56" in capsys.readouterr().out
    assert main(["inspect", "resnet18", "--rcn", "--layer", "nothing"]) == 2


def test_inspect_builds_no_weights(monkeypatch):
    built = []
    empty = torch.empty

    def watch(*shape, **options):
        tensor = empty(*shape, **options)
        built.append(0 if tensor.is_meta else tensor.numel())
        return tensor

    monkeypatch.setattr(torch, "empty", watch)
    assert main(["inspect", "vgg16", "--cell", "vrnn"]) == 0
    assert max(built, default=0) < 1_000_000


def test_info_names_versions(capsys):
    assert main(["info"]) == 0
    assert torch.__version__.partition("+")[0] in capsys.readouterr().out


def test_stream_prints_a_line_a_frame_and_writes_files(run, clip, tmp_path, capsys):
    assert main(["stream", str(clip), "--checkpoint", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",")[:4] == ["frame", "time_s", "label", "probability"]
    assert len(lines) == 6
    table, video = tmp_path / "out.csv", tmp_path / "out.mp4"
    arguments = ["--csv", str(table), "--video", str(video), "--limit", "3"]
    assert main(["stream", str(clip), "--checkpoint", str(run), *arguments]) == 0
    assert [line.split(",")[2] for line in table.read_text().splitlines()] == [line.split(",")[2] for line in lines[:4]]
    assert video.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "nonsense"),
        (["stream", "absent.mp4", "--checkpoint", "RUN"], "absent.mp4"),
        (["stream", "TEXT", "--checkpoint", "RUN"], "text.mp4"),
        (["stream", "CLIP", "--checkpoint", "absent"], "absent"),
        (["stream", "CLIP"], "--checkpoint"),
        (["inspect", "resnet5000"], "resnet5000"),
        (["inspect", "vgg16", "--hidden", "band:4"], "band:4"),
        (["inspect", "vgg16", "--layer", "nowhere"], "nowhere"),
        (["inspect", "vit_b_16"], "197 tokens"),
        (["inspect", "vgg16", "--cell", "elman"], "elman"),
        (["test"], "data.root"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run, clip, tmp_path, capsys, monkeypatch, arguments, complaint):
    (tmp_path / "text.mp4").write_text("not a video")
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(run), "CLIP": str(clip), "TEXT": "text.mp4"}
    assert main([places.get(word, word) for word in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("prernn: error: ")
    assert complaint in lines[0]


def test_a_full_disk_is_one_line(run, clip, tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prernn.streaming.watch.watch", full)
    assert main(["stream", str(clip), "--checkpoint", str(run)]) == 2
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["paper", "list"], ["info"], ["stream", "{clip}", "--checkpoint", "{run}"]],
    ids=str,
)
def test_a_reader_that_has_enough_is_no_mistake(words, run, clip, monkeypatch, capsys):
    """``prernn ... | head``: what is written into a pipe that nobody holds any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main([word.format(run=run, clip=clip) for word in words]) == 0
        pipe.write("what Python has left to write at its end")
    assert capsys.readouterr().err == ""


def test_a_process_whose_reader_has_enough_ends_quietly():
    command = [sys.executable, "-m", "prernn.commands.main", "paper", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("PRERNN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="resnet5000"):
        main(["inspect", "resnet5000"])


def test_the_installed_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "prernn.commands.main", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("demo", "fit", "test", "stream", "inspect", "info"):
        assert command in done.stdout


@pytest.mark.parametrize(("error", "code"), [(BrokenProcessPool("a process died"), 2), (RuntimeError("a bug"), None)])
def test_a_process_that_dies_is_one_line_and_a_bug_is_not_hidden(error, code, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("prernn.ops.missing", fail)
    if code is None:
        with pytest.raises(RuntimeError, match="a bug"):
            main(["info"])
    else:
        assert main(["info"]) == code
        assert capsys.readouterr().err == "prernn: error: a process died\n"


def test_help_tells_the_defaults_of_a_comparison():
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    for action in parser._actions:
        value = getattr(Budget(), action.dest, None)
        if value is not None and action.dest != "judge":  # whose choices say it
            told = re.search(r"\(default (\d[\d.]*(?: \d[\d.]*)*)", action.help or "")
            assert told, action.dest
            assert told[1] == " ".join(map(str, value if isinstance(value, tuple) else [value])).replace("1.0", "1")
