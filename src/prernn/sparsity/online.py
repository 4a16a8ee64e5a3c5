"""Online sparsity: the inputs of a network's layers are sampled by importance while it runs (Structural Sparsity talk).

The input ``a`` of a layer has ``n`` activations for each picture. ``N = rate * n`` samples of them are drawn with
probability ``|a_i| / ||a||_1``. An activation that is not drawn becomes 0; one that is drawn keeps its value ("keep"),
or becomes an estimate ("estimate"),

    estimate_i = sign(a_i) * max(|a_i|, ||a||_1 / N),

whose mean over the offsets is ``a_i``: it is ``a_i`` over the probability of being drawn at all (the Horvitz-Thompson
estimator). With "count" it becomes the plain estimator, ``sign(a_i) * count_i * ||a||_1 / N``, with the same mean and
more noise. Sampling is systematic: with ``C_i = N * (|a_1| + ... + |a_i|) / ||a||_1`` and one offset ``u`` in [0, 1)
for the layer,

    count_i = floor(C_i - u) - floor(C_{i-1} - u),

so that every count is ``N |a_i| / ||a||_1`` rounded down or up, and all counts sum to ``N``. No random numbers are
drawn while the network runs: the result depends only on the picture, not on the rest of its batch, and is the same for
a whole video and frame by frame. This holds up to rounding: if an earlier layer rounds differently in a batch of
another size, a sample may fall on the next activation.

How we read the talk: its slide says "subsampled with 20% activations in convolutional layers, and 5% activations in
dense layers" above a table of "avg. used a_i / layer" (42-48 %) and "avg. a_ij != 0 / layer" (15-16 %). With 20 %
samples, some of which fall on the same activation, the latter is the share of all activations that are not zero after
sampling (``used``). We take the former to be the share of used activations among those that were not zero before
(``used_of_non_zero``): in a picture no value is zero, so that the two agree there, and the amount that the row "1st
Conv" adds to the averages of "2nd Conv" over the 15 layers of that network is 20 % in both columns. The talk does not
say how samples are distributed, nor which values drawn activations get.

Instead of single activations, whole channels or whole positions of a convolution's input can be drawn, by the sum of
their magnitudes.

Activations that are not drawn are skipped in products if that is faster (`prernn.conversion.lighter.skipping`), and
samples are drawn by a C kernel whose results equal those of the functions here bit by bit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from prernn.conversion.lighter.skipping import kernels_take, skip
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.arguments import SEEDS, real, whole
from prernn.layers.computed_weights import copy_of
from prernn.layers.input_to_hidden import GateInput, SingleInput, StructuredLinear, TraditionalInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.ops.backends import kernels

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


LAYERS = (nn.Linear, *CONVOLUTIONS)


INPUT_FORMS = (SingleInput, TraditionalInput)
FULLY_CONNECTED = (nn.Linear, StructuredLinear)
"""Fully connected layers. `INPUT_FORMS` bypass their layer's hooks or call it several times, so their own input is
sampled."""


VALUES = ("keep", "estimate", "count")


PARTS = ("activation", "channel", "place")
"""The units of a convolution's input that can be drawn."""


