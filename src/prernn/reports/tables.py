"""Tables in the terminal and as plain text. Plain text does not import rich, which is slow to load."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def text_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows as aligned text columns: the first ``left`` columns are left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(v.ljust(w) if c < left else v.rjust(w) for c, (v, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def mean_text(mean: float, spread: float, count: int, form: str = ".2f") -> str:
    """A mean of ``count`` values as text, with its spread if there are several."""
    return f"{mean:{form}} ± {spread:{form}}" if count > 1 else f"{mean:{form}}"


def seeds_text(count: int) -> str:
    """The number of seeds behind a figure, as text."""
    return "1 seed" if count == 1 else f"{count} seeds"


def print_whole(table: "Table") -> None:
    """Prints a table at its full width: a narrow terminal or a pipe may wrap lines, but must not cut numbers."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, Console(width=1000).measure(table).maximum)
    console.print(table)


def print_metrics(metrics: Mapping[str, Any], *, title: str) -> None:
    """Prints the scalars of a ``metrics.json``."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in metrics.items():
        if isinstance(value, float | int):
            table.add_row(name, f"{value:.4f}")
    Console().print(table)
