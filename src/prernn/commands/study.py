"""``prernn study``: whole experiments that answer one question."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from prernn.commands.arguments.budget import add_budget, budget_of
from prernn.commands.arguments.command import Command, Parser, given
from prernn.commands.arguments.complaints import in_plain_words
from prernn.commands.arguments.fit_options import check_options


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the studies, each with its own options."""
    studies = parser.add_subparsers(dest="study", required=True, metavar="few-videos", parser_class=Parser)
    words = "accuracy over the number of training videos: frame-wise, traditional, and PreRNN with full and sparse W_hh"
    few = studies.add_parser("few-videos", help=words, description=words, epilog=EPILOG, allow_abbrev=False)
    assert isinstance(few, Parser)
    few.passes_on = True
    few.add_argument("--out", required=True, help="folder for table, curves and figures")
    few.add_argument("--sizes", type=int, nargs="+", help="training videos per class (default 5 10 20 35 70 140)")
    few.add_argument("--steps", type=int, help="batches per training (default 90)")
    add_budget(few)
    words = "sparse structures of W_hh in addition to the full one (default band:1%% diagonal; give no value for none)"
    few.add_argument("--structures", nargs="*", help=words)
    few.add_argument("--jobs", type=int, help="trainings at a time (default 2)")


EPILOG = (
    "All other options are those of fit, such as --config FILE and --data.root DIR. Without any, the study uses "
    "the embedded data set as the demo does (rates 0.3 0.6, judged live, batches of 32, one pass); its videos "
    "are rendered into OUT/data."
)

DEMO = {"rates": [0.3, 0.6], "batch_size": 32, "passes": 1, "judge": "live"}
"""Options of the study on the embedded data set, used where none are given."""


def run(options: Namespace) -> None:
    """Trains, tests, prints tables and draws curves."""
    own = [name.replace("_", "-") for name in vars(options)]
    check_options("study", options.words, own)
    from prernn.layers.structures.parse import hidden_structure
    from prernn.studies.comparison.few_videos import SIZES, check_sizes, few_videos
    from prernn.studies.demo import prepare
    from prernn.training.learning.learning import DEFAULT_LEARNING
    from prernn.training.lightning_cli import read_config

    words, sizes = options.words, options.sizes or list(SIZES)
    numbers = given(options, "steps", "jobs")
    if not words:
        for name, value in DEMO.items():
            if getattr(options, name) is None:
                setattr(options, name, value)
    check_sizes(sizes, **numbers)
    for structure in options.structures or ():
        hidden_structure(structure)
    budget_of(options, DEFAULT_LEARNING)  # an impossible budget is reported before anything is rendered
    if not words:
        # the same videos for any sizes, so that a study restarted with more sizes can continue
        words = ["--config", str(prepare(Path(options.out), max(*sizes, *SIZES)))]
    with in_plain_words():
        recipe, learning, data = read_config(words)
    budget = budget_of(options, learning)
    few_videos(data, recipe, options.out, budget, sizes=sizes, **numbers, **given(options, "structures"))


STUDY = Command("experiments that answer a question: how networks do with few videos", run, add_arguments)
