"""What every network of a comparison gets, as a command's options and its configuration say."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from prernn.commands.arguments.command import given

if TYPE_CHECKING:
    from prernn.studies.comparison.lineup import Budget
    from prernn.training.learning.learning import Learning


def budget_of(options: Namespace, learning: "Learning", *names: str) -> "Budget":
    """A budget of the named options that are given, the rest as the configuration's ``learning`` or as usual."""
    from prernn.studies.comparison.lineup import Budget

    own: dict[str, Any] = {name: getattr(learning, name) for name in ("continuity", "sparse_power", "dropout")}
    for name, value in given(options, *names).items():
        own[name] = tuple(value) if isinstance(value, list) else value
    return Budget(**own)
