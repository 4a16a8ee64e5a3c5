"""``prernn stream``: runs a trained network on a file, folder, camera, URL or pipe, frame by frame."""

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prernn.commands.arguments.command import Command, given, saying_warnings

if TYPE_CHECKING:
    from prernn.streaming.pace import Rate
    from prernn.streaming.sources.source import Source

OF_TASKS = ("commands", "decoder", "detector", "events", "smooth")
"""Options that only some tasks have."""

OF_SOURCES = ("drop", "timeout", "reconnect")
"""Options that say how a source of pictures is read."""

FILES = ("csv", "json")
"""Options that say where rows are written, each with the tasks whose rows have that form."""


SOURCES = "video, text or sound file, folder of frames, camera:0, microphone:default, rtsp/http URL, pipe, or - (stdin)"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn stream``."""
    add = parser.add_argument
    add("source", help=SOURCES)
    checkpoint = "run folder, checkpoint or exported file; the answers of several are averaged"
    add("--checkpoint", required=True, nargs="+", help=checkpoint)
    words = "action, gesture, face, segments, language, phonemes or speech (default: what the network learned)"
    add("--task", help=words)
    add("--csv", help="action, segments: write the lines to this file")
    add("--json", help="gesture, face, language, phonemes, speech: write the lines to this file")
    add("--events", help="action, segments, gesture: write the events, with start and end, to this CSV file")
    add("--video", help="write an annotated mp4")
    add("--deinterlace", action="store_true", help="make interlaced frames progressive (default: the run's)")
    add(
        "--fps",
        help="frames per second that the network sees; source: all of them (default: the rate it was trained at)",
    )
    add(
        "--drop", help="which frames to drop: oldest (default for cameras and URLs), none (default for others), every:N"
    )
    add("--timeout", type=float, help="seconds without a frame after which a live source counts as lost (default 10)")
    add("--reconnect", help="number of tries, never or always (default: 8 for cameras and URLs, with growing pauses)")
    add("--reset", help="when to reset the state: never, cut, idle:SECONDS, every:N (default: the run's)")
    add("--engine", help="torch (default), onnxruntime, openvino, or auto: the fastest on this machine that agrees")
    add(
        "--precision",
        help="float32 (default; if given, also for integer weights); bfloat16 or float16 for feedforward parts; int8",
    )
    add("--threads", type=int, help="threads that compute a frame (default: the engine's choice)")
    add("--limit", type=int, help="stop after this many frames")
    add("--commands", help="gesture: table of commands, YAML or JSON, such as configs/player.yaml")
    add("--decoder", choices=("greedy", "beam"), help="gesture, speech: decoder (default: the run's)")
    add("--detector", help="face: cascade (default), mediapipe, mediapipe:FILE or yunet:FILE")
    add("--smooth", help="face: One-Euro filter, MIN_CUTOFF,BETA as in 1,10, or none (default: the run's)")


def run(options: Namespace) -> None:
    """Follows the source in the way the networks' task defines."""
    from prernn.engines.opening import FILES as EXPORTED
    from prernn.engines.opening import opened
    from prernn.media.audio import MICROPHONE
    from prernn.models import checkpoint
    from prernn.streaming.pace import FOLDER_RATE, Pace, clock_for
    from prernn.streaming.rows import ROWS, with_events
    from prernn.streaming.watch import watch
    from prernn.tasks import followed
    from prernn.training.run.run_files import weights_of

    exported = [Path(path).suffix in EXPORTED for path in options.checkpoint]
    nets = [
        opened(path, **given(options, "engine", "precision", "threads")) if is_file else checkpoint.load(path)
        for path, is_file in zip(options.checkpoint, exported, strict=True)
    ]
    recipe = nets[0].recipe
    task = followed(recipe, options.task)
    allowed = (task.rows, *task.watcher_options)
    for name in given(options, *FILES, *OF_TASKS):
        if name not in allowed:
            raise ValueError(f"--{name}: task {task.name} expects {' '.join('--' + other for other in allowed)} alone")
    if options.reset is not None:
        for net in nets:
            net.recipe = replace(net.recipe, reset=options.reset)
    frames = task.frames(options.source)
    pace = clock_for(nets, rate_in(options.fps)) if frames is None else Pace(None)
    if computed := given(options, "engine", "precision", "threads"):
        nets = [opened(net, **computed) for net in nets]
    for_watcher = given(options, *OF_TASKS)
    deinterlace = options.deinterlace or task.deinterlace
    source = None if frames is not None else source_of(options, fps=pace.rate or FOLDER_RATE, deinterlace=deinterlace)
    lost = source is not None and not source.lossless
    rows = ROWS[task.rows](getattr(options, task.rows) or sys.stdout, lost=lost)
    if options.events:
        for_watcher["events"], rows = True, with_events(rows, options.events)
    watcher = task.watcher(*nets, **for_watcher)
    following = {"rows": rows, "video": options.video, "limit": options.limit, "pace": pace}
    if frames is not None:
        for name in filter(vars(options).get, ("video", "fps", "deinterlace", *OF_SOURCES)):
            raise ValueError(f"--{name}: expected a stream of pictures, got one of task {task.name}")
    if options.source.startswith(MICROPHONE) and any(net.sees_ahead for net in nets):
        raise ValueError(f"{options.source}: expected a file, as the network hears both directions")
    with saying_warnings():
        count = watch(watcher, source or options.source, frames=frames, **following)
    files = [name for name in (getattr(options, task.rows), options.events, options.video) if name]
    weights = " and ".join(weights_of(Path(path)) for path in options.checkpoint)
    written = f"; written: {', '.join(files)}" if files else ""
    at = f" at {pace.rate:g} frames a second" if pace.rate else ""
    odd = f" ({pace.counts})" if str(pace.counts) else ""
    seen = {"pictures": "frames", "words": "words", "features": "windows"}[task.input]
    by = f" by {nets[0].engine} in {nets[0].precision}" if computed else ""
    if source is not None and str(source.counts):
        print(f"prernn: {options.source}: {source.counts}", file=sys.stderr)
    print(f"prernn: {count} {seen}{at}{odd} with {weights}{by}{written}", file=sys.stderr)  # rows go to standard output


def source_of(options: Namespace, **more: Any) -> "Source":
    """The source that ``prernn stream`` reads, opened as its options say."""
    from prernn.streaming.sources.source import Source

    asked = given(options, *OF_SOURCES)
    if asked.get("reconnect", "").isdigit():
        asked["reconnect"] = int(asked["reconnect"])
    return Source(options.source, **asked, **more)


def rate_in(text: str | None) -> "Rate":
    """What ``--fps`` asks for: a number, or the word source."""
    if text is None or text == "source":
        return text  # type: ignore[return-value]  # the one word that it may be
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--fps: expected frames a second, such as 12.5, or source, got {text!r}") from None


STREAM = Command("run a trained network on a file, folder, camera or URL, frame by frame", run, add_arguments)
