"""``prernn quantize``: integer weights for a trained network, without retraining."""

from pathlib import Path

from prernn.studies.runs.videos import _own_videos


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
    from prernn.training import run_files

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
    net, folder = checkpoint.load(path), run_files._folder(path)
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
