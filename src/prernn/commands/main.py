"""The command line: ``prernn COMMAND``."""

import argparse
import os
import sys
from collections.abc import Sequence

from prernn.commands.analyze import _add_analyze
from prernn.commands.bench import _add_bench
from prernn.commands.compare import _add_compare
from prernn.commands.demo import _add_demo
from prernn.commands.early import _add_early
from prernn.commands.fit import FIT_COMMANDS, _add_fit_commands
from prernn.commands.flow import _add_flow
from prernn.commands.fuse import _add_fuse
from prernn.commands.info import _add_info
from prernn.commands.inspect import _add_inspect
from prernn.commands.parser import _Parser
from prernn.commands.quantize import _add_quantize
from prernn.commands.stream import _add_stream


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake gives one line on standard error and exit code 2.

    ``PRERNN_TRACEBACK=1`` lets the exception through, for looking into it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments and arguments[0] in FIT_COMMANDS:
            from prernn.training import lightning_cli

            lightning_cli.main(arguments)
        else:
            options = _parser().parse_args(arguments)
            options.run(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, NotImplementedError, OSError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError) and not _died(error):
            raise
        if os.environ.get("PRERNN_TRACEBACK"):
            raise
        print(f"prernn: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _died(error: RuntimeError) -> bool:
    """Whether a process or a device ran out of memory, which is no mistake in the program."""
    return type(error).__name__ in ("BrokenProcessPool", "OutOfMemoryError") or "exited unexpectedly" in str(error)


def _one_line(error: BaseException) -> str:
    """The message without the traceback that a worker process puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "worker process" in lines[0] or "Traceback" in str(error):
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("prernn", description="Make any pre-trained CNN recurrent, train it on video, stream it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    parts = (
        _add_demo,
        _add_fit_commands,
        _add_stream,
        _add_compare,
        _add_fuse,
        _add_flow,
        _add_analyze,
        _add_early,
        _add_quantize,
        _add_inspect,
        _add_info,
    )
    for add in (*parts, _add_bench):
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
