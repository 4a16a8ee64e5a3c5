"""``prernn compare``: networks of an application trained side by side."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.budget import add_budget, budget_of
from prernn.commands.arguments.command import Command
from prernn.commands.arguments.complaints import in_plain_words
from prernn.commands.arguments.fit_options import check_options


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn compare``."""
    parser.add_argument("--out", required=True, help="folder for table and curves")
    parser.add_argument("--epochs", type=int, help="epochs of every training (default 20)")
    add_budget(parser)
    parser.add_argument(
        "--networks", default="prernn", help="which table: prernn (default), supplement, rcn, continuity or starts"
    )
    parser.add_argument(
        "--cells", nargs="+", default=["gru", "lstm"], help="cells in PreRNN's tables (default: gru lstm)"
    )
    parser.add_argument(
        "--also", nargs="+", default=[], help="rcn: further backbones to include unchanged, such as r3d_18"
    )
    words = "sparse structures of W_hh to try (default band:21 diagonal; give no value for none)"
    parser.add_argument("--structures", nargs="*", default=["band:21", "diagonal"], help=words)
    parser.add_argument(
        "--few", type=int, metavar="N", help="train on N videos per class, drawn separately for each seed"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default %(default)s)")


def run(options: Namespace) -> None:
    """Searches for rates, trains, tests, and prints the table."""
    own = [name.replace("_", "-") for name in vars(options)]
    check_options("compare", options.words, own)
    from prernn.studies.comparison.compare import compare
    from prernn.training.lightning_cli import read_config

    with in_plain_words():
        recipe, learning, data = read_config(options.words)
    budget = budget_of(options, learning, "epochs", "few")
    further = {name: getattr(options, name) for name in ("networks", "cells", "structures", "also", "jobs")}
    compare(data, recipe, options.out, budget, **further)


COMPARE = Command(
    "train networks of an application side by side: PreRNN's tables, RCN's, ways to train states or to start them",
    run,
    add_arguments,
    {
        "usage": "prernn compare --out OUT [options] --config FILE --data.root DIR [options of fit]",
        "epilog": "All other options are those of fit, such as --config FILE and --data.root DIR.",
        "allow_abbrev": False,
    },
    passes_on=True,
)
