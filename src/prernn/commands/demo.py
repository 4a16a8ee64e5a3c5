"""``prernn demo``: the whole way on an embedded data set."""


def _add_demo(commands) -> None:
    demo = commands.add_parser("demo", help="the whole way on an embedded data set: render, train, compare, stream")
    demo.add_argument("--root", default="runs/demo", help="run folder (default %(default)s)")
    demo.add_argument("--clips", type=int, help="training clips a class")
    demo.add_argument("--epochs", type=int, help="epochs of each network")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)


def _demo(options) -> None:
    from prernn.studies import demo

    chosen = {name: getattr(options, name) for name in ("clips", "epochs") if getattr(options, name) is not None}
    demo.run(options.root, seed=options.seed, **chosen)
