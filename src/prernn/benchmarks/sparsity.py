"""Structural sparsity together with recurrence, on the demo's task: one table, and the curves over samples and rates.

A PreGRU-SIH with a full, a band and a path-structured hidden-to-hidden matrix is trained on the embedded data set as
in ``prernn demo``; the full and the band network are quantized, CNN and recurrence alike, without retraining;
activations of the full one are sampled while it runs. Accuracies are of whole networks over the test videos.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.quantized.recurrent_files import engine_rows
from prernn.benchmarks.measuring.quantized.sample_curve import ROUNDED, curve_table, draw_bits, rounded, sampled
from prernn.benchmarks.measuring.timing import Stopwatch, threads
from prernn.conversion.accounting import recurrent_parameters, total_weights
from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.reports.files import write_table
from prernn.reports.plots.curves import lines as draw_lines
from prernn.reports.progress import bars
from prernn.sparsity.online import online_sparsity
from prernn.sparsity.quantization.quantize import OUTPUTS, quantization_report, quantize
from prernn.sparsity.quantization.synthetic_inputs import synthetic_inputs
from prernn.studies import demo
from prernn.tasks.action.task import Action
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset
from prernn.training.evaluation import evaluate, onward

FLOAT_BITS = 32
MAIN = demo.MAIN
TABLE, FILES, CURVES = PARTS = ("table", "files", "curves")
WAYS: dict[str, dict] = {
    "": {},
    ", corrected": {"correct": True},
    ", corrected, by noise": {"correct": True, "allocation": OUTPUTS},
}
"""Options of quantizing: the defaults, and with measurements on inputs made from the network."""
ONLINE, SECOND = "online", "1"
"""How activations are sampled, and the layer where this begins by default."""


def run(options: argparse.Namespace) -> None:
    """Trains, quantizes and measures, and writes ``sparsity.csv``, ``curves.csv``, ``sparsity.md`` and pictures.

    Raises:
        ValueError: numbers out of range, an unknown structure, a folder without the networks.
        ImportError: the packages of the ``demo`` extra are missing.
    """
    _check(options)
    out, console = Path(options.out), Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    tables: list[Any] = []
    with threads(options.threads), bars(console) as progress:
        trained, judge = _trained(options, out, progress)
        full = trained[MAIN]
        inputs = synthetic_inputs(full, seed=options.seed)
        bar = progress.add_task("whole networks over the test videos", total=None, note="")
        advance = functools.partial(progress.advance, bar)
        if TABLE in options.parts:
            tables.append(_table(_compared(trained, inputs, judge, out, options, advance), options))
        if FILES in options.parts:
            last = f"quantized, {options.samples[-1]:g} samples a weight, corrected"
            both = {MAIN: full, last: _quantized(full, options.samples[-1], options.seed, inputs, correct=True)}
            stopwatch = Stopwatch(clock=time.process_time if options.own_time else time.perf_counter)
            rows = engine_rows(both, inputs, judge, out, demo.SIZE, stopwatch)
            tables.append(report.table("engines and 8 bits", rows, ("network", "engine")))
        if CURVES in options.parts:
            curves = []
            for line in _curves(full, inputs, judge, options, advance):
                curves.append(line)
                write_table(out / "curves.csv", curves)
            tables.append(curve_table(curves))
            as_trained = judge(full)
            _draw(curves, as_trained, out / "sparsity.png")
            draw_bits(curves, as_trained, out / "bits.png")
    report.show([report.machine("cpu"), *tables], out / "sparsity.md")
    print(f"written to {out}")


def _check(options: argparse.Namespace) -> None:
    if min(options.clips, options.epochs, options.threads, options.sweep_draws) < 1:
        raise ValueError("expected --clips, --epochs, --threads and --sweep-draws of at least 1")
    if options.test_clips is not None and options.test_clips < 1:
        raise ValueError(f"expected --test-clips of at least 1, got {options.test_clips}")
    if not all(amount >= 0 for amount in (*options.samples, *options.sweep)) or min(options.bits, default=2) < 2:
        raise ValueError("expected --samples and --sweep from 0 on and --bits from 2 on")
    if not all(0 < rate <= 1 for rate in options.rates):
        raise ValueError("expected --rates above 0, up to 1")
    if options.trained and not (Path(options.trained) / _file_name(MAIN)).is_file():
        raise ValueError(
            f"expected --trained to be the folder of an earlier run, with {_file_name(MAIN)}, got {options.trained}"
        )


def _compared(
    trained: dict[str, RecurrentNetwork],
    inputs: Tensor,
    judge: Callable[[nn.Module], float],
    out: Path,
    options: argparse.Namespace,
    advance: Callable[[], None],
) -> list[dict]:
    """Lines of the trained networks, and of the full and the band network quantized."""
    full, band = trained[MAIN], trained[f"{MAIN}, {options.band}"]
    shown = {id(full): inputs, id(band): synthetic_inputs(band, seed=options.seed)}
    quantized = {
        f"{name}, {amount:g} samples a weight{way}": _quantized(net, amount, options.seed, shown[id(net)], **chosen)
        for name, net in (("quantized", full), (f"{options.band} + quantized", band))
        for amount in options.samples
        for way, chosen in WAYS.items()
    }
    lines: list[dict] = []
    for row in _timed({**trained, **quantized}, options):
        lines.append({**_line(row, out), "accuracy": judge(row.net)})
        advance()
        write_table(out / "sparsity.csv", lines)
    return lines


def _trained(
    options: argparse.Namespace, out: Path, progress: Progress
) -> tuple[dict[str, RecurrentNetwork], Callable[[nn.Module], float]]:
    """PreGRU-SIH in three structures, trained on the features of the frozen trunk, and a judge of whole networks."""
    names = {MAIN: "full"} | {f"{MAIN}, {hidden}": hidden for hidden in (options.band, options.paths)}
    if options.trained:
        folder = Path(options.trained)
        return _read(folder, list(names), options), _judge(demo.open_task(folder / "data"), options)
    data = demo.render(out / "data", options.clips, options.seed, progress)
    task = demo.open_task(data)
    classes = len(task.labels or [])
    rows = [
        demo.Contestant(name, NetworkSpec(pretrained=True, input="single", hidden=hidden))
        for name, hidden in names.items()
    ]
    stacked = demo.Contestant("traditional", NetworkSpec(pretrained=True, method="traditional"))
    for row in (*rows, stacked):
        row.build(classes, options.seed)
    train, test = (demo.features(task, part, stacked.net, rows[0].net, progress) for part in ("train", "test"))
    for row in rows:
        demo.train_head(row, train, test, task, options.epochs, options.seed, progress)
        row.net.recipe = task.noted(row.net.recipe)
        channels_last(row.net)
    return {row.name: row.net for row in rows}, _judge(task, options)


def _read(folder: Path, names: Sequence[str], options: argparse.Namespace) -> dict[str, RecurrentNetwork]:
    """Networks that an earlier run has trained; without the table only the first is read."""
    nets = {}
    for name in names if TABLE in options.parts else names[:1]:
        net = checkpoint.load(folder / _file_name(name))
        assert isinstance(net, RecurrentNetwork)
        channels_last(net.eval())
        nets[name] = net
    return nets


def _judge(task: Action, options: argparse.Namespace) -> Callable[[nn.Module], float]:
    """The accuracy of whole networks over the test videos, whose frames are read once."""
    records = task.records("test")
    count = min(options.test_clips or len(records), len(records))
    chosen = [records[(2 * k + 1) * len(records) // (2 * count)] for k in range(count)]
    loader = torch.utils.data.DataLoader(VideoDataset(task, chosen), batch_size=8, collate_fn=collate)
    batches = list(loader)

    def accuracy(net: nn.Module) -> float:
        assert isinstance(net, SequenceNetwork)
        with evaluating(net):
            return float(evaluate(onward(net), task.metrics(), batches)[task.score[0]])

    return accuracy


def _quantized(net: RecurrentNetwork, samples: float, seed: int, inputs: Tensor, **chosen) -> RecurrentNetwork:
    quantized = quantize(net, samples, seed=seed, inputs=inputs, **chosen)
    assert isinstance(quantized, RecurrentNetwork)
    return quantized


def _timed(nets: dict[str, RecurrentNetwork], options: argparse.Namespace) -> list[demo.Contestant]:
    """Times streams of all networks, which take turns."""
    rows = [demo.Contestant(name, NetworkSpec()) for name in nets]
    for row in rows:
        row.net = nets[row.name]
    demo.time_streams(rows)
    return rows


def _line(row: demo.Contestant, out: Path) -> dict:
    file = checkpoint.save(row.net, out / _file_name(row.name))
    try:
        bits = quantization_report(row.net).bits
    except ValueError:  # not quantized
        bits = FLOAT_BITS
    return {
        "network": row.name,
        "weights": total_weights(row.net),
        "of W_hh": recurrent_parameters(row.net).hidden_to_hidden,
        "bits": bits,
        "file_bytes": file.stat().st_size,
        "milliseconds": row.milliseconds,
    }


def _file_name(name: str) -> str:
    plain = name.replace(", ", "-").replace(" ", "-").replace(":", "").replace("%", "")
    return f"{plain}.safetensors"


def _curves(
    net: RecurrentNetwork,
    inputs: Tensor,
    judge: Callable[[nn.Module], float],
    options: argparse.Namespace,
    advance: Callable[[], None],
) -> Iterator[dict]:
    seeds = range(options.seed, options.seed + options.sweep_draws)
    yield from sampled(net, options.sweep, seeds, judge, inputs, advance)
    yield from rounded(net, options.bits, judge, inputs, advance)
    for start in options.start:
        way = ONLINE if start == SECOND else f"{ONLINE} from {start}"
        for rate in options.rates:
            first = int(start) if start.isdigit() else start
            thinned = online_sparsity(net, conv=rate, linear=rate, start=first, seed=options.seed)
            kept = {"draws": 1, "bits": "", "coded": "", "nonzero": ""}
            yield {"way": way, "amount": rate, **kept, "accuracy": judge(thinned), "spread": 0.0}
            advance()


def _table(lines: list[dict], options: argparse.Namespace):
    rows = [
        {
            "network": line["network"],
            "accuracy": f"{line['accuracy']:.1%}",
            "weights": f"{line['weights']:,}",
            "of W_hh": f"{line['of W_hh']:,}",
            "bits": f"{line['bits']:.2f}",
            "file, MB": f"{line['file_bytes'] / 1e6:.2f}",
            "ms a frame": f"{line['milliseconds']:.1f}",
        }
        for line in lines
    ]
    title = f"the demo's task, {options.clips} clips a class, {options.epochs} epochs, threads: {options.threads}"
    return report.table(title, rows, ("network",))


def _draw(curves: list[dict], full: float, path: Path) -> None:
    names = {False: "accuracy, quantized weights", True: "accuracy, sampled activations"}
    panels: dict[str, dict[str, list]] = {}
    for line in curves:
        if line["way"].startswith(ROUNDED):
            continue
        ways = panels.setdefault(names[line["way"].startswith(ONLINE)], {})
        ways.setdefault(line["way"], []).append((line["amount"], line["accuracy"], line["spread"]))
    if panels:
        levels = {name: {"as trained": full} for name in panels}
        along = "samples a weight, or share of activations"
        draw_lines(panels, path, along=along, title="PreGRU-SIH on the demo's task", levels=levels)
