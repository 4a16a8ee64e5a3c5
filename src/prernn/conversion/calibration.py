"""Brings gate inputs to a scale at which a recurrent layer can learn, measured on a few videos.

A pre-trained layer was trained for the activation that follows it, not for gates. On videos of the demo, the gate
inputs from EfficientNet-Lite0's last convolution have a mean of -2.9 and a deviation of 3.0: update gates are closed
and candidates are near -1 before anything is learned.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.graph.graft import recurrent_nodes
from prernn.conversion.modes import evaluating
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real
from prernn.layers.calibration import Calibration, Restoration
from prernn.layers.cells import LinearCell
from prernn.layers.computed_weights import copy_of
from prernn.layers.input_to_hidden import SingleInput, TraditionalInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.starts import passed

STEP = "calibrated"
"""Name of the step in a recipe."""

SATURATED = 2.0
"""Magnitude from which a gate hardly reacts: sigmoid(2) = 0.88, tanh(2) = 0.96."""

GAIN = 0.1
"""Default standard deviation of gate inputs, see `calibrate`."""

LEAST = 1e-5
"""Smallest deviation of gate inputs, relative to their mean, that is not just rounding."""

Run = Callable[[], object]
"""Runs videos through a network, or through the part of it after its trunk."""


def calibrate(
    network: RecurrentNetwork, videos: Sequence[Tensor], *, gain: float = GAIN, stacked: bool = False
) -> RecurrentNetwork:
    """A copy of a converted network whose gate inputs have mean 0 and standard deviation ``gain`` over some videos.

    Each unit of each gate gets an affine map before the recurrence, ``u' = gain (u - mean) / deviation``, with its own
    mean and the root mean square of the deviations of all units of the gate: 2 G D fixed numbers, or 2 D if all gates
    share one input. A separate deviation for each unit would amplify units that hardly vary as much as informative
    ones, which costs most if there are few videos (docs/results.md). The numbers are buffers: they are not trained, and
    are part of checkpoints, streams and exports. Layers after a calibrated one are calibrated on its new outputs.
    Stacked layers (`traditional`), whose weights are initialized for inputs of deviation 1, are left as in torch.nn
    unless ``stacked`` is set. Units of an RCN, and a VRNN with ``start="cnn"``, start as the CNN and remain unchanged.
    Calibrating again on the same videos changes nothing.

    The default gain is 0.1: three deviations over all units are then 0.3, up to which tanh is linear within 3 % and a
    sigmoid stays between 0.42 and 0.58. So every gate can move both ways, and learns from the first step.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16).eval()
        >>> net = prernn.convert(cnn, "fc6", cell="gru", input="single", outputs=3)
        >>> net = prernn.calibrate(net, [torch.rand(2, 5, 3, 16, 16)], gain=0.1)
        >>> net.recurrent_layers[0].calibration.scale.shape
        torch.Size([1, 16])

    Args:
        network: a network with a converted layer.
        videos: batches ``(B, T, C, H, W)`` that can be iterated several times, once for each layer.
        gain: standard deviation of gate inputs.
        stacked: also calibrate stacked layers, for a comparison in which each network is treated the same.

    Raises:
        ValueError: no videos, videos that do not differ or give NaN or infinity, a gain that is not positive, or a
            network without such a layer.
    """
    network = with_calibration(network, stacked)
    measure(network, lambda: _through(network, videos), gain)
    return network


def with_calibration(network: RecurrentNetwork, stacked: bool = False) -> RecurrentNetwork:
    """A copy of a network with the affine maps of `calibrate`, which are the identity until they are measured.

    Raises:
        ValueError: a network without a converted layer, or with ``stacked``, without any recurrent layer.
    """
    network = copy_of(network)
    layers = [layer for _, layer in gated_layers(network, stacked)]
    if not layers:
        kind = "recurrent" if stacked else "converted"
        raise ValueError(f"expected a network with a {kind} layer that does not start as the CNN, got one without")
    for layer in layers:
        gates = 1 if type(layer.input_to_hidden) is SingleInput else len(layer.cell.gates)
        like = layer.bias
        layer.calibration = Calibration(gates, layer.hidden_size, device=like.device, dtype=like.dtype)
    steps = network.recipe.steps
    if steps and steps[-1].name == STEP:
        network.recipe = replace(network.recipe, steps=steps[:-1])
    found = any(isinstance(layer.input_to_hidden, TraditionalInput) for _, layer in _calibrated(network))
    network.recipe = network.recipe.with_step(STEP, **({"stacked": True} if found else {}))
    return network


def drop_calibration(network: SequenceNetwork) -> None:
    """Removes the affine maps of `calibrate` from a network."""
    for _, layer in _calibrated(network):
        layer.calibration = nn.Identity()
    steps = tuple(step for step in network.recipe.steps if step.name != STEP)
    network.recipe = replace(network.recipe, steps=steps)


def unmeasured(network: SequenceNetwork) -> list[RecurrentLayer]:
    """Layers with the affine maps of `calibrate` that have not been measured yet."""
    return [layer for _, layer in _calibrated(network) if not bool(layer.calibration.measured)]


@torch.no_grad()
def measure(network: SequenceNetwork, run: Run, gain: float = GAIN) -> None:
    """Sets the affine maps of a network, layer by layer, from the videos that ``run`` runs through it.

    Raises:
        ValueError: as in `calibrate`.
    """
    gain = real("gain", gain, 0, above=True)
    with evaluating(network):
        for name, layer in _calibrated(network):
            with _moments(layer) as found:
                run()
            if not found.count:
                raise ValueError(f"expected videos to calibrate layer {name} on, got none")
            _check(name, found)
            layer.calibration.measure(found.mean, found.deviation, gain)
            if isinstance(layer.restoration, Restoration):
                own = layer.cell.own_gate if len(found.mean) > 1 else 0
                layer.restoration.measure(found.mean[own], found.deviation[own], gain * passed(layer.cell))


def _check(name: str, found: "_Moments") -> None:
    if not bool(found.mean.isfinite().all() and found.squares.isfinite().all()):
        raise ValueError(f"expected videos whose gate inputs in layer {name} are numbers, got NaN or infinite ones")
    size = found.mean.square().mean(1, keepdim=True).sqrt()
    if bool((found.deviation <= LEAST * size).any()):
        raise ValueError(f"expected videos that differ to calibrate layer {name} on, got constant gate inputs")


@dataclass
class GateInputs:
    """Statistics of the inputs of one gate of a layer over videos.

    Attributes:
        layer: name of the layer in the network.
        gate: name of the gate in the cell; "all" if all gates share one input.
        mean: mean over frames and units.
        deviation: standard deviation over frames and units.
        saturated: share of inputs above 2 or below -2, where a gate hardly reacts.
    """

    layer: str
    gate: str
    mean: float
    deviation: float
    saturated: float


@torch.no_grad()
def gate_inputs_of(network: SequenceNetwork, videos: Iterable[Tensor]) -> list[GateInputs]:
    """Statistics of gate inputs in converted and stacked layers over videos ``(B, T, C, H, W)``, calibrated or not."""
    layers = gated_layers(network, stacked=True)
    seen = {name: _Saturation() for name, _ in layers}
    hooks = [layer.calibration.register_forward_hook(seen[name].hook) for name, layer in layers]
    try:
        with evaluating(network):
            _through(network, videos)
    finally:
        for hook in hooks:
            hook.remove()
    return [row for name, layer in layers for row in seen[name].rows(name, layer)]


@dataclass
class _Saturation:
    """Sums over the inputs of each gate: values, squares and how many are beyond `SATURATED`."""

    count: int = 0
    sums: Any = 0.0

    def hook(self, module: nn.Module, inputs: Any, u: Tensor) -> None:
        values = u.double().transpose(0, 1).flatten(1)  # (G, N * D...)
        self.count += values.shape[1]
        beyond = (values.abs() > SATURATED).double()
        self.sums = self.sums + torch.stack([each.sum(1) for each in (values, values.square(), beyond)])

    def rows(self, name: str, layer: RecurrentLayer) -> Iterator[GateInputs]:
        """A row for each gate; none if the layer saw no inputs."""
        if not self.count:
            return
        mean, square, beyond = self.sums / self.count  # (G,) each
        gates = layer.cell.gates if len(mean) > 1 else ("all",)
        deviation = (square - mean**2).clamp(min=0).sqrt()
        for gate, *values in zip(gates, mean.tolist(), deviation.tolist(), beyond.tolist(), strict=True):
            yield GateInputs(name, gate, *values)


def saturation_lines(before: Iterable[GateInputs], after: Iterable[GateInputs]) -> list[str]:
    """What `calibrate` changed in each gate, as text."""
    return [
        f"{old.layer}, {old.gate}: mean {old.mean:.2f} and deviation {old.deviation:.2f}, {old.saturated:.0%} beyond "
        f"{SATURATED:g}; now {new.mean:.2f} and {new.deviation:.2f}, {new.saturated:.0%} beyond"
        for old, new in zip(before, after, strict=True)
    ]


@dataclass
class _Moments:
    """Running mean ``(G, D)`` and deviation ``(G, 1)`` over frames, in float64 (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, u: Tensor) -> None:
        if not len(u):
            return
        values = u.double()  # (N, G, D)
        more, mean = len(values), values.mean(0)
        away, total = mean - self.mean, self.count + len(values)
        self.squares = self.squares + ((values - mean) ** 2).sum(0) + away**2 * (self.count * more / total)
        self.mean, self.count = self.mean + away * (more / total), total

    @property
    def deviation(self) -> Tensor:
        """The deviation of each gate, as the root mean square over its units."""
        found: Tensor = (self.squares / self.count).mean(1, keepdim=True).sqrt()
        return found


