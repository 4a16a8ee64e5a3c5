"""The command line: ``prernn COMMAND``."""

import os
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import prernn
from prernn.commands.analyze import ANALYZE
from prernn.commands.arguments.command import Command, Parser
from prernn.commands.bench import BENCH
from prernn.commands.compare import COMPARE
from prernn.commands.confidence import CONFIDENCE
from prernn.commands.demo import DEMO
from prernn.commands.early import EARLY
from prernn.commands.export import EXPORT
from prernn.commands.fit import FIT_COMMANDS
from prernn.commands.flow import FLOW
from prernn.commands.fuse import FUSE
from prernn.commands.info import INFO
from prernn.commands.inspect import INSPECT
from prernn.commands.paper import PAPER
from prernn.commands.quantize import QUANTIZE
from prernn.commands.record import RECORD
from prernn.commands.serve import SERVE
from prernn.commands.stream import STREAM
from prernn.commands.study import STUDY
from prernn.commands.verify import VERIFY
from prernn.commands.web import WEB
from prernn.engines.allocator import keep_memory

COMMANDS: dict[str, Command] = {
    "demo": DEMO,
    "record": RECORD,
    **FIT_COMMANDS,
    "confidence": CONFIDENCE,
    "stream": STREAM,
    "serve": SERVE,
    "web": WEB,
    "export": EXPORT,
    "verify": VERIFY,
    "paper": PAPER,
    "compare": COMPARE,
    "study": STUDY,
    "fuse": FUSE,
    "flow": FLOW,
    "analyze": ANALYZE,
    "early": EARLY,
    "quantize": QUANTIZE,
    "inspect": INSPECT,
    "info": INFO,
    "bench": BENCH,
}
"""The commands by name. Their modules import nothing heavy before the arguments are known."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake prints one line on standard error and gives exit code 2.

    ``PRERNN_TRACEBACK=1`` lets the exception through, for debugging.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    keep_memory()
    try:
        options = _read(arguments)
        COMMANDS[options.command].run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (BrokenPipeError, SystemExit) as error:  # rich turns the first into the second
        if isinstance(error.__context__, KeyboardInterrupt):
            return 130
        if type(error).__name__ == "SIGTERMException":  # Lightning's, which would end with code 0
            return 143
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # the reader of the output, such as head, has closed it; Python flushes once more on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, NotImplementedError, OSError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError) and not _died(error):
            raise
        if os.environ.get("PRERNN_TRACEBACK"):
            raise
        print(f"prernn: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _died(error: RuntimeError) -> bool:
    """Whether a process or a device ran out of memory, which is not a bug in the program."""
    return type(error).__name__ in ("BrokenProcessPool", "OutOfMemoryError") or "exited unexpectedly" in str(error)


def _one_line(error: BaseException) -> str:
    """The message without the traceback that a worker process puts in front of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "worker process" in lines[0] or "Traceback" in str(error):
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)


def _read(arguments: list[str]) -> Namespace:
    first = COMMANDS.get(arguments[0]) if arguments else None
    if first is not None and first.add_arguments is None:
        return Namespace(command=arguments[0], words=arguments[1:])
    return _parser().parse_args(arguments)


class _Version(Action):
    """Says the version; only then are the distribution's metadata read."""

    def __call__(self, parser: ArgumentParser, *_: Any, **__: Any) -> None:
        print(f"prernn {prernn.__version__}")
        parser.exit()


def _parser() -> Parser:
    parser = Parser("prernn", description="Make any pre-trained CNN recurrent, train it on video, stream it.")
    parser.add_argument("--version", action=_Version, nargs=0, help="the version of prernn")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        options = {"description": command.help, **(command.options or {})}
        parser_of = commands.add_parser(name, help=command.help, **options)
        parser_of.passes_on = command.passes_on
        if command.add_arguments is not None:
            command.add_arguments(parser_of)
    return parser


if __name__ == "__main__":
    sys.exit(main())
