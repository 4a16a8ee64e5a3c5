"""``prernn fit``, ``validate``, ``test`` and ``predict``, which are Lightning's."""

from argparse import Namespace
from collections.abc import Sequence

from prernn.commands.command import Command
from prernn.commands.complaints import in_plain_words
from prernn.commands.fit_options import check_options, help_text

ALL = ("--help-all", "--help=all")
"""Ask for Lightning's own text."""


def run(options: Namespace) -> None:
    """Hands the words behind the command to Lightning, once the names among them are known to be right."""
    run_fit(options.command, options.words)


def run_fit(command: str, words: Sequence[str]) -> None:
    """Runs ``fit`` or one of its kind with its arguments."""
    if any(word in ("-h", "--help") for word in words):
        print(help_text(command, FIT_COMMANDS[command].help))
        return
    check_options(command, words)
    from prernn.training import lightning_cli

    with in_plain_words():
        lightning_cli.main([command, *("--help" if word in ALL else word for word in words)])


FIT_COMMANDS = {
    "fit": Command("train a network", run),
    "validate": Command("evaluate on validation videos", run),
    "test": Command("evaluate on test videos", run),
    "predict": Command("label the test videos", run),
}
