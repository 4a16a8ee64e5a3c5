"""The command line: ``prernn COMMAND``."""

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

FIT_COMMANDS = ("fit", "validate", "test", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake gives one line on standard error and exit code 2.

    ``PRERNN_TRACEBACK=1`` lets the exception through, for looking into it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments and arguments[0] in FIT_COMMANDS:
            from prernn import fit

            fit.main(arguments)
        else:
            options = _parser().parse_args(arguments)
            options.run(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, NotImplementedError, OSError, ImportError) as error:
        if os.environ.get("PRERNN_TRACEBACK"):
            raise
        print(f"prernn: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: BaseException) -> str:
    """The message without the traceback that a worker process puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "worker process" in lines[0] or "Traceback" in str(error):
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as the other errors do."""

    def error(self, message: str):
        """Raises ValueError with the message."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("prernn", description="Make any pre-trained CNN recurrent, train it on video, stream it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_add_demo, _add_fit_commands, _add_stream, _add_inspect, _add_info, _add_bench):
        add(commands)
    return parser


def _add_demo(commands) -> None:
    demo = commands.add_parser("demo", help="the whole way on an embedded data set: render, train, compare, stream")
    demo.add_argument("--root", default="runs/demo", help="run folder (default %(default)s)")
    demo.add_argument("--clips", type=int, help="training clips a class")
    demo.add_argument("--epochs", type=int, help="epochs of each network")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)


def _add_fit_commands(commands) -> None:
    # listed for the help text alone: main hands these to LightningCLI
    for name, text in zip(
        FIT_COMMANDS,
        ("train a network", "evaluate on validation videos", "evaluate on test videos", "label the test videos"),
        strict=True,
    ):
        commands.add_parser(name, help=f"{text}: prernn {name} --config FILE", add_help=False)


def _add_stream(commands) -> None:
    stream = commands.add_parser(
        "stream", help="run a trained network on a file, folder, camera or URL, frame by frame"
    )
    stream.add_argument("source", help="video file, folder of frames, camera:0, or rtsp/http URL")
    stream.add_argument("--checkpoint", required=True, help="run folder or checkpoint file")
    stream.add_argument("--csv", help="write the lines to this file")
    stream.add_argument("--video", help="write an annotated mp4")
    stream.add_argument("--limit", type=int, help="stop after so many frames")
    stream.set_defaults(run=_stream)


def _add_inspect(commands) -> None:
    inspect = commands.add_parser("inspect", help="weights that recurrence introduces into a backbone")
    inspect.add_argument("backbone", help="torchvision name, timm name, c3d, efficientnet_lite0")
    inspect.add_argument("--layer", nargs="+", help="layers that become recurrent (default: the last)")
    inspect.add_argument("--cell", nargs="+", default=["vrnn", "lstm", "gru"], help="default: all")
    inspect.add_argument("--input", nargs="+", default=["gate", "single"], help="default: both")
    inspect.add_argument("--hidden", nargs="+", default=["full"], help="structures of W_hh (default: full)")
    inspect.add_argument("--num-layers", type=int, default=1, help="layers of the traditional RNN that is matched")
    inspect.add_argument("--outputs", type=int, help="size of a new output layer")
    inspect.set_defaults(run=_inspect)


def _add_info(commands) -> None:
    info = commands.add_parser("info", help="versions, devices and kernels of this installation")
    info.set_defaults(run=_info)


def _add_bench(commands) -> None:
    folder = importlib.import_module("prernn.benchmarks").__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))
    bench = commands.add_parser("bench", help="measure speed on this machine: tables, CSV and pictures")
    bench.add_argument("name", choices=names, help="what to measure; NAME --help lists its options")
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="its options", metavar="...")
    bench.set_defaults(run=_bench)


def _demo(options) -> None:
    from prernn import demo

    chosen = {name: getattr(options, name) for name in ("clips", "epochs") if getattr(options, name) is not None}
    demo.run(options.root, seed=options.seed, **chosen)


def _stream(options) -> None:
    from prernn import checkpoint, streaming

    net = checkpoint.load(options.checkpoint)
    streaming.stream_video(net, options.source, csv=options.csv or sys.stdout, video=options.video, limit=options.limit)


def _inspect(options) -> None:
    from prernn import inspection

    inspection.show(
        options.backbone,
        options.layer,
        cells=options.cell,
        inputs=options.input,
        hiddens=options.hidden,
        num_layers=options.num_layers,
        outputs=options.outputs,
    )


def _info(options) -> None:
    from prernn import inspection

    inspection.show_installation()


def _bench(options) -> None:
    module = importlib.import_module(f"prernn.benchmarks.{options.name}")
    parser = _Parser(f"prernn bench {options.name}", description=module.__doc__)
    module.add_arguments(parser)
    module.run(parser.parse_args(options.rest))


if __name__ == "__main__":
    sys.exit(main())
