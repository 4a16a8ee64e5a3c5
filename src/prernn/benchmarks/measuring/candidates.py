"""The candidates of `prernn.benchmarks.recurrence`: torch.nn's layers, ours, and those of other packages."""

import functools
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prernn import ops
from prernn.layers.cells import Cell, GRUCell, LSTMCell, VRNNCell
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.input_to_hidden import SingleInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.rnn import GRU, LSTM, VRNN
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.input_projection import linear

Shape = tuple[int, int, int]
"""``(T, B, D)``."""


@dataclass(frozen=True)
class Kind:
    """A cell, and the layers that compute it."""

    cell: Cell
    layer: Callable[..., nn.Module]
    torch_layer: type[nn.Module]
    torch_cell: type[nn.Module]


KINDS = {
    "lstm": Kind(LSTMCell(), LSTM, nn.LSTM, nn.LSTMCell),
    "gru": Kind(GRUCell(reset="after", update="old"), functools.partial(GRU, reset="after"), nn.GRU, nn.GRUCell),
    "vrnn": Kind(VRNNCell(), VRNN, nn.RNN, nn.RNNCell),
}

LAYERS = ("full", "band:21", "band:3", "diagonal")
TORCH = "torch.nn"
PROJECTION = "projection alone"
ESTIMATE = "torch.nn less its projection (estimate)"
"""Names used in figures; the estimate is the difference of the other two."""


@dataclass(frozen=True)
class Candidate:
    """A computation: ``call`` returns its outputs, ``leaves`` are the tensors that get gradients in a backward pass."""

    call: Callable[[], Tensor]
    leaves: list[Tensor]

    def training(self) -> Callable[[], None]:
        """Forward and backward from random gradients of the outputs; earlier gradients are dropped, not accumulated."""
        with torch.no_grad():
            gradient = torch.randn_like(self.call())

        def run():
            for leaf in self.leaves:
                leaf.grad = None
            self.call().backward(gradient)

        return run


def layers(name: str, shape: Shape, device: str) -> dict[str, Candidate]:
    """Whole layers with ``D`` inputs; one step of a stream if T is 1."""
    _, batch, size = shape
    kind = KINDS[name]
    x = torch.randn(*shape, device=device, requires_grad=True)
    state = [torch.randn(batch, size, device=device) for _ in kind.cell.states]
    module = kind.torch_layer(size, size).to(device)
    found = {TORCH: _module(module, x, lambda: module(x)[0])}
    found["torch.nn cell loop"] = _cell_loop(kind.torch_cell(size, size).to(device), x, state)
    for hidden in fitting(LAYERS, size):
        found[f"prernn {hidden}"] = _own(kind.layer(size, size, hidden=hidden).to(device), x, state)
    single = RecurrentLayer(SingleInput(nn.Linear(size, size)), kind.cell, size, "diagonal").to(device)
    found["prernn SIH diagonal"] = _module(single, x, lambda: single((x.flatten(0, 1),), tuple(state))[0])
    projection = nn.Linear(size, len(kind.cell.gates) * size).to(device)
    found[PROJECTION] = _module(projection, x, lambda: linear(x, projection.weight, projection.bias))
    return found


def structured_inputs(name: str, shape: Shape, device: str, structures: Sequence[str]) -> dict[str, Candidate]:
    """torch.nn's layer with ``D`` inputs, and ours with a diagonal ``W_hh`` and ``W_ih`` in each structure.

    If T is 1, ours take a step of a stream, and torch.nn's are its cells.
    """
    steps, batch, size = shape
    kind = KINDS[name]
    x = torch.randn(*shape, device=device, requires_grad=True)
    state = [torch.randn(batch, size, device=device) for _ in kind.cell.states]
    if steps > 1:
        module = kind.torch_layer(size, size).to(device)
        found = {TORCH: _module(module, x, lambda: module(x)[0])}
    else:
        found = {TORCH: _cell_loop(kind.torch_cell(size, size).to(device), x, state)}
    for inputs in fitting(structures, size):
        found[inputs] = _own(kind.layer(size, size, hidden="diagonal", inputs=inputs).to(device), x, state)
    return found


def _module(module: nn.Module, x: Tensor, call: Callable[[], Tensor]) -> Candidate:
    return Candidate(call, [x, *module.parameters()])


def _own(module, x: Tensor, state: list[Tensor]) -> Candidate:
    if len(x) > 1:
        return _module(module, x, lambda: module(x)[0])
    rows = [tensor.unsqueeze(0) for tensor in state]
    held = rows[0] if len(rows) == 1 else tuple(rows)
    return _module(module, x, lambda: module.step(x[0], held)[0])


def _cell_loop(cell: nn.Module, x: Tensor, state: list[Tensor]) -> Candidate:
    """The loop that one would write by hand; a single step if T is 1."""
    first = state[0] if len(state) == 1 else tuple(state)

    def loop():
        held, outputs = first, []
        for x_t in x.unbind(0):
            held = cell(x_t, held)
            outputs.append(held if len(state) == 1 else held[0])
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs)

    return _module(cell, x, loop)


def fitting(structures: Sequence[str], size: int) -> list[str]:
    """The structures that make sense for ``size`` neurons."""

    def fits(hidden):
        try:
            hidden_structure(hidden).check(size)
        except ValueError:
            return False
        return True

    return [hidden for hidden in structures if fits(hidden)]


