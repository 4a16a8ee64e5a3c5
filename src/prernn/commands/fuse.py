"""``prernn fuse``: the answers of several tested runs, averaged."""


def _add_fuse(commands) -> None:
    fuse = commands.add_parser("fuse", help="average the answers of several tested runs (two streams, modalities)")
    fuse.add_argument("runs", nargs="+", metavar="RUN", help="run folders that prernn test has been through")
    fuse.add_argument("--out", required=True, help="folder for metrics and pictures")
    fuse.add_argument("--weights", type=float, nargs="+", help="of the runs (default: all alike)")
    fuse.set_defaults(run=_fuse)


def _fuse(options) -> None:
    from prernn.commands import inspect as inspection
    from prernn.studies import fusion

    inspection.show_metrics(fusion.fuse(options.runs, options.out, options.weights), title=" + ".join(options.runs))
