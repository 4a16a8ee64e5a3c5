"""Speed on long sequences, and of training steps on words and sound, compared with torch.nn's layers.

Long sequences: a gated diagonal recurrence alone, by its kernel and by Newton's method over all steps at once; cells
whose gates don't see the state, by their kernel and by a parallel scan in plain torch. Training: one step, including
the optimizer, of a network of words (a layer of 400, as many outputs as words), of phonemes (a layer of 512 over 39
features), or of speech (two bidirectional GRU layers of 256 on a spectrogram). Candidates take turns within one run;
figures are medians.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console, Group
from rich.progress import Progress
from torch import Tensor, nn
from torch.func import jvp

import prernn
from prernn import ops
from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.timing import Stopwatch, Times, threads
from prernn.layers.cells import make_cell, recurrent_gates
from prernn.layers.input_to_hidden import InputToHidden
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.models.networks.deep_speech import deep_speech
from prernn.models.networks.spectrogram import Spectrogram, normalized
from prernn.ops import scan
from prernn.reports.files import write_table

Shape = tuple[int, int, int]
CELLS = ("lstm", "gru", "qrnn", "sru", "mingru")
NEWTON = "gru, Newton"
STRUCTURES = ("full", "grouped:4", "band:9", "diagonal")
MODES = ("forward", "training")
KINDS = {"words": (35, 20, 400), "phonemes": (300, 16, 512), "speech": (150, 16, 256)}
"""Shapes of training steps, ``(T, B, D)``, as in the tasks' configurations."""
FEATURES, CLASSES = 39, 39
"""Numbers of features and classes for phonemes."""
FREQUENCIES, FILTERS, LETTERS = 81, 16, 29
"""Numbers of frequencies, filters and letters for speech, at 8 kHz."""


def run(options: argparse.Namespace) -> None:
    """Measures what the options request, prints the tables and writes them."""
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stopwatch, tables = Stopwatch("cpu", options.repeats), []
    with Progress(console=Console(stderr=True), transient=True) as progress, threads(options.threads):
        if "long" in options.parts:
            tables += long_sequences(stopwatch, progress.track(options.shapes, description="long"), out)
        if "training" in options.parts:
            tables += trainings(stopwatch, options.words, out)
    report.show([report.machine("cpu"), f"threads: {options.threads}", *tables], out / "sequences.md")
    print(f"written to {out}")


def long_sequences(stopwatch: Stopwatch, shapes: Any, out: Path) -> list[Group]:
    """Tables of recurrences alone: candidates as rows, shapes as columns."""
    found: dict[str, dict[str, dict[str, Times]]] = {mode: {} for mode in MODES}
    steps = {}
    for shape in shapes:
        text = "x".join(map(str, shape))
        steps[text] = newton_steps(shape)
        for mode in MODES:
            for name, times in stopwatch.interleaved(dict(recurrences(shape, training=mode == "training"))).items():
                found[mode].setdefault(name, {})[text] = times
    lines = [
        {"mode": mode, "candidate": name, "TxBxD": shape, **report.milliseconds(times)}
        for mode, names in found.items()
        for name, values in names.items()
        for shape, times in values.items()
    ]
    write_table(out / "long.csv", lines)
    tables = []
    for mode, names in found.items():
        rows = [
            {"candidate": name, **{shape: f"{1e3 * times.median:.3g}" for shape, times in values.items()}}
            for name, values in names.items()
        ]
        tables.append(report.table(f"Long sequences, recurrence alone, {mode}, ms", rows, ("candidate",)))
    return [*tables, report.table("Newton steps until h moves by less than 1e-5", [steps])]


