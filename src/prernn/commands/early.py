"""``prernn early``: accuracy after each tenth of the test videos."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn early``."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders or checkpoint files of action recognition")
    parser.add_argument("--out", required=True, help="folder for early.csv and early.png")
    parser.add_argument("--limit", type=int, help="number of videos for each run, spread over its test list")


def run(options: Namespace) -> None:
    """Evaluates each run, prints the table, and writes table and curves."""
    from prernn.studies.early import ask_runs

    ask_runs(options.runs, options.out, options.limit)


EARLY = Command(
    "accuracy after each tenth of the test videos: how early trained runs recognize the class", run, add_arguments
)
