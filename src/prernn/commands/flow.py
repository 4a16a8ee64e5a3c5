"""``prernn flow``: the optical flow of all videos in a folder, in advance."""


def _add_flow(commands) -> None:
    flow = commands.add_parser("flow", help="compute the optical flow of all videos in a folder, in advance")
    flow.add_argument("root", help="folder of videos, searched to its depth")
    flow.add_argument("--cache", required=True, help="folder for the flow, one file a video; what is there is kept")
    flow.add_argument("--processes", type=int, help="worker processes (default: one a core)")
    flow.add_argument("--short-side", type=int, default=256, help="shrink frames to this; 0: never (default 256)")
    flow.add_argument("--bound", type=float, default=20.0, help="clip flow to so many pixels (default 20)")
    flow.add_argument("--on-error", choices=("skip", "raise"), default="skip", help="default: skip")
    flow.add_argument("--tolerate-truncation", action="store_true", help="take what decodes of videos that end early")
    flow.add_argument("--overwrite", action="store_true", help="replace files that were made with other settings")
    flow.set_defaults(run=_flow)


def _flow(options) -> None:
    from prernn.media import flow, flow_cache

    flow_cache.precompute(
        options.root,
        options.cache,
        flow.FlowSettings(short_side=options.short_side or None, bound=options.bound),
        processes=options.processes,
        on_error=options.on_error,
        overwrite=options.overwrite,
        tolerate_truncation=options.tolerate_truncation,
    )
