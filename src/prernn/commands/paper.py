"""``prernn paper``: lists, shows and trains the cells of the papers' tables, and averages them over splits."""

import argparse
from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command, Parser
from prernn.commands.fit import run_fit


def add_arguments(parser: ArgumentParser) -> None:
    """Adds ``list``, ``show``, ``fit`` and ``average``, each with its own arguments."""
    metavar = "list | show | fit | average"
    actions = parser.add_subparsers(dest="action", required=True, metavar=metavar, parser_class=Parser)
    words = "list the cells: what each is, and what the paper reports for it"
    listed = actions.add_parser("list", help=words, description=words)
    listed.add_argument("table", nargs="?", help="list this table alone, such as table4")
    words = "print a cell's configuration as YAML, to save in a file and change"
    shown = actions.add_parser("show", help=words, description=words)
    words = "train a cell's network into runs/paper/NAME"
    fitted = actions.add_parser("fit", help=words, description=words)
    for action in (shown, fitted):
        action.add_argument("name", help="name of the cell, such as table4/pregru-fc6")
    words = "average the metrics of several runs, such as those of UCF101's three splits (Table 7)"
    averaged = actions.add_parser("average", help=words, description=words)
    averaged.add_argument("runs", nargs="+", metavar="RUN", help="folders written by prernn test or prernn fuse")
    averaged.add_argument("--out", help="CSV to write")
    rest = "--data.root DATA and any other option of prernn fit, which then overrides the cell's"
    fitted.add_argument("options", nargs=argparse.REMAINDER, help=rest, metavar="...")


def run(options: Namespace) -> None:
    """Lists, shows, trains or averages."""
    from prernn.studies.papers import tables

    if options.action == "list":
        from prernn.studies.papers.listing import listing

        chosen = [tables.find_table(options.table)] if options.table else tables.TABLES.values()
        print("\n\n".join(listing(cells) for cells in chosen))
    elif options.action == "show":
        print(tables.find(options.name).text(), end="")
    elif options.action == "average":
        from prernn.studies.papers.averages import average, table

        print(table(average(options.runs, options.out)))
    else:
        run_fit("fit", ["--config", tables.find(options.name).text(), *options.options])


PAPER = Command(
    "the networks of the papers' tables: list, show and train them, average over splits", run, add_arguments
)
