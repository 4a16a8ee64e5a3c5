"""``prernn stream``: a trained network on a file, folder, camera or URL, frame by frame."""

import sys


def _add_stream(commands) -> None:
    stream = commands.add_parser(
        "stream", help="run a trained network on a file, folder, camera or URL, frame by frame"
    )
    stream.add_argument("source", help="video file, folder of frames, camera:0, or rtsp/http URL")
    stream.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        help="run folder or checkpoint; the answers of several are averaged",
    )
    stream.add_argument("--task", choices=sorted(WATCHERS), help="what to look for (default: what the network learnt)")
    stream.add_argument("--csv", help="action: write the lines to this file")
    stream.add_argument("--json", help="gesture, face: write the lines to this file")
    stream.add_argument("--video", help="write an annotated mp4")
    stream.add_argument("--limit", type=int, help="stop after so many frames")
    stream.add_argument("--commands", help="gesture: table of commands, YAML or JSON, such as configs/player.yaml")
    stream.add_argument("--decoder", choices=("greedy", "beam"), help="gesture: default that of the run")
    stream.add_argument("--detector", help="face: cascade (default) or yunet:FILE")
    stream.set_defaults(run=_stream)


def _stream(options) -> None:
    from prernn.models import checkpoint
    from prernn.streaming import watch

    nets = [checkpoint.load(path) for path in options.checkpoint]
    task = options.task or (nets[0].recipe.get("task") or {}).get("name", "action")
    if task not in WATCHERS:
        raise ValueError(f"{options.checkpoint[0]}: expected a task among {', '.join(WATCHERS)}, got {task!r}")
    for name in ("csv", "json", "commands", "decoder", "detector"):
        if getattr(options, name) is not None and name not in OPTIONS[task]:
            raise ValueError(f"--{name}: task {task} expects {' '.join('--' + other for other in OPTIONS[task])} alone")
    watcher, rows = WATCHERS[task](nets, options)
    watch.watch(watcher, options.source, rows=rows, video=options.video, limit=options.limit)


def _watch_action(nets, options):
    from prernn.streaming import rows
    from prernn.tasks.action.watcher import ClassWatcher

    return ClassWatcher(*nets), rows.csv_rows(options.csv or sys.stdout)


def _watch_gesture(nets, options):
    from prernn.streaming import rows
    from prernn.tasks.gesture import watcher as gesture_events

    table = (
        gesture_events.load_commands(options.commands, _only(nets).recipe.get("labels")) if options.commands else None
    )
    watcher = gesture_events.GestureWatcher(_only(nets), commands=table, decoder=options.decoder)
    return watcher, rows.json_rows(options.json or sys.stdout)


def _watch_face(nets, options):
    from prernn.streaming import rows
    from prernn.tasks.face import detectors
    from prernn.tasks.face import watcher as face_tracking

    watcher = face_tracking.FaceWatcher(_only(nets), detector=detectors.detector_from(options.detector or "cascade"))
    return watcher, rows.json_rows(options.json or sys.stdout)


def _only(nets):
    if len(nets) > 1:
        raise NotImplementedError(f"expected one checkpoint for this task, got {len(nets)}")
    return nets[0]


WATCHERS = {"action": _watch_action, "gesture": _watch_gesture, "face": _watch_face}
"""What follows a source, by task, and what writes its rows."""


OPTIONS = {"action": ("csv",), "gesture": ("json", "commands", "decoder"), "face": ("json", "detector")}
"""Options of ``prernn stream`` that belong to a task."""
