"""``prernn quantize``: integer weights for a trained network, without retraining."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from prernn.commands.arguments.command import Command, given


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn quantize``."""
    add = parser.add_argument
    add("network", metavar="RUN", help="run folder or checkpoint; or the name of a backbone")
    add("--out", help="folder for the quantized network, report, curve and pictures (default: RUN-quantized)")
    add(
        "--samples",
        type=float,
        default=1.0,
        help="samples per weight of the network that is kept (default %(default)s)",
    )
    add(
        "--sweep",
        type=float,
        nargs="+",
        default=[],
        metavar="S",
        help="further numbers of samples per weight, for the curve",
    )
    add("--draws", type=int, default=1, help="draws for each number of samples (default %(default)s)")
    add("--sampler", default="systematic", help="systematic (default), jittered, sobol or random")
    add("--scale", default="layer", help="one scale per layer (default) or neuron")
    add("--order", default="sign", help="order of the weights: sign (default) or natural")
    allocation = (
        "exponent of samples per weight over a layer's size (default 1/3; 0: equal), or outputs: by sensitivity"
    )
    add("--allocation", type=_number_or_word, help=allocation)
    add(
        "--correct",
        action="store_true",
        help="correct batch normalization and biases, using inputs made from the network",
    )
    add("--seed", type=int, default=0, help="seed of the first draw (default %(default)s)")
    add("--weights", help="backbone: file with its weights (default: those its library offers)")
    add("--config", help="run: config.yaml that names the test videos (default: the run's own)")
    add("--limit", type=int, help="run: number of test videos, spread over the list; 0: none")


def run(options: Namespace) -> None:
    """Quantizes, prints the report, and writes the network, tables and curve."""
    if options.draws < 1 or (options.limit is not None and options.limit < 0):
        raise ValueError(f"expected --draws from 1 and --limit from 0 on, got {options.draws} and {options.limit}")
    from prernn.studies import quantization

    path = Path(options.network)
    out = Path(options.out) if options.out else quantization.folder_beside(path)
    if path.exists():
        if options.weights is not None:
            raise ValueError(f"{path} has its own weights: expected no --weights, got {options.weights}")
        work = quantization.read_run(path, out, config=options.config, limit=options.limit)
    else:
        if odd := [f"--{name}" for name in given(options, "config", "limit")]:
            raise ValueError(f"{odd[0]} is of a run: expected a run folder or checkpoint, found no {path}")
        work = quantization.read_backbone(options.network, options.weights), None
    chosen = given(options, "sampler", "scale", "order", "allocation") | ({"correct": True} if options.correct else {})
    seeds = range(options.seed, options.seed + options.draws)
    net, judge = work
    quantization.run(net, out, options.samples, options.sweep, seeds, judge, **chosen)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


QUANTIZE = Command("integer weights for a trained network, without retraining", run, add_arguments)
