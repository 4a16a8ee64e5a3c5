"""Progress bars."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def bars(console: Console | None = None, *, transient: bool = False, disable: bool = False) -> Progress:
    """Progress bars: description, bar, count out of total, elapsed time, and a ``note`` that each task sets.

    Args:
        console: where they are drawn; None means standard output.
        transient: whether they disappear at the end.
        disable: draw nothing.
    """
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=transient, disable=disable)
