"""``prernn demo``: the whole way on an embedded data set."""

from argparse import ArgumentParser, Namespace

from prernn.commands.command import Command, given


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn demo``."""
    parser.add_argument("--root", default="runs/demo", help="run folder (default %(default)s)")
    parser.add_argument("--clips", type=int, help="training clips a class")
    parser.add_argument("--epochs", type=int, help="epochs of each network")
    parser.add_argument("--seed", type=int, default=0)


def run(options: Namespace) -> None:
    """Renders, trains, compares and streams."""
    from prernn.studies import demo

    demo.run(options.root, seed=options.seed, **given(options, "clips", "epochs"))


DEMO = Command("the whole way on an embedded data set: render, train, compare, stream", run, add_arguments)
