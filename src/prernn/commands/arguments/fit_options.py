"""The options of ``prernn fit`` and related commands, read from source files without importing them.

The options are the arguments of our classes and of Lightning's Trainer, such as ``--model.recipe.cell`` or
``--trainer.max_epochs``. Importing these takes seconds, while reading their names from the source lets help and the
report of a mistyped option appear at once.
"""

import ast
import functools
import importlib.util
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from prernn.layers.names import close_to

COMMON = {
    "config": "FILE (YAML) with any of the options below; several are read in order; later ones and options win",
    "data.root": "folder of the videos",
    "backbone": "name of the network; short for --model.recipe.backbone",
    "weights": "file with its weights; short for --model.recipe.weights",
    "ckpt_path": "checkpoint to continue from (fit) or to use: a file, last or best",
    "trainer.max_epochs": "number of training epochs",
    "trainer.default_root_dir": "the run's folder (default runs/latest)",
    "seed_everything": "seed for weights, order and augmentation (default 0)",
    "print_config": "print the whole configuration and stop; [=comments] adds a comment to each option",
    "weights_only": "whether checkpoints are read as plain tensors",
    "verbose": "validate, test: whether to print the metrics",
    "return_predictions": "predict: whether to keep the predictions in memory",
    "help": "this text",
    "help-all": "Lightning's help, with all types and defaults; takes a few seconds",
}
"""Options that belong to no class, and those needed most often."""

OWN = Path(__file__).parents[2]
CLASSES: dict[str, tuple[str, str]] = {
    "model": ("training/module.py", "VideoModule"),
    "model.recipe": ("models/from_config.py", "NetworkSpec"),
    "model.learning": ("training/learning/learning.py", "Learning"),
    "model.learning.schedule": ("training/learning/schedule.py", "Schedule"),
    "model.learning.dropout": ("layers/dropout.py", "Dropout"),
    "model.learning.first": ("training/learning/phases.py", "FirstPhase"),
    "model.learning.continuity": ("training/continuity.py", "Continuity"),
    "data": ("training/data_module.py", "VideoData"),
    "data.task.sampling": ("media/sampling.py", "Sampling"),
    "data.task.flow": ("media/flow.py", "FlowSettings"),
    "data.task.events": ("streaming/events.py", "EventRule"),
}
"""The classes whose arguments follow each prefix; those of the applications are found in their folders."""

OWN_TASK = re.compile(r"(?:--data\.task|--data\.task\.class_path|class_path:) +(?!prernn\.|lightning\.|torch\.)\S")
"""A class that is neither ours nor Lightning's."""

FREE = ("class_path", "init_args", "help", "dict_kwargs")
"""What Lightning's command line accepts after the name of any class."""


def check_options(command: str, words: Sequence[str], own: Sequence[str] = ()) -> None:
    """Checks the names of options before anything is imported for their values.

    Args:
        command: the command they belong to.
        words: the words that were typed.
        own: names of further options of the command, which may have been meant.

    Raises:
        ValueError: an unknown name; the message lists similar ones.
    """
    own_task = _names_own_task(words)
    for word in words:
        name = word.partition("=")[0]
        if own_task and name.startswith("--data.task."):
            continue  # its options are in a file of the user's
        if name.startswith("--") and len(name) > 2 and not _is_known(name[2:].rstrip("+")):
            near = close_to(name[2:], [*own, *known_options()], "--")
            raise ValueError(f"unknown option {name}{near} (see prernn {command} --help)")


def _names_own_task(words: Sequence[str]) -> bool:
    """Whether the words, or a configuration they name, give a task that is not prernn's."""
    files = [Path(word.rpartition("=")[2]) for word in words if word.endswith((".yaml", ".yml"))]
    said = " ".join(words).replace("=", " ")
    texts = [said, *(file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())]
    return any(OWN_TASK.search(text) for text in texts)


def _is_known(name: str) -> bool:
    if name in known_options() or name in ("model", "data", "trainer", *groups()):
        return True
    parts = [part for part in name.split(".") if part != "init_args"]
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in groups():  # a known argument, or more than can be read here
            return parts[length] in (*groups()[prefix], *FREE)
        if prefix in known_options():
            return True  # for example of a logger or a callback, which may be any class
    return False


