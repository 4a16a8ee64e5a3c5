"""``prernn early``: accuracy after each tenth of the test videos."""

from pathlib import Path

from prernn.studies.runs.videos import _own_videos


def _add_early(commands) -> None:
    early = commands.add_parser(
        "early", help="accuracy after each tenth of the test videos: how early trained runs know the class"
    )
    early.add_argument("runs", nargs="+", metavar="RUN", help="run folders or checkpoint files, of action recognition")
    early.add_argument("--out", required=True, help="folder for early.csv and early.png")
    early.add_argument("--limit", type=int, help="so many videos for each run, spread over its test list")
    early.set_defaults(run=_early)


def _early(options) -> None:
    from functools import partial

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from prernn.models import checkpoint
    from prernn.reports import tables
    from prernn.studies import early
    from prernn.studies.runs import page

    paths = [Path(path) for path in options.runs]
    names = page.short_names(paths)
    nets = [checkpoint.load(path) for path in paths]
    loaders = [_early_videos(path, net, options.limit) for path, net in zip(paths, nets, strict=True)]
    results = {}
    with Progress(TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bars:
        for name, net, loader in zip(names, nets, loaders, strict=True):
            bar = bars.add_task(name, total=len(loader.dataset))
            results[name] = early.early_accuracy(net, loader, advance=partial(bars.advance, bar))
    curves = {name: [result["accuracy"]] for name, result in results.items()}
    videos, frames = ({name: result[key] for name, result in results.items()} for key in ("videos", "frames"))
    path = early.write_curves(curves, Path(options.out), videos=videos, frames=frames)
    tables.print_whole(early.curve_table(curves))
    print(path)


def _early_videos(path, net, limit):
    """Test videos of a run of action recognition, whose classes are the network's."""
    from prernn.studies import early
    from prernn.training import run_files

    task, folder = (net.recipe.get("task") or {}).get("name"), run_files._folder(path)
    if task != "action":
        raise NotImplementedError(f"{path}: expected a run of task action for early prediction, got {task!r}")
    if not (folder / "config.yaml").is_file():
        raise NotImplementedError(f"{path}: no config.yaml in {folder} says which videos are its test videos")
    try:
        loader = _own_videos(folder, net)
    except ValueError as error:  # without the options of analyze
        raise ValueError(f"{folder / 'config.yaml'}: {error.__cause__ or error}") from error
    labels = loader.dataset.task.labels
    if net.recipe.get("labels") not in (None, labels):
        raise ValueError(f"{path}: expected the classes {net.recipe['labels']} in its test videos, got {labels}")
    return early.some_videos(loader, limit)
