"""``prernn verify``: checks that whole sequence, steps, chunks, batches, engines and quantized weights agree."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from prernn.commands.arguments.command import Command

ADVICE = "prernn test {} --engine ENGINE --precision int8 says how often they are right"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn verify``."""
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder or checkpoint")
    add("video", metavar="VIDEO", nargs="?", help="video whose frames are used (default: 200 frames of noise)")
    add("--limit", type=int, default=200, help="at most this many frames of the video (default %(default)s)")


def run(options: Namespace) -> None:
    """Prints the largest difference of each; exit code 1 if one exceeds its tolerance."""
    if options.limit < 2:
        raise ValueError(f"--limit: expected at least 2 frames, got {options.limit}")
    from rich.console import Console
    from rich.table import Table

    from prernn.engines import verification
    from prernn.engines.agreement import noise
    from prernn.models import checkpoint
    from prernn.reports.progress import bars
    from prernn.reports.tables import print_whole
    from prernn.streaming.frame_input import frames_of

    net = checkpoint.load(Path(options.run))
    if options.video is None:
        frames = noise(net, 1, verification.FRAMES)[0]
    else:
        frames = frames_of(net, options.video, options.limit)
    over = "noise" if options.video is None else options.video
    table = Table(title=f"{options.run}: largest difference of outputs over {len(frames)} frames of {over}")
    for column in ("compared with the whole sequence", "difference", "allowed", ""):
        table.add_column(column)
    wrong, in_few_bits = 0, 0
    with bars(Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing", total=None, note="")
        for check in verification.checks(net, frames):
            wrong += not check.holds
            in_few_bits += not check.holds and ("int8" in check.name or "quantized" in check.name)
            shown = "-" if check.difference is None else f"{check.difference:.2g}"
            words = check.reason or ("agrees" if check.holds else "DIFFERS")
            table.add_row(check.name, shown, f"{check.tolerance:g}", words)
            progress.update(task, advance=1, note=check.name)
    print_whole(table)
    if wrong:
        print(f"prernn: {wrong} of them {'differs' if wrong == 1 else 'differ'}")
        if in_few_bits == wrong:
            print(f"prernn: only networks of few bits, which are others: {ADVICE.format(options.run)}")
        raise SystemExit(1)


VERIFY = Command("check that a run gives the same frame by frame, in chunks and in each engine", run, add_arguments)
