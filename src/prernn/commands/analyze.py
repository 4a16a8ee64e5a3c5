"""``prernn analyze``: what trained runs look like inside."""

import argparse

from prernn.studies.runs.videos import _own_videos


def _add_analyze(commands) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="look inside trained runs: gates, curves and weights on one page",
        usage="%(prog)s [hidden] RUN [RUN ...] --out OUT [--videos PATH ...] [--limit LIMIT] [--no-gates]",
    )
    runs = (
        "run folders or checkpoint files; with the word hidden before them, what is in their hidden-to-hidden weights "
        "alone (a run folder of this name is ./hidden)"
    )
    analyze.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    analyze.add_argument("--out", required=True, help="folder for pictures, tables and index.html")
    videos = "videos, folders of frames or of videos (default: the test videos of each run)"
    analyze.add_argument("--videos", nargs="+", metavar="PATH", help=videos)
    analyze.add_argument("--limit", type=int, help="look at so many videos for each run")
    gates = "look at the gates over the videos (default: yes)"
    analyze.add_argument("--gates", action=argparse.BooleanOptionalAction, help=gates)
    analyze.set_defaults(run=_analyze)


def _analyze(options) -> None:
    if options.runs[0] == "hidden":
        _analyze_hidden(options)
        return
    from prernn.studies.runs import page
    from prernn.studies.runs import videos as runs_videos

    look = options.gates is None or options.gates
    batches = (runs_videos.video_batches(options.videos) if options.videos else _own_videos) if look else None
    print(page.analyze(options.runs, options.out, batches=batches, limit=options.limit, say=print))


def _analyze_hidden(options) -> None:
    from prernn.studies.runs import hidden_weights

    given = {"--videos": options.videos, "--limit": options.limit, "--no-gates": options.gates}
    if words := [word for word, value in given.items() if value is not None]:
        raise ValueError(f"analyze hidden looks at weights alone: expected no {' or '.join(words)}")
    if len(options.runs) == 1:
        raise ValueError("analyze hidden: expected checkpoints after it, got none (a run folder hidden is ./hidden)")
    print(hidden_weights.analyze_hidden(options.runs[1:], options.out, say=print))
