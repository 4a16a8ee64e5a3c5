"""``prernn fit``, ``validate``, ``test`` and ``predict``, which are Lightning's."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from prernn.commands.command import Command
from prernn.commands.fit_options import check_options, help_text


def run_fit(arguments: Sequence[str]) -> None:
    """Hands a command's arguments to Lightning, once their names are known to be right."""
    command, *words = arguments
    if any(word in ("-h", "--help") for word in words):
        print(help_text(command, FIT_COMMANDS[command].help))
        return
    check_options(command, words)
    from prernn.training import lightning_cli

    lightning_cli.main([command, *("--help" if word == "--help=all" else word for word in words)])


def add_arguments(parser: ArgumentParser) -> None:
    """None: `run_fit` gets them all."""


def run(options: Namespace) -> None:
    """Never called: `run_fit` is."""


FIT_COMMANDS = {
    "fit": Command("train a network", add_arguments, run),
    "validate": Command("evaluate on validation videos", add_arguments, run),
    "test": Command("evaluate on test videos", add_arguments, run),
    "predict": Command("label the test videos", add_arguments, run),
}
