"""``prernn fit | validate | test | predict``: LightningCLI over `VideoModule` and `VideoData`."""

import contextlib
import json
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.names import importable, lasting, own_class
from prernn.models.backbones import known_backbone
from prernn.models.checkpoint import recipe_of
from prernn.models.from_config import NetworkSpec
from prernn.reports.files import configuration, write_text
from prernn.tasks import DEFAULT_TASK, TASKS
from prernn.tasks.task import Task
from prernn.training.data_module import VideoData
from prernn.training.learning import DEFAULT_LEARNING, Learning
from prernn.training.learning.averaging import TAIL, AveragedWeights, exponential, mean
from prernn.training.learning.stopping import Patience
from prernn.training.module import VideoModule
from prernn.training.run.run_files import run_folder_of
from prernn.training.run.run_folder import RunFolder, WholeFiles

DEFAULT_ROOT = "runs/latest"
HARMLESS_WARNINGS = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",  # a resumed or tested run keeps its folder
    ".*log_every_n_steps.*",
    ".*args parameter is intended.*",
    ".*in eval mode at the start of training.*",  # frozen batch normalization is intended
    ".*LeafSpec.*",
    ".*custom batch sampler.*",  # ours yields every video once
)


VALUED = ("--config", "-c", "--data.task", "--data.task.class_path")
"""Options whose value is the next word, which is checked here."""


SHORT = {"--backbone": "--model.recipe.backbone", "--weights": "--model.recipe.weights"}
"""Short names of frequently changed options."""


MOVED = {f"prernn.tasks.{task.name}.{task.__name__}": f"prernn.tasks.{task.__name__}" for task in TASKS.values()}
"""Dotted names of classes in old configurations, and their current names."""


CLASS_IN_TEXT = re.compile(r"(?<=class_path: )[^\s,}'\"]+|(?<=task: )[^\s,}'\"{]+")
"""A task's class in a configuration."""


def plain_words(arguments: Sequence[str]) -> list[str]:
    """Arguments as they are parsed: configurations first, long names for `SHORT`, a task's class as a dotted name.

    If neither the words nor the configurations name a task, it is the default one. This is not a default of the parser,
    because that would keep the values of its options for another task with options of the same names.
    """
    files, words = [], []
    pairs = iter(arguments)
    for argument in pairs:
        name, equals, value = argument.partition("=")
        if name in VALUED and not equals:
            value, equals = next(pairs, ""), "="
            if not value:
                words.append(name)
                continue
        if name in ("--config", "-c"):
            files.append(str(configuration(value)))
        elif name in ("--data.task", "--data.task.class_path"):
            words.append(f"{name}={task_class(value)}")
        else:
            words.append(SHORT.get(name, name) + equals + value)
    said = any(word.startswith(("--data.task=", "--data.task.class_path=")) for word in words)
    said = said or any(_says_task(Path(file)) for file in files)
    default = [] if said else [f"--data.task=prernn.tasks.{DEFAULT_TASK.__name__}"]
    return [*default, *(f"--config={file}" for file in files), *words]


def _says_task(file: Path) -> bool:
    """Whether a configuration names a task; the parser complains about one that can't be read."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        task = values["data"]["task"]
        return isinstance(task, str) or "class_path" in task
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return False


def task_class(name: str) -> str:
    """The dotted name of a task's class, which may be given by its key in `TASKS`, or by its file."""
    return f"prernn.tasks.{TASKS[name].__name__}" if name in TASKS else importable(name)


