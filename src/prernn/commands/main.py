"""The command line: ``prernn COMMAND``."""

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

FIT_COMMANDS = ("fit", "validate", "test", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake gives one line on standard error and exit code 2.

    ``PRERNN_TRACEBACK=1`` lets the exception through, for looking into it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments and arguments[0] in FIT_COMMANDS:
            from prernn.training import lightning_cli

            lightning_cli.main(arguments)
        else:
            options = _parser().parse_args(arguments)
            options.run(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, NotImplementedError, OSError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError) and not _died(error):
            raise
        if os.environ.get("PRERNN_TRACEBACK"):
            raise
        print(f"prernn: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _died(error: RuntimeError) -> bool:
    """Whether a process or a device ran out of memory, which is no mistake in the program."""
    return type(error).__name__ in ("BrokenProcessPool", "OutOfMemoryError") or "exited unexpectedly" in str(error)


def _one_line(error: BaseException) -> str:
    """The message without the traceback that a worker process puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "worker process" in lines[0] or "Traceback" in str(error):
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as the other errors do."""

    def error(self, message: str):
        """Raises ValueError with the message."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("prernn", description="Make any pre-trained CNN recurrent, train it on video, stream it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    parts = (
        _add_demo,
        _add_fit_commands,
        _add_stream,
        _add_compare,
        _add_fuse,
        _add_flow,
        _add_analyze,
        _add_early,
        _add_quantize,
        _add_inspect,
        _add_info,
    )
    for add in (*parts, _add_bench):
        add(commands)
    return parser


def _add_demo(commands) -> None:
    demo = commands.add_parser("demo", help="the whole way on an embedded data set: render, train, compare, stream")
    demo.add_argument("--root", default="runs/demo", help="run folder (default %(default)s)")
    demo.add_argument("--clips", type=int, help="training clips a class")
    demo.add_argument("--epochs", type=int, help="epochs of each network")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)


def _add_fit_commands(commands) -> None:
    # listed for the help text alone: main hands these to LightningCLI
    for name, text in zip(
        FIT_COMMANDS,
        ("train a network", "evaluate on validation videos", "evaluate on test videos", "label the test videos"),
        strict=True,
    ):
        commands.add_parser(name, help=f"{text}: prernn {name} --config FILE", add_help=False)


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


def _add_fuse(commands) -> None:
    fuse = commands.add_parser("fuse", help="average the answers of several tested runs (two streams, modalities)")
    fuse.add_argument("runs", nargs="+", metavar="RUN", help="run folders that prernn test has been through")
    fuse.add_argument("--out", required=True, help="folder for metrics and pictures")
    fuse.add_argument("--weights", type=float, nargs="+", help="of the runs (default: all alike)")
    fuse.set_defaults(run=_fuse)


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


def _add_early(commands) -> None:
    early = commands.add_parser(
        "early", help="accuracy after each tenth of the test videos: how early trained runs know the class"
    )
    early.add_argument("runs", nargs="+", metavar="RUN", help="run folders or checkpoint files, of action recognition")
    early.add_argument("--out", required=True, help="folder for early.csv and early.png")
    early.add_argument("--limit", type=int, help="so many videos for each run, spread over its test list")
    early.set_defaults(run=_early)


def _add_quantize(commands) -> None:
    quantize = commands.add_parser("quantize", help="integer weights for a trained network, without retraining")
    add = quantize.add_argument
    add("network", metavar="RUN", help="run folder or checkpoint; or the name of a backbone")
    add("--out", help="folder for the quantized network, report, curve and pictures (default: RUN-quantized)")
    add("--samples", type=float, default=1.0, help="samples a weight of the network that is kept (default %(default)s)")
    add("--sweep", type=float, nargs="+", default=[], metavar="S", help="further samples a weight, for the curve")
    add("--draws", type=int, default=1, help="draws of each number of samples (default %(default)s)")
    add("--sampler", default="systematic", help="systematic (default), jittered, sobol or random")
    add("--scale", default="layer", help="one scale a layer (default) or neuron")
    add("--order", default="sign", help="of the weights: sign (default) or natural")
    add("--allocation", type=float, help="exponent of samples a weight over a layer's weights (default 1/3; 0: alike)")
    add("--seed", type=int, default=0, help="of the first draw (default %(default)s)")
    add("--weights", help="backbone: file of its weights (default: those that its library offers)")
    add("--config", help="run: config.yaml that says which test videos (default: the run's own)")
    add("--limit", type=int, help="run: so many test videos, spread over the list; 0: none")
    quantize.set_defaults(run=_quantize)


def _add_inspect(commands) -> None:
    inspect = commands.add_parser("inspect", help="weights that recurrence introduces into a backbone")
    inspect.add_argument("backbone", help="torchvision name, timm name, c3d, efficientnet_lite0")
    inspect.add_argument("--layer", nargs="+", help="layers that become recurrent (default: the last)")
    inspect.add_argument("--cell", nargs="+", default=["vrnn", "lstm", "gru"], help="default: all")
    inspect.add_argument("--input", nargs="+", default=["gate", "single"], help="default: both")
    inspect.add_argument("--hidden", nargs="+", default=["full"], help="structures of W_hh (default: full)")
    inspect.add_argument("--rcn", action="store_true", help="as RCN: its units, their state and cost a frame")
    inspect.add_argument("--size", type=int, help="RCN: side of the picture (default: what the backbone expects)")
    inspect.add_argument("--num-layers", type=int, default=1, help="layers of the traditional RNN that is matched")
    inspect.add_argument("--outputs", type=int, help="size of a new output layer")
    inspect.set_defaults(run=_inspect)


def _add_info(commands) -> None:
    info = commands.add_parser("info", help="versions, devices and kernels of this installation")
    info.set_defaults(run=_info)


def _add_bench(commands) -> None:
    folder = importlib.import_module("prernn.benchmarks").__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))
    bench = commands.add_parser("bench", help="measure speed on this machine: tables, CSV and pictures")
    bench.add_argument("name", choices=names, help="what to measure; NAME --help lists its options")
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="its options", metavar="...")
    bench.set_defaults(run=_bench)


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


def _demo(options) -> None:
    from prernn.studies import demo

    chosen = {name: getattr(options, name) for name in ("clips", "epochs") if getattr(options, name) is not None}
    demo.run(options.root, seed=options.seed, **chosen)


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
    from prernn.streaming import prediction, watch

    return watch.ClassWatcher(*nets), prediction.csv_rows(options.csv or sys.stdout)


def _watch_gesture(nets, options):
    from prernn.streaming import prediction
    from prernn.tasks.gesture import watcher as gesture_events

    table = (
        gesture_events.load_commands(options.commands, _only(nets).recipe.get("labels")) if options.commands else None
    )
    watcher = gesture_events.GestureWatcher(_only(nets), commands=table, decoder=options.decoder)
    return watcher, prediction.json_rows(options.json or sys.stdout)


def _watch_face(nets, options):
    from prernn.streaming import prediction
    from prernn.tasks.face import watcher as face_tracking

    watcher = face_tracking.FaceWatcher(
        _only(nets), detector=face_tracking.detector_from(options.detector or "cascade")
    )
    return watcher, prediction.json_rows(options.json or sys.stdout)


def _only(nets):
    if len(nets) > 1:
        raise NotImplementedError(f"expected one checkpoint for this task, got {len(nets)}")
    return nets[0]


WATCHERS = {"action": _watch_action, "gesture": _watch_gesture, "face": _watch_face}
"""What follows a source, by task, and what writes its rows."""

OPTIONS = {"action": ("csv",), "gesture": ("json", "commands", "decoder"), "face": ("json", "detector")}
"""Options of ``prernn stream`` that belong to a task."""


def _compare(options) -> None:
    from prernn.studies import compare
    from prernn.training import lightning_cli

    module, data = lightning_cli.read_config([word for word in options.rest if word != "--"])
    names = ("epochs", "rates", "seeds", "passes", "batch_size")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    budget = compare.Budget(**{name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items()})  # type: ignore[arg-type]
    further = {name: getattr(options, name) for name in ("networks", "structures", "also", "jobs")}
    compare.compare(data, module.recipe, options.out, budget, **further)


def _fuse(options) -> None:
    from prernn.commands import inspect as inspection
    from prernn.training import saved_outputs

    inspection.show_metrics(
        saved_outputs.fuse(options.runs, options.out, options.weights), title=" + ".join(options.runs)
    )


def _analyze(options) -> None:
    if options.runs[0] == "hidden":
        _analyze_hidden(options)
        return
    from prernn.studies.runs import page, runs

    look = options.gates is None or options.gates
    batches = (runs.video_batches(options.videos) if options.videos else _own_videos) if look else None
    print(page.analyze(options.runs, options.out, batches=batches, limit=options.limit, say=print))


def _analyze_hidden(options) -> None:
    from prernn.studies.runs import hidden_weights

    given = {"--videos": options.videos, "--limit": options.limit, "--no-gates": options.gates}
    if words := [word for word, value in given.items() if value is not None]:
        raise ValueError(f"analyze hidden looks at weights alone: expected no {' or '.join(words)}")
    if len(options.runs) == 1:
        raise ValueError("analyze hidden: expected checkpoints after it, got none (a run folder hidden is ./hidden)")
    print(hidden_weights.analyze_hidden(options.runs[1:], options.out, say=print))


def _own_videos(folder, net):
    """The test videos of the data that a run was trained on, as its config.yaml (or another such file) says."""
    from prernn.training import lightning_cli

    config = folder if folder.is_file() else folder / "config.yaml"
    if not config.is_file():
        raise NotImplementedError(f"no {config} says which videos; give some with --videos")
    try:
        _, data = lightning_cli.read_config(["--config", str(config)])
        data.setup("test")
    except ValueError as error:
        raise ValueError(f"{config}: {error} (--videos and --no-gates do without its data)") from error
    return data.test_dataloader()


def _early(options) -> None:
    from functools import partial

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from prernn.commands import inspect as inspection
    from prernn.models import checkpoint
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
    inspection.print_whole(early.curve_table(curves))
    print(path)


def _early_videos(path, net, limit):
    """Test videos of a run of action recognition, whose classes are the network's."""
    from prernn.studies import early
    from prernn.studies.runs import runs

    task, folder = (net.recipe.get("task") or {}).get("name"), runs._folder(path)
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


def _quantize(options) -> None:
    from prernn.studies import quantization

    if options.draws < 1 or (options.limit is not None and options.limit < 0):
        raise ValueError(f"expected --draws from 1 and --limit from 0 on, got {options.draws} and {options.limit}")
    options.out = options.out or _beside(Path(options.network))
    net, judge = _network_and_judge(options)
    chosen = {name: getattr(options, name) for name in ("sampler", "scale", "order")}
    if options.allocation is not None:
        chosen["allocation"] = options.allocation
    seeds = range(options.seed, options.seed + options.draws)
    quantization.run(net, options.out, options.samples, options.sweep, seeds, judge, **chosen)


def _beside(network):
    """The folder beside a run, checkpoint or, for a backbone, among the runs, that a quantized copy goes to."""
    where = network.resolve() if network.exists() else Path("runs") / network.name
    return where.with_name(f"{where.stem if where.is_file() else where.name}-quantized")


def _network_and_judge(options):
    """The network to quantize, and what scores it on its test videos, or None."""
    from prernn.models import backbones, checkpoint
    from prernn.studies import early, quantization
    from prernn.studies.runs import runs

    path = Path(options.network)
    if not path.exists():
        for name in ("config", "limit"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} is of a run: expected a run folder or checkpoint, found no {path}")
        try:
            backbones.input_spec(options.network)
        except ValueError as error:
            raise ValueError(f"found no run folder or checkpoint {path}: {error}") from error
        pretrained = options.weights is None
        return backbones.backbone(options.network, pretrained=pretrained, weights=options.weights).eval(), None
    if options.weights is not None:
        raise ValueError(f"{path} has weights of its own: expected no --weights, got {options.weights}")
    net, folder = checkpoint.load(path), runs._folder(path)
    if Path(options.out).resolve() == folder.resolve() and (folder / checkpoint.FILE_NAME).exists():
        raise ValueError(f"--out {options.out} holds the trained network: expected another folder")
    config = Path(options.config) if options.config else folder / "config.yaml"
    if options.config and not config.is_file():
        raise ValueError(f"--config {config}: expected a file, found none")
    if options.limit == 0 or not config.is_file():
        return net, None
    try:
        loader = _own_videos(config, net)
    except ValueError as error:  # without the options of analyze
        raise ValueError(f"{config}: {error.__cause__ or error} (--limit 0 does without its videos)") from error
    task, own = loader.dataset.task, (net.recipe.get("task") or {}).get("name")
    if own not in (None, task.name) or net.recipe.get("labels") not in (None, task.labels):
        expected = f"{own or task.name} with labels {net.recipe.get('labels')}"
        raise ValueError(f"{config}: expected test videos of {path}: {expected}, got {task.name} with {task.labels}")
    return net, quantization.Judge(early.some_videos(loader, options.limit))


def _inspect(options) -> None:
    from prernn.commands import inspect as inspection

    if options.rcn:
        inspection.show_rcn(
            options.backbone, options.layer, hiddens=options.hidden, size=options.size, outputs=options.outputs
        )
        return
    inspection.show(
        options.backbone,
        options.layer,
        cells=options.cell,
        inputs=options.input,
        hiddens=options.hidden,
        num_layers=options.num_layers,
        outputs=options.outputs,
    )


def _flow(options) -> None:
    from prernn.media import flow

    flow.precompute(
        options.root,
        options.cache,
        flow.FlowSettings(short_side=options.short_side or None, bound=options.bound),
        processes=options.processes,
        on_error=options.on_error,
        overwrite=options.overwrite,
        tolerate_truncation=options.tolerate_truncation,
    )


def _info(options) -> None:
    from prernn.commands import inspect as inspection

    inspection.show_installation()


def _bench(options) -> None:
    module = importlib.import_module(f"prernn.benchmarks.{options.name}")
    parser = _Parser(f"prernn bench {options.name}", description=module.__doc__)
    module.add_arguments(parser)
    module.run(parser.parse_args(options.rest))


if __name__ == "__main__":
    sys.exit(main())
