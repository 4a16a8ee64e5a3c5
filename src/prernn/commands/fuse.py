"""``prernn fuse``: averages the answers of several tested runs."""

import time
from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn fuse``."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that prernn test was run on")
    parser.add_argument("--out", required=True, help="folder for metrics and pictures")
    parser.add_argument("--weights", type=float, nargs="+", help="weight of each run (default: equal)")


def run(options: Namespace) -> None:
    """Fuses the runs and prints the metrics."""
    from prernn.reports.files import say_written
    from prernn.reports.tables import print_metrics
    from prernn.studies.fusion import fuse

    begun = time.time()
    print_metrics(fuse(options.runs, options.out, options.weights), title=" + ".join(options.runs))
    say_written(options.out, begun)


FUSE = Command("average the answers of several tested runs (two streams, modalities)", run, add_arguments)
