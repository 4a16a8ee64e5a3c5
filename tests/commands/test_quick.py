"""A quick command line: help and a mistyped option import nothing heavy. Modules are counted, not seconds."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import prernn
from prernn.benchmarks.options import OPTIONS
from prernn.commands.arguments import fit_options
from prernn.commands.main import COMMANDS, main

HEAVY = (
    "torch",
    "lightning",
    "torchvision",
    "timm",
    "torchmetrics",
    "av",
    "cv2",
    "matplotlib",
    "numpy",
    "rich",
    "jsonargparse",
)

ASK = """
import contextlib, io, json, sys
from prernn.commands.main import main
answers = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([answers, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def asked(*lines):
    """Exit code, output and complaints of each line of arguments, and the packages that a new process loaded."""
    command = [sys.executable, "-c", ASK, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers, loaded = json.loads(done.stdout)
    return answers, set(loaded)


def test_help_loads_nothing_heavy():
    lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    answers, loaded = asked(*lines, *(["bench", name, "--help"] for name in OPTIONS))
    for code, out, err in answers:
        assert (code or 0, err) == (0, "")
        assert "prernn" in out
    assert all(name in answers[0][1] for name in COMMANDS)
    assert answers[1][1] == f"prernn {prernn.__version__}\n"
    assert not loaded & set(HEAVY)


WORDS = ("inspect", "analyze", "early", "fuse", "quantize", "flow", "record")
"""Commands that take a word."""


@pytest.mark.parametrize("wrong", ["--nonsense", "--out"])
def test_a_mistyped_option_loads_nothing_heavy(wrong):
    lines = [[name, *(["word"] if name in WORDS else []), wrong] for name in COMMANDS]
    lines += [["nonsense"], [], ["stream", "a.mp4"], ["bench", "recurrence", "--nonsense"], ["demo", "word"]]
    lines.append(["compare", "--out", "x", "--", "--nonsense"])
    answers, loaded = asked(*lines)
    for line, (code, _, err) in zip(lines, answers, strict=True):
        assert code == 2, line
        assert len(err.splitlines()) == 1, err
        assert err.startswith("prernn: error: ")
    assert not loaded & set(HEAVY)


def test_the_papers_tables_load_nothing_heavy():
    name = "table4/pregru-fc6"
    lines = [["paper", "list"], ["paper", "list", "rcn"], ["paper", "show", name]]
    wrong = [["paper", "show", f"{name}8"], ["paper", "fit", name, "--data.rot", "x"]]
    answers, loaded = asked(*lines, *wrong)
    assert [code for code, _, _ in answers] == [0, 0, 0, 2, 2]
    assert all(name in answers[place][1] for place in (0, 2))
    assert all(name in err or "--data.root" in err for _, _, err in answers[3:])
    assert not loaded & set(HEAVY)


def test_import_loads_nothing():
    code = f"import sys, prernn; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", prernn.__all__)
def test_each_public_name_comes_when_it_is_asked_for(name):
    assert name in dir(prernn)
    assert getattr(prernn, name).__name__ == name
    with pytest.raises(ImportError):
        __import__(f"prernn.{name}")  # no module of that name


def test_the_list_of_names_is_what_type_checkers_see():
    tree = ast.parse(Path(prernn.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == sorted(prernn.__all__)
    assert {name: f"prernn.{room}" for name, room in prernn._ROOM_OF.items()} == seen


def test_help_of_fit_begins_with_our_own_options():
    answers, _ = asked(["fit", "--help"])
    text = answers[0][1]
    lines = text.splitlines()
    assert len(lines) < 370  # Lightning's text has 600
    first = text.index("\ntrainer:")
    assert all(0 <= text.index(f"--{name} ") < first for name in ("data.root", "backbone", "trainer.max_epochs"))
    assert text.index("--model.recipe.cell") < text.index("--data.task.flip") < first
    assert "learning rate of the new part (W_hh, recurrent biases" in text
    assert "(default 0.01)" in text
    assert text[first:].count("\n") < 20  # names alone, and where they are explained


def test_help_all_is_lightnings(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help-all"])
    assert "--trainer.accumulate_grad_batches" in capsys.readouterr().out


def test_info_needs_no_lightning():
    answers, loaded = asked(["info"])
    assert answers[0][0] == 0
    assert not loaded & {"lightning", "torchmetrics", "torchvision", "timm", "av", "cv2", "matplotlib"}


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--trainer.max_epoch", "--trainer.max_epochs"),
        ("--modl.recipe.cell", "--model.recipe.cell"),
        ("--data.task.sampling.frame=3", "--data.task.sampling.frames"),
        ("--bakbone", "--backbone"),
    ],
)
def test_a_mistyped_option_of_fit_is_told_what_it_might_be(word, near, capsys):
    assert main(["fit", "--config", "any.yaml", word, "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word.partition("=")[0] in line
    assert near in line


def test_the_options_that_are_read_are_those_that_lightning_has(monkeypatch):
    from lightning.pytorch.cli import LightningCLI

    from prernn.training import lightning_cli

    found = {}

    def look(cli, parser, args):
        for command, own in cli._subcommand_parsers.items():
            strings = {text for action in own._actions for text in action.option_strings}
            found[command] = {text[2:].rstrip("+") for text in strings if text.startswith("--")}
        raise KeyboardInterrupt

    monkeypatch.setattr(LightningCLI, "parse_arguments", look)
    for command in ("fit", "validate", "test", "predict"):  # each call makes the parser of its own command
        with pytest.raises(KeyboardInterrupt):
            lightning_cli.main([command])
        assert list(found)[-1] == command
    assert len(found) == 4
    for command, names in found.items():
        for name in names - {"model.task.help"}:
            fit_options.check_options(command, [f"--{name}"])
    theirs = set().union(*found.values())
    flat = {name for name in fit_options.known_options() if name.count(".") < 2 or name.startswith("model.recipe.")}
    short = {"backbone", "weights", "help-all"}
    assert flat - short - {name for name in flat if name.startswith("data.task.")} <= theirs