def recurrences(shape: Shape, *, training: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls of each candidate; in training with the gradient of the gate inputs, except for Newton's."""
    for name in CELLS:
        layer, u, state = problem(name, shape)
        weights = layer.hidden_to_hidden.weights(layer.bias)
        ways = {name: functools.partial(ops.sequence, layer.cell, weights)}
        if not recurrent_gates(layer.cell):
            ways[f"{name}, scan"] = functools.partial(scan.affine_sequence, layer.cell)
        for way, call in ways.items():
            yield way, _timed(call, u, state, training)
    if not training:
        layer, u, state = problem("gru", shape)
        yield NEWTON, _without_gradient(functools.partial(newton, layer, u, state))


def problem(name: str, shape: Shape) -> tuple[RecurrentLayer, Tensor, tuple[Tensor, ...]]:
    """A diagonal layer, gate inputs and a zero state."""
    torch.manual_seed(0)
    steps, batch, size = shape
    layer = RecurrentLayer(InputToHidden(), make_cell(name), size, "diagonal")
    return layer, torch.randn(steps, batch, len(layer.cell.gates), size), layer.init_state(batch)


def _timed(call: Callable[..., Any], u: Tensor, state: Any, training: bool) -> Callable[[], Any]:
    if not training:
        return _without_gradient(functools.partial(call, u, state))

    def both() -> None:
        leaf = u.detach().requires_grad_()
        call(leaf, state)[0].sum().backward()

    return both


def _without_gradient(call: Callable[[], Any]) -> Callable[[], Any]:
    def inside() -> Any:
        with torch.no_grad():
            return call()

    return inside


def newton(layer: RecurrentLayer, u: Tensor, state: tuple[Tensor, ...], least: float = 1e-5) -> tuple[Tensor, int]:
    """All states of a diagonal recurrence with one state at once, and the number of steps it took.

    The T equations ``h_t = f(u_t, h_{t-1})`` are solved by Newton's method (Danieli et al., "ParaRNN", 2025): each step
    is linear in h, with the derivative of f, which is diagonal, as coefficient, and so one scan over time:
    ``h_t = J_t h_{t-1} + f(u_t, g_{t-1}) - J_t g_{t-1}`` where g is the previous guess.

    Args:
        layer: a diagonal layer, with a cell that has one state.
        u: gate inputs ``(T, B, G, D)``.
        state: ``(h,)``.
        least: ends once no h changes by more.
    """
    (first,) = state
    products = layer.hidden_to_hidden.weights(layer.bias).products(layer.cell.groups)
    rows, count = u.flatten(0, 1), 0

    def step(before: Tensor) -> Tensor:
        return layer.cell.step(rows, (before,), products)[0]

    h = u.new_zeros(len(u), *first.shape)
    while True:
        before = torch.cat([first.unsqueeze(0), h[:-1]]).flatten(0, 1)
        value, slope = jvp(step, (before,), (torch.ones_like(before),))[:2]  # units don't interact
        a, b = (x.view_as(h) for x in (slope, value - slope * before))
        following, count = scan.affine_scan(a, b, first), count + 1
        moved, h = float((following - h).abs().max()), following
        if moved < least or count > len(u):
            return h, count


def newton_steps(shape: Shape) -> int:
    """Number of steps that Newton's method takes."""
    layer, u, state = problem("gru", shape)
    with torch.no_grad():
        return newton(layer, u, state)[1]


class TorchLayers(nn.Module):
    """torch.nn.LSTM between a first layer and an output layer: the reference for ours."""

    def __init__(self, first: nn.Module, inputs: int, size: int, outputs: int) -> None:
        super().__init__()
        self.first, self.layer, self.output = first, nn.LSTM(inputs, size, batch_first=True), nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """``(B, T, ...)`` to ``(B, T, K)`` and the state."""
        out, state = self.layer(self.first(x))
        return self.output(out), state


class TorchSpeech(nn.Module):
    """`DeepSpeech` with torch.nn.GRU in place of its two levels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cnn = Spectrogram(FREQUENCIES, FILTERS)
        self.first = nn.GRU(self.cnn.size, size, bidirectional=True, batch_first=True)
        self.second = nn.GRU(size, size, bidirectional=True, batch_first=True)
        self.norms = nn.ModuleList([nn.BatchNorm1d(size), nn.BatchNorm1d(size)])
        self.output = nn.Linear(size, LETTERS, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Spectrograms ``(B, T, 2, F)`` to ``(B, T, K)`` and no state."""
        x, _ = self.cnn(x)
        for layer, norm in zip((self.first, self.second), self.norms, strict=True):
            x = normalized(norm, layer(x)[0].unflatten(2, (2, -1)).sum(2), None)
        return self.output(x), ()


def networks(kind: str, words: int) -> dict[str, nn.Module]:
    """The networks of a task: torch.nn's, and ours with each structure."""
    _, _, size = KINDS[kind]
    if kind == "speech":
        cnn, made = Spectrogram(FREQUENCIES, FILTERS), {"hidden_size": size, "num_layers": 2, "outputs": LETTERS}
        ours = {f"prernn {hidden}": deep_speech(cnn, hidden=hidden, **made) for hidden in STRUCTURES}  # type: ignore[arg-type]
        return {"torch.nn": TorchSpeech(size), **ours}
    if kind == "words":
        first = nn.Sequential(nn.Embedding(words, size), nn.Flatten(2))  # (B, T, 1) to (B, T, size)
        backbone, inputs, outputs = prernn.backbone("words", words=words, size=size), size, words
    else:
        first, inputs, outputs = nn.Sequential(), FEATURES, CLASSES
        backbone = prernn.backbone("features", features=FEATURES, classes=CLASSES)
    found: dict[str, nn.Module] = {"torch.nn": TorchLayers(first, inputs, size, outputs)}
    for hidden in STRUCTURES:
        options: dict[str, Any] = {"cell": "lstm", "hidden_size": size, "hidden": hidden, "outputs": outputs}
        found[f"prernn {hidden}"] = prernn.traditional(backbone, **options)
    return found


def training_step(net: nn.Module, kind: str, words: int) -> Callable[[], Any]:
    """A step of stochastic gradient descent: forward, backward, the gradient's norm limited, weights changed."""
    torch.manual_seed(0)
    steps, batch, _ = KINDS[kind]
    step = {"words": (1,), "phonemes": (FEATURES,), "speech": (2, FREQUENCIES)}[kind]
    x = torch.randn(batch, steps, *step) if kind != "words" else torch.randint(words, (batch, steps, *step))
    outputs = {"words": words, "phonemes": CLASSES, "speech": LETTERS}[kind]
    target = torch.randint(outputs, (batch * steps,))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.train()

    def once() -> None:
        optimizer.zero_grad()
        out = net(x)[0]
        flat = out.flatten(0, 1) if out.is_contiguous() else out.transpose(0, 1).flatten(0, 1)  # neither is a copy
        F.cross_entropy(flat, target).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.25)
        optimizer.step()

    return once


def trainings(stopwatch: Stopwatch, words: int, out: Path) -> list[Group]:
    """A table of training steps: networks as rows, tasks as columns, with speedups over torch.nn."""
    found: dict[str, dict[str, Times]] = {}
    for kind in KINDS:
        calls = {name: training_step(net, kind, words) for name, net in networks(kind, words).items()}
        for name, times in stopwatch.interleaved(calls).items():
            found.setdefault(name, {})[kind] = times
    lines = [
        {"network": name, "task": kind, **report.milliseconds(times)}
        for name, values in found.items()
        for kind, times in values.items()
    ]
    write_table(out / "training.csv", lines)
    base = found["torch.nn"]
    rows = [
        {"network": name}
        | {kind: f"{1e3 * times.median:.3g} ({base[kind].median / times.median:.3g})" for kind, times in values.items()}
        for name, values in found.items()
    ]
    return [report.table(f"A training step, ms (times as fast as torch.nn's); {words} words", rows, ("network",))]
