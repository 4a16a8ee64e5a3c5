"""The gates of a recurrent network over videos: activations, saturation, histograms (PreRNN, section 4.1)."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.graph.graft import recurrent_nodes
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.tasks.task import valid_steps

BINS = 10
LEFT, RIGHT = 0.1, 0.9
FRAMES_AT_ONCE = 32
"""Number of frames that `gate_counts` sends through a network together, which bounds its memory."""

Activations = dict[str, dict[str, Tensor]]


@contextmanager
def recording(net: RecurrentNetwork) -> Iterator[Activations]:
    """Records the gate activations of every recurrent layer; the network's results do not change.

    Yields:
        A dictionary that each ``net(video)`` in the block refills: ``{layer: {gate: (B, T, D...)}}``, with the
        layers' names in the network and the gates' names in the cell.
    """
    seen: Activations = {}
    hooks = []
    try:
        for node, layer in zip(recurrent_nodes(net.cnn), net.recurrent_layers, strict=True):
            hooks += _watch(str(node.target), layer, seen)
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _watch(name: str, layer: RecurrentLayer, seen: Activations) -> list[Any]:
    inputs: list[Tensor] = []
    states: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple, u: Tensor) -> None:
        inputs.append(u)

    def keep_states(module: nn.Module, arguments: tuple, result: Tensor) -> None:
        states.append(arguments[0])

    def note(module: nn.Module, arguments: tuple, result: tuple) -> None:
        seen[name] = gate_activations(layer, inputs.pop(), arguments[1], states.pop())

    return [
        layer.calibration.register_forward_hook(keep),
        layer.restoration.register_forward_hook(keep_states),
        layer.register_forward_hook(note),
    ]


@torch.no_grad()
def gate_activations(layer: RecurrentLayer, u: Tensor, state: tuple, out: Tensor) -> dict[str, Tensor]:
    """The gates of a layer at all steps at once: ``h_{t-1}`` is known once the layer has run.

    Args:
        layer: a recurrent layer.
        u: gate inputs of ``T*B`` frames, time first: ``(T*B, G, D...)``, or ``(T*B, 1, D...)`` for all gates.
        state: from which the layer started, tensors ``(B, D...)``.
        out: its hidden states ``(T*B, D...)``.

    Returns:
        ``{gate: (B, T, D...)}``, by the cell's own equations.
    """
    batch, extent, gates = len(state[0]), out.shape[2:], len(layer.cell.gates)
    places = math.prod(extent)
    before = torch.cat([state[0].to(out.dtype), out])[: len(out)]  # (T*B, D...): h_{t-1}
    before = before.flatten(2).transpose(1, 2).flatten(0, 1) if extent else before  # (T*B*P, D)
    u = u.flatten(3).permute(0, 3, 1, 2).flatten(0, 1) if extent else u  # (T*B*P, G, D)
    with torch.autocast(u.device.type, enabled=False):  # as in the layer itself
        u = u.to(layer.bias.dtype).expand(-1, gates, -1)
        products = layer.hidden_to_hidden.weights(layer.bias).products(layer.cell.groups)
        values = layer.cell.activations(u, before, products)
    named = zip(layer.cell.gates, values, strict=True)
    return {gate: _batch_first(value.unflatten(0, (-1, batch, places)), extent) for gate, value in named}


def _batch_first(values: Tensor, extent: tuple[int, ...]) -> Tensor:
    """``(T, B, P, D)`` to ``(B, T, D...)``."""
    values = values.permute(1, 0, 3, 2)  # (B, T, D, P)
    return values.reshape(*values.shape[:3], *extent)


class GateCounts:
    """Counts for one gate of one layer over everything it has seen: memory does not grow with the videos.

    Args:
        size: number of units ``D``.
        low: smallest value of the activation: 0 for a sigmoid, -1 for tanh.
        high: its largest value, 1 for both.

    Attributes:
        times: number of activations seen for each unit.
        left: ``(D,)``, how many of them were below 0.1.
        right: ``(D,)``, how many of them were above 0.9.
        bins: ``(10,)``, all units' activations in bins of equal width from ``low`` to ``high``.
    """

    def __init__(self, size: int, low: float, high: float):
        self.low, self.high = low, high
        self.times = 0
        self.left = torch.zeros(size, dtype=torch.int64)
        self.right = torch.zeros(size, dtype=torch.int64)
        self.bins = torch.zeros(BINS, dtype=torch.int64)

    @property
    def switches(self) -> bool:
        """Whether this is a sigmoid gate, for which saturation is meaningful."""
        return (self.low, self.high) == (0, 1)

    def add(self, values: Tensor, valid: Tensor) -> None:
        """Counts activations ``(B, T, D...)`` where ``valid (B, T)``."""
        rows = values[valid].flatten(2).transpose(1, 2).flatten(0, 1) if values.ndim > 3 else values[valid]  # (N, D)
        self.times += len(rows)
        self.left += (rows < LEFT).sum(0).cpu()
        self.right += (rows > RIGHT).sum(0).cpu()
        edges = rows.new_tensor([self.low + (self.high - self.low) * k / BINS for k in range(1, BINS)])
        self.bins += torch.bucketize(rows.contiguous(), edges, right=True).flatten().bincount(minlength=BINS).cpu()

    def saturation(self) -> tuple[Tensor, Tensor]:
        """Fraction of time that each unit is left and right saturated: below 0.1 and above 0.9 (section 4.1).

        Two tensors ``(D,)``, float64.

        Raises:
            ValueError: nothing was seen.
        """
        return self._shares(self.left, self.times), self._shares(self.right, self.times)

    def histogram(self) -> Tensor:
        """Share of all activations in each of the 10 bins, ``(10,)``, float64. ValueError if nothing was seen."""
        return self._shares(self.bins, int(self.bins.sum()))

    def _shares(self, counts: Tensor, total: int) -> Tensor:
        if not total:
            raise ValueError("gate activations: expected at least one video, got none")
        return counts.double() / total


def bounded_gates(layer: RecurrentLayer) -> dict[str, tuple[float, float]]:
    """Gates whose activation is bounded: all but those of a VRNN with ReLU or the like."""
    cell = layer.cell
    return {gate: bounds for gate, bounds in zip(cell.gates, cell.ranges, strict=True) if bounds is not None}


@torch.inference_mode()
def gate_counts(net: RecurrentNetwork, batches: Iterable[dict[str, Any]]) -> dict[str, dict[str, GateCounts]]:
    """Runs videos through a network and counts the activations of its gates.

    Args:
        net: a network, which keeps its mode (training or evaluation).
        batches: dicts with ``input (B, T, C, H, W)`` and ``lengths (B,)`` as made by `prernn.training.batches.collate`.
            Padding is ignored; so is a batch without ``input``.

    Returns:
        ``{layer: {gate: counts}}`` of the gates with bounds (`bounded_gates`).

    Raises:
        ValueError: a video or lengths that don't fit.
    """
    names = [str(node.target) for node in recurrent_nodes(net.cnn)]
    counts = {
        name: {gate: GateCounts(layer.hidden_size, *bounds) for gate, bounds in bounded_gates(layer).items()}
        for name, layer in zip(names, net.recurrent_layers, strict=True)
    }
    if not any(counts.values()):
        return counts
    device = next(net.parameters()).device
    with recording(net) as seen:
        for batch in batches:
            if "input" in batch:
                _count_batch(net, batch["input"].to(device), batch["lengths"].to(device), seen, counts)
    return counts


def _count_batch(net: RecurrentNetwork, video: Tensor, lengths: Tensor, seen: Activations, counts) -> None:
    valid = valid_steps(lengths, video.shape[1])  # (B, T)
    steps, state = max(1, FRAMES_AT_ONCE // len(video)), None
    for begin in range(0, video.shape[1], steps):
        _, state = net(video[:, begin : begin + steps], state)
        for name, gates in counts.items():
            for gate, count in gates.items():
                count.add(seen[name][gate], valid[:, begin : begin + steps])
