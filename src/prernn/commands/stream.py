"""``prernn stream``: a trained network on a file, folder, camera, URL or pipe, frame by frame."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from prernn.commands.command import Command, given

OF_TASKS = ("commands", "decoder", "detector", "events")
"""Options that only some tasks have."""

FILES = ("csv", "json")
"""Options that say where rows are written, each for tasks whose rows have that form."""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn stream``."""
    add = parser.add_argument
    add("source", help="video file, folder of frames, camera:0, rtsp/http URL, named pipe, or - for standard input")
    checkpoint = "run folder or checkpoint; the answers of several are averaged"
    add("--checkpoint", required=True, nargs="+", help=checkpoint)
    add("--task", help="what to look for: action, gesture, face, segments (default: what the network learnt)")
    add("--csv", help="action, segments: write the lines to this file")
    add("--json", help="gesture, face: write the lines to this file")
    add("--events", help="action, segments, gesture: write the events, with begin and end, to this CSV file")
    add("--video", help="write an annotated mp4")
    add("--deinterlace", action="store_true", help="make interlaced frames progressive (default: as the run)")
    add("--limit", type=int, help="stop after so many frames")
    add("--commands", help="gesture: table of commands, YAML or JSON, such as configs/player.yaml")
    add("--decoder", choices=("greedy", "beam"), help="gesture: default that of the run")
    add("--detector", help="face: cascade (default) or yunet:FILE")


def run(options: Namespace) -> None:
    """Follows the source with what the networks' task has for it."""
    from prernn.models import checkpoint
    from prernn.streaming.rows import ROWS, with_events
    from prernn.streaming.watch import watch
    from prernn.tasks import DEFAULT_TASK, restore
    from prernn.training.run_files import weights_of

    nets = [checkpoint.load(path) for path in options.checkpoint]
    recipe = nets[0].recipe
    task = restore(recipe, options.task or (recipe.task.name if recipe.task else DEFAULT_TASK.name))
    allowed = (task.rows, *task.watcher_options)
    for name in given(options, *FILES, *OF_TASKS):
        if name not in allowed:
            raise ValueError(f"--{name}: task {task.name} expects {' '.join('--' + other for other in allowed)} alone")
    for_watcher = given(options, *OF_TASKS)
    rows = ROWS[task.rows](getattr(options, task.rows) or sys.stdout)
    if options.events:
        for_watcher["events"], rows = True, with_events(rows, options.events)
    watcher = task.watcher(*nets, **for_watcher)
    deinterlace = options.deinterlace or task.deinterlace
    count = watch(watcher, options.source, rows=rows, video=options.video, limit=options.limit, deinterlace=deinterlace)
    files = [name for name in (getattr(options, task.rows), options.events, options.video) if name]
    weights = " and ".join(weights_of(Path(path)) for path in options.checkpoint)
    written = f"; written: {', '.join(files)}" if files else ""
    print(f"prernn: {count} frames with {weights}{written}", file=sys.stderr)  # rows go to standard output


STREAM = Command("run a trained network on a file, folder, camera or URL, frame by frame", run, add_arguments)
