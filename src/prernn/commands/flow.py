"""``prernn flow``: computes the optical flow of all videos in a folder, in advance."""

from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn flow``."""
    parser.add_argument("root", help="folder of videos, searched recursively")
    parser.add_argument(
        "--cache", required=True, help="folder for the flow, one file per video; existing files are kept"
    )
    parser.add_argument("--processes", type=int, help="worker processes (default: one per core)")
    parser.add_argument("--ray", help="compute on a Ray cluster: its address, auto, or local for this machine")
    parser.add_argument(
        "--short-side", type=int, default=256, help="shrink frames to this short side; 0: never (default 256)"
    )
    parser.add_argument("--bound", type=float, default=20.0, help="clip flow at this many pixels (default 20)")
    parser.add_argument("--on-error", choices=("skip", "raise"), default="skip", help="default: skip")
    parser.add_argument(
        "--tolerate-truncation", action="store_true", help="use what can be decoded of truncated videos"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that were made with other settings")


def run(options: Namespace) -> None:
    """Computes the flow that is not there yet."""
    from functools import partial

    from prernn.media import flow_cache
    from prernn.media.flow import FlowSettings

    run_jobs = None
    if options.ray is not None:
        from prernn.studies.runs.over_ray import over_ray

        run_jobs = partial(over_ray, flow_cache.worker, (), address=options.ray, workers=options.processes)
    flow_cache.precompute(
        options.root,
        options.cache,
        FlowSettings(short_side=options.short_side or None, bound=options.bound),
        processes=options.processes,
        on_error=options.on_error,
        overwrite=options.overwrite,
        tolerate_truncation=options.tolerate_truncation,
        run_jobs=run_jobs,
    )


FLOW = Command("compute the optical flow of all videos in a folder, in advance", run, add_arguments)