def online_sparsity(
    module: nn.Module,
    conv: float | None = 0.2,
    linear: float | None = 0.05,
    *,
    values: str = "keep",
    per: str = "activation",
    start: int | str | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``module`` whose layers see samples of their inputs, drawn by importance; ``module`` is not changed.

    Example:
        >>> import prernn, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> sampled = prernn.online_sparsity(net, linear=0.25)  # a quarter of the activations that a layer reads
        >>> sampled(torch.rand(2, 64)).shape
        torch.Size([2, 4])

    On a CPU, activations that are not drawn are skipped in products if that is faster: in fully connected layers for
    few rows, and in convolutions of stride 1 with small kernels. Each picture ``(C, H, W)`` of a convolution and each
    vector of a linear layer is sampled separately. The weights and their names stay the same. ``nn.Linear`` and
    convolutions are sampled; path layers and recurrent products are not. A checkpoint contains the network without
    sampling: sample it again after loading. This is meant for inference: activations that are not drawn, and estimates,
    get no gradient. Convert a CNN before sampling it: otherwise only one gate of a converted layer would be sampled.

    Args:
        module: any network, with or without recurrence.
        conv: samples at convolutions, as a share of the activations; None and 1 disable sampling there.
        linear: the same at linear layers.
        values: values of the drawn activations: "keep", "estimate" or "count". Trained residual networks that are
            sampled from their first layers on lose less with "keep". "estimate" and "count" are unbiased; a VGG, which
            has no shortcuts, keeps more than half of its accuracy with them and nearly none with "keep".
        per: the unit of a convolution's input that is drawn: an "activation", a "channel" with all its positions, or a
            "place", a position with all its channels.
        start: the first layer that is sampled, by name or by its index among the convolutions and linear layers: in
            order of execution in a `RecurrentNetwork`, else in that of ``named_modules``. None takes the second, if
            there are several: with 0 the picture itself is sampled, which few networks tolerate.
        seed: seed of the layers' offsets ``u``.

    Raises:
        ValueError: a rate outside (0, 1], unknown ``values`` or ``per``, a start that the module does not have, a
            module that is already sampled.
    """
    _check(conv, linear, values, per)
    sampled = copy_of(module)
    layers = dict(sampling_layers(sampled))
    if any(sampling_of(layer) for layer in layers.values()):
        raise ValueError("expected a module that is not sampled yet, got one from online_sparsity")
    chance = torch.Generator().manual_seed(whole("seed", seed, *SEEDS))
    offsets = torch.rand(len(layers), generator=chance, dtype=torch.float64).tolist()
    first = _place(start, list(layers))
    for layer, offset in list(zip(layers.values(), offsets, strict=True))[first:]:
        rate = linear if isinstance(weighted_layer(layer), FULLY_CONNECTED) else conv
        if rate is not None and rate < 1:
            layer.register_forward_pre_hook(ActivationSampling(rate, offset, values, per))
            if not isinstance(layer, GateInput):  # which runs its layer with several weights
                skip(weighted_layer(layer), rate)
    return sampled


def _check(conv: float | None, linear: float | None, values: str, per: str) -> None:
    for name, rate in (("conv", conv), ("linear", linear)):
        if rate is not None:
            real(name, rate, 0, 1, above=True)
    if values not in VALUES:
        raise ValueError(f"expected values to be one of {', '.join(VALUES)}, got {values!r}")
    if per not in PARTS:
        raise ValueError(f"expected per to be one of {', '.join(PARTS)}, got {per!r}")


def _place(start: int | str | None, names: list[str]) -> int:
    if not names:
        raise ValueError("expected a module with linear layers or convolutions, got one without")
    if start is None:
        return min(1, len(names) - 1)
    if isinstance(start, str):
        if start not in names:
            raise ValueError(f"expected start to be one of the layers {', '.join(names)}, got {start!r}")
        return names.index(start)
    return whole("start", start, 0, len(names) - 1)


def sampling_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers whose inputs can be sampled, in order; for a recurrent layer, the layer behind its gate inputs.

    A layer that has several names comes once, under the first.
    """
    parts = [("", module)]
    graph = module.cnn if isinstance(module, RecurrentNetwork) else module
    if isinstance(graph, fx.GraphModule):
        calls = (str(node.target) for node in graph.graph.nodes if node.op == "call_module")
        parts = [(name, graph.get_submodule(name)) for name in calls]
    seen: set[nn.Module] = set()
    for name, part in parts:
        for inner, layer in _inside(name, part):
            if layer not in seen:
                seen.add(layer)
                yield inner, layer


def _inside(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, RecurrentLayer):
        yield from _inside(name, module.input_to_hidden)
    elif isinstance(module, (*LAYERS, *INPUT_FORMS)):
        yield name, module
    elif not isinstance(module, nn.MultiheadAttention):  # which bypasses the hooks of its layer
        for part, child in module.named_children():
            yield from _inside(f"{name}.{part}" if name else part, child)


def weighted_layer(layer: nn.Module) -> nn.Module:
    """The fc or conv layer itself."""
    if isinstance(layer, SingleInput):
        return layer.layer
    return layer.linear if isinstance(layer, TraditionalInput) else layer


def sampling_of(layer: nn.Module) -> "ActivationSampling | None":
    return next((hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, ActivationSampling)), None)


