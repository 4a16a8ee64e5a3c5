"""``prernn confidence``: how confident a trained run should be in its answers."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command, given, saying_warnings


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn confidence``."""
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        help="run folder or a checkpoint in one, for actions, segments or gestures; the run is changed",
    )
    add("--others", nargs="+", metavar="VIDEO", help="files and folders of videos that show nothing the network knows")
    add("--false-alarms", type=float, dest="per_hour", help="tolerated events per hour in such videos (default 10)")
    add("--check", nargs="+", metavar="VIDEO", help="further such videos, on which false events are only counted")
    add("--unknown", type=float, help="share of correct answers that may become unknown (default 0.05)")
    add("--dry-run", action="store_true", help="only report: leave the checkpoint and config.yaml unchanged")


def run(options: Namespace) -> None:
    """Fits the run's confidence, prints a table, and writes the run and the report."""
    from prernn.studies.confidence import fit_confidence

    chosen = given(options, "others", "check", "per_hour", "unknown")
    with saying_warnings():
        fit_confidence(options.run, write=not options.dry_run, **chosen)


CONFIDENCE = Command(
    "calibrate a run's confidence: temperature, unknown, and a threshold for a rate of false events", run, add_arguments
)
