"""What every network of a comparison gets, as a command's options and its configuration say."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from prernn.commands.arguments.command import given

if TYPE_CHECKING:
    from prernn.studies.comparison.lineup import Budget
    from prernn.training.learning.learning import Learning


OPTIONS = ("rates", "shares", "searches", "seeds", "passes", "batch_size", "joint", "then", "judge")
"""Of a budget, those that `add_budget` adds."""


def add_budget(parser: ArgumentParser) -> None:
    """Adds the options that all commands with a budget have."""
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates to search")
    words = "of the rate that the pre-trained part learns at, to search (default 1)"
    parser.add_argument("--shares", type=float, nargs="+", help=words)
    parser.add_argument("--searches", type=int, help="trainings of each rate, whose mean score counts (default 1)")
    words = "of the final trainings, and of the videos that are drawn where they are few"
    parser.add_argument("--seeds", type=int, nargs="+", help=words)
    parser.add_argument("--passes", type=int, help="times the trunk runs over the training videos, with other crops")
    parser.add_argument("--batch-size", type=int, help="videos")
    words = "batches in which the whole network trains after what is behind its trunk has (default 0: the trunk stays)"
    parser.add_argument("--joint", type=int, metavar="N", help=words)
    parser.add_argument("--then", type=float, help="share of the rate that all learns at in those (default 0.1)")
    words = "held-out videos judge a rate with resets (default) or live"
    parser.add_argument("--judge", choices=("reset", "live"), help=words)


def budget_of(options: Namespace, learning: "Learning", *names: str) -> "Budget":
    """A budget of those options and the named ones that are given, the rest as ``learning`` says or as usual."""
    from prernn.studies.comparison.lineup import Budget

    own: dict[str, Any] = {name: getattr(learning, name) for name in ("continuity", "sparse_power", "dropout")}
    for name, value in given(options, *OPTIONS, *names).items():
        own[name] = tuple(value) if isinstance(value, list) else value
    return Budget(**own)
