"""``prernn confidence``: how sure a trained run may say it is."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command, given, saying_warnings


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn confidence``."""
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder or checkpoint in one, of actions, segments or gestures; it is changed")
    add(
        "--others", nargs="+", metavar="VIDEO", help="files and folders in which nothing happens that the network knows"
    )
    add("--false-alarms", type=float, dest="per_hour", help="events an hour in such videos that are borne (default 10)")
    add("--check", nargs="+", metavar="VIDEO", help="others again, on which false events are counted, no more")
    add("--unknown", type=float, help="share of right answers that may become unknown (default 0.05)")
    add("--dry-run", action="store_true", help="report alone: leave checkpoint and config.yaml as they are")


def run(options: Namespace) -> None:
    """Fits the run's confidence, prints a table, writes the run and the report."""
    from prernn.studies.confidence import fit_confidence

    chosen = given(options, "others", "check", "per_hour", "unknown")
    with saying_warnings():
        fit_confidence(options.run, write=not options.dry_run, **chosen)


CONFIDENCE = Command(
    "fit how sure a run may be: temperature, unknown, and a threshold for a rate of false events", run, add_arguments
)