@contextmanager
def _moments(layer: RecurrentLayer) -> Iterator[_Moments]:
    moments = _Moments()
    hook = layer.input_to_hidden.register_forward_hook(lambda module, inputs, u: moments.add(u))
    try:
        yield moments
    finally:
        hook.remove()


def gated_layers(network: SequenceNetwork, stacked: bool) -> list[tuple[str, RecurrentLayer]]:
    """Converted layers by name, with ``stacked`` also stacked ones; not those that start as the CNN."""
    if not isinstance(network, RecurrentNetwork):
        return []
    names = (str(node.target) for node in recurrent_nodes(network.cnn))
    return [
        (name, layer)
        for name, layer in zip(names, network.recurrent_layers, strict=True)
        if not isinstance(layer.cell, LinearCell)
        and not layer.begins_as_cnn
        and (stacked or not isinstance(layer.input_to_hidden, TraditionalInput))
    ]


def _calibrated(network: SequenceNetwork) -> list[tuple[str, Any]]:
    layers = gated_layers(network, stacked=True)
    return [(name, layer) for name, layer in layers if isinstance(layer.calibration, Calibration)]


def _through(network: nn.Module, videos: Iterable[Tensor]) -> None:
    for video in videos:
        if not isinstance(video, Tensor):  # a loader's pair of videos and labels
            got = type(video).__name__
            raise ValueError(
                f"expected batches of videos (B, T, C, H, W), got {got}: pass [video for video, _ in loader]"
            )
        network(video)