def recurrences(name: str, shape: Shape, device: str, structures: Sequence[str], loops=()) -> dict[str, Candidate]:
    """Recurrences alone, over existing gate inputs; those of ``loops`` also in plain torch.

    There, "torch loop" is our reference and "indexed loop" the same with ``u[t]`` instead of ``u.unbind()``, as it is
    usually written: its backward pass adds up a gradient of all steps for each step.
    """
    steps, batch, size = shape
    cell = KINDS[name].cell
    gates = len(cell.gates)
    u = torch.randn(steps, batch, gates, size, device=device, requires_grad=True)
    state = tuple(torch.randn(batch, size, device=device) for _ in cell.states)
    bias = torch.randn(gates, size, device=device, requires_grad=True)

    found = {}
    for hidden in fitting(structures, size):
        module = HiddenToHidden(size, gates, hidden).to(device)
        leaves = [u, bias, *module.parameters()]
        run = functools.partial(_recurrence, cell, module, bias, u, state)
        found[hidden] = Candidate(run, leaves)
        if hidden in loops:
            found[f"{hidden}, torch loop"] = Candidate(functools.partial(_by_reference, run), leaves)
            loop = functools.partial(_indexed_loop, cell, module, bias, u, state)
            found[f"{hidden}, indexed loop"] = Candidate(loop, leaves)
    return found


def _recurrence(cell: Cell, module: HiddenToHidden, bias: Tensor, u: Tensor, state: tuple) -> Tensor:
    return ops.sequence(cell, module.weights(bias), u, state)[0]


def _by_reference(run: Callable[[], Tensor]) -> Tensor:
    with ops.using("reference"):
        return run()


def _indexed_loop(cell: Cell, module: HiddenToHidden, bias: Tensor, u: Tensor, state: tuple) -> Tensor:
    products, outputs = module.weights(bias).products(cell.groups), []
    for t in range(len(u)):
        state = cell.step(u[t], state, products)
        outputs.append(state[0])
    return torch.stack(outputs)


def _sru(package: Any, shape: Shape, device: str) -> Candidate:
    x = torch.randn(*shape, device=device, requires_grad=True)
    module = package.SRU(shape[2], shape[2], num_layers=1).to(device)
    return _module(module, x, lambda: module(x)[0])


def _mingru(package: Any, shape: Shape, device: str) -> Candidate:
    steps, batch, size = shape
    x = torch.randn(batch, steps, size, device=device, requires_grad=True)
    module = package.minGRU(size).to(device)
    return _module(module, x, lambda: module(x))


def _accelerated_scan(package: Any, shape: Shape, device: str) -> Candidate:
    steps, batch, size = shape
    gates = torch.rand(batch, size, steps, device=device, requires_grad=True)
    tokens = torch.randn(batch, size, steps, device=device, requires_grad=True)
    return Candidate(lambda: package.scan(gates, tokens), [gates, tokens])


def _flashrnn(package: Any, shape: Shape, device: str) -> Candidate:
    steps, batch, size = shape
    heads = size // 64
    place: dict[str, Any] = {"device": device, "dtype": torch.bfloat16, "requires_grad": True}
    u = torch.randn(batch, steps, 4, heads, 64, **place)
    weight, bias = torch.randn(4, heads, 64, 64, **place), torch.randn(4, heads, 64, **place)
    call = functools.partial(package.flashrnn, u, weight, bias, function="lstm", backend="triton_fused")
    return Candidate(lambda: call()[0][0], [u, weight, bias])


@dataclass(frozen=True)
class Peer:
    """Another package's recurrent layer or recurrence; ``distribution`` is its name on PyPI."""

    label: str
    distribution: str
    module: str
    part: str
    devices: tuple[str, ...]
    build: Callable[[Any, Shape, str], Candidate]


PEERS = (
    Peer("SRU, another cell", "sru", "sru", "layer", ("cpu", "cuda"), _sru),
    Peer("minGRU, another cell", "minGRU-pytorch", "minGRU_pytorch", "layer", ("cpu", "cuda"), _mingru),
    Peer("linear scan", "accelerated-scan", "accelerated_scan.scalar", "recurrence", ("cuda",), _accelerated_scan),
    Peer("LSTM in heads of 64, bfloat16", "flashrnn", "flashrnn", "recurrence", ("cuda",), _flashrnn),
)


def peers(part: str, shape: Shape, device: str) -> dict[str, Candidate | str]:
    """Other packages' computations, or why one is unavailable, by their names here."""
    found: dict[str, Candidate | str] = {}
    for peer in PEERS:
        if peer.part == part and device in peer.devices:
            package, version = _package(peer.module, peer.distribution)
            label = f"{peer.label} ({peer.distribution} {version})".replace(" )", ")")
            found[label] = package if isinstance(package, str) else _tried(peer, package, shape, device)
    return found


@functools.cache
def _package(module: str, distribution: str) -> tuple[Any, str]:
    """The package, or why it is unavailable, and its version. Some compile their kernels first, for a minute."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module), importlib.metadata.version(distribution)
    except Exception as error:  # an old package may raise anything, which is no reason to stop
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        return "not installed" if absent else _reason(error), ""


def _tried(peer: Peer, package: Any, shape: Shape, device: str) -> Candidate | str:
    try:
        candidate = peer.build(package, shape, device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            candidate.training()()
        return candidate
    except Exception as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    return f"fails: {type(error).__name__}: {error}".splitlines()[0][:80]