@dataclass(frozen=True)
class ActivationSampling:
    """A forward pre-hook that samples the first input of a layer: see `sample`.

    The offset is a plain number, not a buffer, so that converting the network's type or device does not change it.
    """

    rate: float
    offset: float
    values: str
    per: str = "activation"

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The layer's inputs, the first of them sampled."""
        x, *others = inputs
        rows = rows_of(layer, x)
        samples = self.samples(self.parts(layer, x))
        if self.per == "activation" or row_rank(weighted_layer(layer)) == 1:
            return sample(rows, samples, self.offset, self.values).reshape(x.shape), *others
        maps = rows.unflatten(1, (x.shape[-row_rank(weighted_layer(layer))], -1))  # (R, C, places)
        return sample_parts(maps, samples, self.offset, self.values, self.per).reshape(x.shape), *others

    def parts(self, layer: nn.Module, x: Tensor) -> int:
        """How many units of one row can be drawn: activations, channels or positions."""
        shape = x.shape[-row_rank(weighted_layer(layer)) :]
        if self.per == "activation" or len(shape) == 1:
            return math.prod(shape)
        return shape[0] if self.per == "channel" else math.prod(shape[1:])

    def samples(self, parts: int) -> int:
        """The number of samples ``N``, at least 1."""
        return max(1, round(self.rate * parts))


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as rows ``(R, n)``: pictures for a convolution, vectors for a linear layer."""
    rank = row_rank(weighted_layer(layer))
    return x.reshape(-1, math.prod(x.shape[-rank:]))


def row_rank(layer: nn.Module) -> int:
    """Number of dimensions of one row: 1 for a vector, 3 for a picture ``(C, H, W)``."""
    if isinstance(layer, FULLY_CONNECTED):
        return 1
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.ndim - 1


def sample(a: Tensor, samples: int, offset: float, values: str = "keep") -> Tensor:
    """Rows ``a (R, n)`` with ``samples`` systematic samples of each, and zeros elsewhere; rows of zeros stay zero.

    Args:
        a: the rows, of any floating type.
        samples: number of samples ``N`` per row.
        offset: ``u`` in [0, 1).
        values: "keep", "estimate" or "count".
    """
    if a.numel() and kernels_take(a):
        drawn: Tensor = kernels("native").sample(a, samples, offset, values)
        return drawn
    counts, norm = sample_counts(a, samples, offset)
    if values == "keep":
        return torch.where(counts == 0, 0, a)  # values that are not finite stay, because their counts are NaN
    each = norm / samples
    size = counts * each if values == "count" else torch.maximum(a.detach().abs().double(), each)
    return torch.where(counts == 0, 0, a.detach().sign() * size.to(a.dtype))


def sample_parts(a: Tensor, samples: int, offset: float, values: str, per: str) -> Tensor:
    """Maps ``a (R, C, P)`` with ``samples`` systematic samples of each one's channels or positions, zeros elsewhere.

    With ``s_j`` the sum of ``|a|`` over channel or position j, "estimate" gives ``a_i max(1, ||a||_1 / (N s_j))``, and
    "count" gives ``a_i count_j ||a||_1 / (N s_j)``: both have mean ``a_i``.
    """
    across = 2 if per == "channel" else 1
    size = a.detach().abs().sum(across, dtype=torch.float64)
    counts, norm = sample_counts(size, samples, offset)
    if values == "keep":
        return torch.where(counts.unsqueeze(across) == 0, 0, a)
    factor = norm / samples / torch.where(size == 0, 1.0, size)
    factor = counts * factor if values == "count" else factor.clamp(min=1)
    scaled = (a.detach() * factor.unsqueeze(across)).to(a.dtype)
    return torch.where(counts.unsqueeze(across) == 0, 0, scaled)


@torch.no_grad()
def sample_counts(a: Tensor, samples: int, offset: float) -> tuple[Tensor, Tensor]:
    """How often each activation of the rows ``a (R, n)`` is drawn, and ``||a||_1 (R, 1)``, both float64."""
    place = a.abs().cumsum(1, dtype=torch.float64)  # (R, n)
    norm = place[:, -1:].clone()  # (R, 1)
    # C ends at exactly N, because the last is divided by itself; in place, because memory access dominates the time
    place.div_(torch.where(norm > 0, norm, 1.0)).mul_(samples)
    first = math.floor(-offset)
    # N - u may have been rounded up to N
    drawn = place.sub_(offset).floor_().clamp_(max=samples + first)  # (R, n)
    return torch.diff(drawn, dim=1, prepend=torch.full_like(norm, first)), norm
