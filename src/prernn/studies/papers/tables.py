"""All published cells by name."""

import difflib

from prernn.studies.papers.bandrnn_talk import BANDRNN_TALK
from prernn.studies.papers.cells import Cell
from prernn.studies.papers.prernn_paper import PRERNN_PAPER
from prernn.studies.papers.prernn_supplement import PRERNN_SUPPLEMENT
from prernn.studies.papers.rcn_supplement import RCN_SUPPLEMENT

CELLS: dict[str, Cell] = {
    cell.name: cell for cell in (*PRERNN_PAPER, *PRERNN_SUPPLEMENT, *BANDRNN_TALK, *RCN_SUPPLEMENT)
}

TABLES: dict[str, list[Cell]] = {
    table: [cell for cell in CELLS.values() if cell.table == table]
    for table in dict.fromkeys(cell.table for cell in CELLS.values())
}


def find(name: str) -> Cell:
    """The cell of a name.

    Example:
        >>> find("table4/pregru-fc6").published
        {'accuracy': '82.1 %'}

    Raises:
        ValueError: there is none; the message lists similar names.
    """
    if name in CELLS:
        return CELLS[name]
    if name in TABLES:
        raise ValueError(f"expected a cell, got the table {name}: see prernn paper list {name}")
    raise ValueError(f"expected a cell of the papers' tables, got {name!r}{_near(name, list(CELLS))}")


def find_table(name: str) -> list[Cell]:
    """The cells of the table of a name.

    Raises:
        ValueError: there is none.
    """
    if name in TABLES:
        return TABLES[name]
    raise ValueError(f"expected a table among {', '.join(TABLES)}, got {name!r}")


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else " (see prernn paper list)"
