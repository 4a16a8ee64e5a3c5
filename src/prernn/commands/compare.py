"""``prernn compare``: networks of an application trained side by side."""

import argparse


def _add_compare(commands) -> None:
    compare = commands.add_parser(
        "compare", help="train networks of an application side by side: PreRNN's table, or RCN's"
    )
    compare.add_argument("--out", required=True, help="folder for table and curves")
    compare.add_argument("--epochs", type=int, help="of every training")
    compare.add_argument("--rates", type=float, nargs="+", help="learning rates to search")
    compare.add_argument("--seeds", type=int, nargs="+", help="of the final trainings")
    compare.add_argument("--passes", type=int, help="times the trunk runs over the training videos, with other crops")
    compare.add_argument("--networks", default="prernn", help="which table: prernn (default) or rcn")
    compare.add_argument("--also", nargs="+", default=[], help="rcn: further backbones as they are, such as r3d_18")
    compare.add_argument("--batch-size", type=int, help="videos")
    compare.add_argument("--structures", nargs="+", default=["band:21", "diagonal"], help="sparse W_hh to try")
    compare.add_argument("--jobs", type=int, default=2, help="trainings at a time (default %(default)s)")
    compare.add_argument("rest", nargs=argparse.REMAINDER, help="-- --config FILE --data.root DIR ..., as for fit")
    compare.set_defaults(run=_compare)


def _compare(options) -> None:
    from prernn.studies import compare, lineup
    from prernn.training import lightning_cli

    module, data = lightning_cli.read_config([word for word in options.rest if word != "--"])
    names = ("epochs", "rates", "seeds", "passes", "batch_size")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    budget = lineup.Budget(**{name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items()})  # type: ignore[arg-type]
    further = {name: getattr(options, name) for name in ("networks", "structures", "also", "jobs")}
    compare.compare(data, module.recipe, options.out, budget, **further)