class OneLineParser(LightningArgumentParser):
    """A parser that raises its complaints as a one-line ValueError, instead of printing the usage and exiting.

    A configuration with an old class name is read, and one line reports its current name.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._start = os.getcwd()  # jsonargparse reads a file from within its folder

    def parse_string(self, content: str, path: str | os.PathLike = "", **options: Any) -> Any:
        """As in jsonargparse, with current names, and with the user's own tasks."""
        for old, new in MOVED.items():
            renamed = re.sub(rf"\b{re.escape(old)}\b", new, content)
            if renamed != content:
                print(f"prernn: {path or 'config'}: {old} is now {new}", file=sys.stderr)
                content = renamed
        with contextlib.chdir(self._start):
            content = CLASS_IN_TEXT.sub(lambda match: task_class(match[0]), content)
        return super().parse_string(content, path, **options)

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raises ValueError with the message on one line."""
        raise ValueError(" ".join(line.strip() for line in message.splitlines() if line.strip())) from ex


class RunConfig(SaveConfigCallback):
    """Stores the configuration of a training as ``config.yaml`` in the run's folder, wherever the logger writes."""

    def __init__(self, parser: LightningArgumentParser, config: Any, **options: Any) -> None:
        super().__init__(parser, config, **{**options, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Writes it; a test or a prediction leaves that of the training unchanged."""
        if stage != "fit":
            return
        values = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        text = yaml.safe_dump(lasting_values(values, pl_module.task), sort_keys=False, allow_unicode=True)
        write_text(Path(trainer.default_root_dir) / "config.yaml", text)


def lasting_values(values: dict[str, Any], task: Task) -> dict[str, Any]:
    """A configuration's values with absolute paths, for a training from the start, not from a checkpoint."""
    model, data = values["model"]["recipe"], values["data"]
    options = data["task"].get("init_args", {})
    places = [(values["trainer"], "default_root_dir"), (data, "root"), (model, "weights")]
    for place, name in [*places, *((options, name) for name in task.path_options)]:
        place[name] = place[name] and os.path.abspath(place[name])
    for place, kind in ((data["task"], "class_path"), (model, "cell"), (model, "input")):
        place[kind] = lasting(place[kind])
    model["backbone"] = known_backbone(model["backbone"])
    return {**values, "ckpt_path": None}


def without_start(config: Namespace) -> Namespace:
    """The configuration for a command that takes a checkpoint, which has all weights, so no others are read."""
    restored = config.clone()
    recipe = restored[restored.subcommand].model.recipe
    recipe.weights, recipe.pretrained = None, False
    return restored


def _where_it_is(root: Path, others: Sequence[Path]) -> Path:
    """A run's folder; if it was moved, that of the given config.yaml."""
    holds = [folder for folder in (root, *others) if (folder / "checkpoints" / "last.ckpt").is_file()]
    return holds[0] if holds else root


class ProgressBar(RichProgressBar):
    """Lightning's, which counts epochs from 1 here, like everything that a run writes."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")


def _recall(config: Any) -> None:
    """Gives the task what its training measured, from the checkpoint, if the configuration leaves it open."""
    given = config.data.task
    kind: Any = own_class(given.class_path) if given else None
    kept = recipe_of(config.ckpt_path).task
    if kind is None or kept is None:
        return
    for name in kind.measured_options:
        if given.init_args.get(name) is None and name in kept.options:
            given.init_args[name] = kept.options[name]


def _otherwise(own: Recipe, kept: Recipe) -> str:
    """How the pictures that a network is to see differ from those in its checkpoint; empty if they do not."""
    augmentation = {"scale", "flip", "rotation", "shear"}
    now, then = (json.loads(json.dumps({"rate": net.rate, **(net.transform or {})})) for net in (own, kept))
    names = [name for name in now if name in then and now[name] != then[name] and name not in augmentation]
    return ", ".join(f"{name} is {now[name]}, in training it was {then[name]}" for name in names)


def _instead(folders: list[Path]) -> str:
    """What to do where there is no checkpoint of a training."""
    for folder in folders:
        if (folder / "model.safetensors").is_file():  # of prernn demo, or another program's
            use = f"prernn test {folder} --continuous, stream, verify, export and serve"
            return f"{folder} has no training to go on from, only a network, which is enough for {use}"
    return "run fit first, or pass --ckpt_path FILE"


class VideoCLI(LightningCLI):
    """The configured command. A run is in ``trainer.default_root_dir`` (default ``runs/latest``)."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        self._command = next(iter(options["args"]), None)
        super().__init__(*parts, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's knows no instance
        """The one that is asked for: each has a parser of all options, and building four takes four times as long."""
        known = super().subcommands()
        return {name: known[name] for name in known if name == self._command} or known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Data and network share the backbone; the task, which has read the labels, is passed from data to network."""
        parser.link_arguments("model.recipe.backbone", "data.backbone")
        parser.link_arguments("model.recipe.pretrained", "data.pretrained")
        parser.link_arguments("data.opened", "model.task", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments, and remembers how an interrupted training can be continued."""
        resume = [] if any(word.startswith("--ckpt_path") for word in args) else ["--ckpt_path", "last"]
        self.again = shlex.join(["prernn", *args, *resume])
        command = args[: 0 if not args or args[0].startswith("-") else 1]
        super().parse_arguments(parser, [*command, *plain_words(args[len(command) :])])

    def _parse_ckpt_path(self) -> None:
        """Checks a checkpoint's name; Lightning would look for a network's arguments in it, which ours lack."""
        path = self.config[self.config.subcommand].ckpt_path if self.config.get("subcommand") else None
        if path not in (None, "last", "best") and (Path(path).suffix != ".ckpt" or not Path(path).is_file()):
            near = run_folder_of(Path(path)) / "checkpoints" / "last.ckpt"
            hint = f"; did you mean {near}?" if near.is_file() else ""
            raise ValueError(f"--ckpt_path {path}: expected a file such as RUN/checkpoints/last.ckpt, found none{hint}")

    def before_instantiate_classes(self) -> None:
        """Puts checkpoints and logs into the run's folder, where ``--ckpt_path last`` finds them."""
        config = self.config[self.subcommand]
        root = Path(config.trainer.default_root_dir or DEFAULT_ROOT)
        folders = [Path(str(file)).parent for file in config.config or ()]
        if self.subcommand != "fit":
            root = _where_it_is(root, folders)
            config.ckpt_path = config.ckpt_path or "last"
        config.trainer.default_root_dir = str(root)
        if config.ckpt_path in ("last", "best"):
            path = root / "checkpoints" / f"{config.ckpt_path}.ckpt"
            if not path.is_file():
                raise ValueError(f"expected a checkpoint at {path}, found none: {_instead(folders)}")
            config.ckpt_path = str(path)
        if self.subcommand != "fit":
            _recall(config)
        self.asked = self.config
        if config.ckpt_path is not None:
            self.config = without_start(self.config)

    def before_validate(self) -> None:
        """Says if networks get other pictures than in training, as by the file that ``fit`` had with other options."""
        own, kept = self.model.network.recipe, recipe_of(self.config_init[self.subcommand].ckpt_path)
        if other := _otherwise(own, kept):
            print(f"prernn: {other}; prernn {self.subcommand} RUN takes the run's own configuration", file=sys.stderr)

    before_test = before_predict = before_validate

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        self.config = self.asked
        root = Path(config["default_root_dir"])
        folder = root / "checkpoints"
        # two callbacks: Lightning's save_last follows the best score, not the last epoch
        last = ModelCheckpoint(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        score, mode = self._get(self.config_init, "data").task.score
        best = ModelCheckpoint(folder, filename="best", enable_version_counter=False, monitor=f"val_{score}", mode=mode)
        checkpoints = [] if config.get("enable_checkpointing") is False else [last, best]
        learning = self._get(self.config_init, "model").learning
        callbacks = [*callbacks, RunFolder(self.again), *checkpoints]
        if self.subcommand == "fit":
            callbacks += callbacks_of(learning, f"val_{score}", mode)
        else:  # the callbacks of training have left their state in the checkpoint
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")
        if config.get("enable_progress_bar") is not False:
            callbacks.append(ProgressBar())
        if config.get("logger") is None or config["logger"] is True:
            config["logger"] = TensorBoardLogger(root, name="tensorboard", version="")
        if config["logger"]:
            callbacks.append(LearningRateMonitor("epoch"))
        plugins = config.get("plugins") or []
        config["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WholeFiles()]
        return super()._instantiate_trainer(config, callbacks)


def callbacks_of(learning: Learning, score: str, mode: str) -> list[L.Callback]:
    """The parts of learning that Lightning's callbacks do; ``score`` is validation's, ``mode`` says which is better."""
    callbacks: list[L.Callback] = []
    if learning.average is not None:
        tail = learning.average == TAIL
        kind = mean if isinstance(learning.average, str) else exponential(learning.average)
        callbacks.append(AveragedWeights(kind, score if tail else None, mode))
    if learning.patience is not None:
        callbacks.append(Patience(score, mode, learning.patience))
    return callbacks


_OPTIONS: dict[str, Any] = {
    "parser_class": OneLineParser,
    "seed_everything_default": 0,
    # Lightning's summary of the network says 0 FLOPs, because it has no example of its input; ours says what learns
    "trainer_defaults": {"use_distributed_sampler": False, "enable_model_summary": False},
    "auto_configure_optimizers": False,
}


class _ReadCLI(VideoCLI):
    """Reads a configuration and creates its data, without a trainer."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As in `VideoCLI`; other settings in a run's own config.yaml are ignored."""
        super().add_arguments_to_parser(parser)
        for name in ("ckpt_path", "weights_only", "return_predictions", "verbose"):
            parser.add_argument(f"--{name}", default=None, type=Any)

    def before_instantiate_classes(self) -> None:
        """Does nothing: without a trainer there is nothing to prepare."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Does nothing: no trainer is needed."""


class _NoNetwork(L.LightningModule):
    """Accepts the configuration of `VideoModule` but builds no network: a run's network is in its checkpoint."""

    def __init__(
        self,
        recipe: NetworkSpec,
        learning: Learning = DEFAULT_LEARNING,
        task: Task | None = None,
        network: SequenceNetwork | None = None,
    ):
        super().__init__()
        self.recipe, self.learning = recipe, learning


def read_config(arguments: list[str]) -> tuple[NetworkSpec, Learning, VideoData]:
    """The network, way of learning and data that arguments such as ``--config FILE --data.root DIR`` describe.

    Raises:
        ValueError: as in `main`.
    """
    _quiet()
    warnings.filterwarnings("ignore", ".*args parameter is intended.*")
    cli = _ReadCLI(_NoNetwork, VideoData, args=arguments, run=False, **_OPTIONS)
    return cli.model.recipe, cli.model.learning, cli.datamodule


def _quiet() -> None:
    """Silences Lightning's tips, seeds and device lists, which hide what matters. Importing it sets the levels."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: list[str], callbacks: Sequence[L.Callback] = ()) -> None:
    """Runs ``fit``, ``validate``, ``test`` or ``predict`` with its arguments, and callbacks in addition to our own.

    Raises:
        ValueError: an argument, key or value that does not fit; a checkpoint of another network.
    """
    torch.set_float32_matmul_precision("high")
    _quiet()
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    own = {**_OPTIONS, "trainer_defaults": {**_OPTIONS["trainer_defaults"], "callbacks": list(callbacks)}}
    VideoCLI(VideoModule, VideoData, args=arguments, save_config_callback=RunConfig, **own)
