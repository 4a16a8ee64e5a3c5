"""``prernn demo``: the whole workflow on an embedded data set."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command, given


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn demo``."""
    parser.add_argument("--root", default="runs/demo", help="run folder (default %(default)s)")
    parser.add_argument("--clips", type=int, help="training clips per class")
    parser.add_argument("--epochs", type=int, help="epochs of each network")
    parser.add_argument("--seed", type=int, default=0)
    single = "train on single clips, each from a zero state, to see how that affects a stream that is never reset"
    parser.add_argument("--single-clips", action="store_true", help=single)


def run(options: Namespace) -> None:
    """Renders, trains, compares and streams."""
    from prernn.studies import demo

    given_numbers = given(options, "clips", "epochs")
    demo.run(options.root, seed=options.seed, single_clips=options.single_clips, **given_numbers)


DEMO = Command("the whole workflow on an embedded data set: render, train, compare, stream", run, add_arguments)
