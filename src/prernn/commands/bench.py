"""``prernn bench``: speed, measured on this machine."""

import argparse
import ast
import importlib
from argparse import ArgumentParser, Namespace
from pathlib import Path

from prernn import benchmarks
from prernn.benchmarks.options import OPTIONS
from prernn.commands.arguments.command import Command, Parser


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn bench``."""
    parser.add_argument("name", choices=sorted(OPTIONS), help="what to measure; NAME --help lists its options")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its options", metavar="...")


def run(options: Namespace) -> None:
    """Reads the benchmark's own options and runs it."""
    chosen = bench_parser(options.name).parse_args(options.rest)
    importlib.import_module(f"prernn.benchmarks.{options.name}").run(chosen)


def bench_parser(name: str) -> Parser:
    """The parser of one benchmark."""
    parser = Parser(f"prernn bench {name}", description=_what_it_measures(name))
    OPTIONS[name](parser)
    return parser


def _what_it_measures(name: str) -> str | None:
    """The benchmark's docstring, read without importing it."""
    file = Path(benchmarks.__path__[0]) / f"{name}.py"
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


BENCH = Command("measure speed on this machine: tables, CSV and pictures", run, add_arguments)
