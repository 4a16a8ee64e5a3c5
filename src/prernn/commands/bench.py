"""``prernn bench``: figures of speed, measured on this machine."""

import argparse
import importlib
import pkgutil

from prernn.commands.parser import _Parser


def _add_bench(commands) -> None:
    folder = importlib.import_module("prernn.benchmarks").__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))
    bench = commands.add_parser("bench", help="measure speed on this machine: tables, CSV and pictures")
    bench.add_argument("name", choices=names, help="what to measure; NAME --help lists its options")
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="its options", metavar="...")
    bench.set_defaults(run=_bench)


def _bench(options) -> None:
    module = importlib.import_module(f"prernn.benchmarks.{options.name}")
    parser = _Parser(f"prernn bench {options.name}", description=module.__doc__)
    module.add_arguments(parser)
    module.run(parser.parse_args(options.rest))
