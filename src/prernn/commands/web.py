"""``prernn web``: shows a trained network in a browser, computed by a server here or in the browser itself."""

import sys
from argparse import ArgumentParser, Namespace

from prernn.commands import serve
from prernn.commands.arguments.command import Command, given


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn web``, which are those of ``prernn serve`` plus two."""
    words = "write a folder for any static host, whose page runs the network in the browser, instead of serving"
    parser.add_argument("--static", metavar="DIR", help=words)
    words = "folder with onnxruntime-web's files, for --static (default: fetched with npm)"
    parser.add_argument("--runtime", metavar="DIR", help=words)
    serve.add_arguments(parser)


def run(options: Namespace) -> None:
    """Serves the page or writes it."""
    if options.static is None:
        if options.runtime is not None:
            raise ValueError("--runtime: expected --static DIR with it")
        serve.serve(options, "the page is at {0}", page=True)
        return
    if len(options.checkpoint) != 1:
        raise ValueError(f"--static: expected one run, got {len(options.checkpoint)}")
    from prernn.serving.page.static import write_static

    write_static(options.checkpoint[0], options.static, runtime=options.runtime, **given(options, "precision"))
    words = f"written: {options.static}, for any static host (here: python -m http.server -d {options.static})"
    print(f"prernn: {words}", file=sys.stderr)


WEB = Command("show a network in the browser: live answers on a camera or a video", run, add_arguments)