@functools.cache
def known_options() -> list[str]:
    """All option names, without dashes."""
    return list(dict.fromkeys([*COMMON, *(f"{prefix}.{name}" for prefix, names in groups().items() for name in names)]))


@functools.cache
def groups() -> dict[str, dict[str, str]]:
    """``{prefix: {argument: what it is}}``."""
    found = {prefix: arguments(OWN / file, name) for prefix, (file, name) in CLASSES.items()}
    for name in ("recipe", "learning", "task"):
        found["model"].pop(name, None)  # these have their own groups; the task comes from the data
    for name in ("backbone", "pretrained"):  # those of the recipe
        found["data"].pop(name)
    found["data.task"] = {}
    for file in sorted(OWN.glob("tasks/*/task.py")):
        for node in _classes(file):
            found["data.task"] |= arguments(file, node.name)
    lightning = importlib.util.find_spec("lightning")  # finds it without importing anything
    if lightning is not None and lightning.origin:
        trainer = Path(lightning.origin).parent / "pytorch" / "trainer" / "trainer.py"
        found["trainer"] = arguments(trainer, "Trainer")
    return found


def arguments(file: Path, name: str) -> dict[str, str]:
    """The arguments of a class, from its ``__init__`` or its fields, and what the docstring says about each."""
    node = next(node for node in _classes(file) if node.name == name)
    texts = _described(ast.get_docstring(node) or "")
    init = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    if init:
        given, only = init[0].args, init[0].args.kwonlyargs
        every = [*given.args[1:], *only]
        without = len(every) - len(only) - len(given.defaults)
        values = [*[None] * without, *given.defaults, *given.kw_defaults]
        return {own.arg: _text(texts.get(own.arg, ""), value) for own, value in zip(every, values, strict=True)}
    return {field: _text(texts.get(field, ""), value) for field, value in _fields(node)}


def _text(text: str, default: ast.expr | None) -> str:
    """The text on an argument, with its default if that is a plain value."""
    try:
        value = ast.literal_eval(default) if default is not None else None
    except ValueError:
        return text
    return text if value in (None, "") else f"{text.rstrip('.')} (default {value})"


@functools.cache
def _classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    """Fields of a dataclass that are arguments of its constructor, and their defaults."""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            value = ast.unparse(part.value) if part.value is not None else ""
            if not ast.unparse(part.annotation).startswith("ClassVar") and "init=False" not in value:
                yield part.target.id, part.value


def _described(docstring: str) -> dict[str, str]:
    """``{argument: text}`` from the Args and Attributes sections of a docstring."""
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n?|\n)+)", docstring, flags=re.MULTILINE)
    for entry in re.split(r"\n(?=[ ]{4}\w+:)", section[1].rstrip()) if section else []:
        name, _, text = entry.strip().partition(":")
        found[name] = " ".join(text.replace("``", "").split())
    return found


def help_text(command: str, what: str) -> str:
    """The help of ``prernn fit``, ``validate``, ``test`` or ``predict``."""
    lines = [
        f"usage: prernn {command} --config FILE [--data.root DIR] [--OPTION VALUE ...]",
        "",
        f"{what[0].upper()}{what[1:]}. Every option can be given in the file, as nested YAML, or on the command line.",
    ]
    for title, prefix, names in (("often used", "", COMMON), *((g, f"{g}.", names) for g, names in groups().items())):
        lines += ["", f"{title}:"]
        if prefix == "trainer.":
            joined = " ".join(f"--trainer.{name}" for name in names)
            lines += textwrap.wrap(joined, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
            lines.append("  (Lightning's: https://lightning.ai/docs/pytorch/stable/common/trainer.html)")
            continue
        for name, text in names.items():
            option = f"  --{prefix}{name}"
            wrapped = textwrap.wrap(text, 76) or [""]
            lines.append(f"{option:38} {wrapped[0]}" if len(option) < 38 else f"{option}\n{'':38} {wrapped[0]}")
            lines += [f"{'':38} {rest}" for rest in wrapped[1:]]
    return "\n".join(lines)
