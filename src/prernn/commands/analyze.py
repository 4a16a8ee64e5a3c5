"""``prernn analyze``: what trained runs look like inside."""

import argparse
from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command

USAGE = "%(prog)s [hidden] RUN [RUN ...] --out OUT [--videos PATH ...] [--limit LIMIT] [--no-gates]"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn analyze``."""
    runs = (
        "run folders or checkpoint files; put the word hidden before them to see their hidden-to-hidden weights alone "
        "(a run folder of that name is ./hidden)"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    parser.add_argument("--out", required=True, help="folder for pictures, tables and index.html")
    videos = "videos, folders of frames or of videos (default: the test videos of each run)"
    parser.add_argument("--videos", nargs="+", metavar="PATH", help=videos)
    parser.add_argument("--limit", type=int, help="number of videos to look at for each run")
    gates = "plot the gates over the videos (default: yes)"
    parser.add_argument("--gates", action=argparse.BooleanOptionalAction, help=gates)


def run(options: Namespace) -> None:
    """Writes the page and prints where it is."""
    if options.runs[0] == "hidden":
        _run_hidden(options)
        return
    from prernn.studies.runs import page, videos

    batches = None
    if options.gates is None or options.gates:
        batches = videos.video_batches(options.videos) if options.videos else _own_videos
    print(page.analyze(options.runs, options.out, batches=batches, limit=options.limit, say=print))


def _own_videos(folder, net):
    from prernn.studies.runs.videos import own_videos

    try:
        return own_videos(folder, net)
    except NotImplementedError as error:
        raise NotImplementedError(f"{error}; give some with --videos") from error
    except ValueError as error:
        raise ValueError(f"{error} (--videos and --no-gates do without its data)") from error


def _run_hidden(options: Namespace) -> None:
    from prernn.studies.runs import hidden_weights

    others = {"--videos": options.videos, "--limit": options.limit, "--no-gates": options.gates}
    if words := [word for word, value in others.items() if value is not None]:
        raise ValueError(f"analyze hidden looks only at weights: expected no {' or '.join(words)}")
    if len(options.runs) == 1:
        raise ValueError("analyze hidden: expected checkpoints after it, got none (a run folder hidden is ./hidden)")
    print(hidden_weights.analyze_hidden(options.runs[1:], options.out, say=print))


ANALYZE = Command(
    "look inside trained runs: gates, curves and weights on one page", run, add_arguments, {"usage": USAGE}
)
