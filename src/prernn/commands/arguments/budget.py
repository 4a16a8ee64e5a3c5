"""The training budget of every network in a comparison, read from a command's options and its configuration."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from prernn.commands.arguments.command import given

if TYPE_CHECKING:
    from prernn.studies.comparison.lineup import Budget
    from prernn.training.learning.learning import Learning


OPTIONS = ("rates", "shares", "searches", "seeds", "passes", "batch_size", "joint", "then", "judge")
"""Fields of a budget that `add_budget` adds as options."""


def add_budget(parser: ArgumentParser) -> None:
    """Adds the options shared by all commands with a budget."""
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates to search (default 0.01 0.03 0.1)")
    words = "shares of the rate to search for the pre-trained part (default 1)"
    parser.add_argument("--shares", type=float, nargs="+", help=words)
    parser.add_argument("--searches", type=int, help="trainings at each rate, whose mean score counts (default 1)")
    words = "seeds of the final trainings, and of the videos drawn when only a few are used (default 0 1 2)"
    parser.add_argument("--seeds", type=int, nargs="+", help=words)
    parser.add_argument(
        "--passes",
        type=int,
        help="times the trunk runs over the training videos, each with different crops (default 4)",
    )
    parser.add_argument("--batch-size", type=int, help="videos in a batch (default 16)")
    words = "batches of training the whole network, after the part behind its trunk (default 0: the trunk stays frozen)"
    parser.add_argument("--joint", type=int, metavar="N", help=words)
    parser.add_argument("--then", type=float, help="share of the learning rate used with --joint (default 0.1)")
    words = "whether the held-out videos that judge a rate run with resets (default) or live"
    parser.add_argument("--judge", choices=("reset", "live"), help=words)


def budget_of(options: Namespace, learning: "Learning", *names: str) -> "Budget":
    """A budget from the named options that were given; the rest as ``learning`` says, or the defaults."""
    from prernn.studies.comparison.lineup import Budget

    own: dict[str, Any] = {name: getattr(learning, name) for name in ("continuity", "sparse_power", "dropout")}
    for name, value in given(options, *OPTIONS, *names).items():
        own[name] = tuple(value) if isinstance(value, list) else value
    return Budget(**own)
