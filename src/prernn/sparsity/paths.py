"""Layers that consist of paths: sparse from the start, deterministic, linear in the number of paths.

A path passes through one neuron of each layer and has one weight between two of them (the talk "Structural Sparsity",
representing artificial neural networks by paths). The neurons come from the Sobol' sequence (`prernn.ops.sobol`). The
connections of a layer with ``paths`` paths are

    y[destination_i] += weight_i x[source_i],  i = 0 .. paths-1,

computed in one pass over the weights in order (`prernn.ops.paths`). Paths may coincide between two layers; their
weights then add up.
"""

import math
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from prernn.layers.arguments import SEEDS, real, whole
from prernn.ops import paths as ops
from prernn.ops.sobol import MOST_POINTS, ORDERS, network_paths
from prernn.sparsity.kept_product import KeptProduct, can_keep

DENSE = 0.25
"""Paths, as a share of all connections, above which a dense product is faster in training, even though its matrix is
made for each call (``prernn bench paths``)."""
INITS = ("alternating", "mixed", "constant")
"""Initializations of weights; the alternative is one number for all weights."""

Layer = TypeVar("Layer", bound="PathLayer")


class Sampling(TypedDict, total=False):
    """How paths are drawn: arguments of `prernn.ops.sobol.network_paths`, which all path layers and networks accept."""

    sampler: str
    seed: int
    scramble: bool
    skip: int
    order: str


PLAIN: Sampling = {"sampler": "sobol", "seed": 0, "scramble": False, "skip": 0, "order": "natural"}
"""The defaults of `Sampling`."""


class PathLayer(nn.Module):
    """The connections of one layer: source and destination of each path, and weights of constant magnitude.

    Paths are determined by the arguments, so a checkpoint contains only the weights and a fingerprint of the paths. A
    checkpoint from before 2026-11-29 has torch's order of the Sobol' points: a layer adopts the order of what it loads.
    """

    source: Tensor
    destination: Tensor
    fingerprint: Tensor
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, paths: int, drawn: Tensor | None, sampling: Sampling):
        super().__init__()
        inputs, outputs = whole("inputs", inputs), whole("outputs", outputs)
        sampling = whole_sampling(sampling)
        self._drawn_by: dict[str, Any] | None = {"paths": paths, **sampling} if drawn is None else None
        if drawn is None:
            drawn = drawn_paths([inputs, outputs], paths, **sampling)
        _check(drawn, inputs, outputs)
        self.inputs, self.outputs = inputs, outputs
        self.register_buffer("fingerprint", _fingerprint(drawn))
        source, destination = drawn.T.int()
        self.register_buffer("source", source.contiguous(), persistent=False)
        self.register_buffer("destination", destination.contiguous(), persistent=False)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        given = state_dict.get(f"{prefix}fingerprint")
        if given is not None and self._drawn_by is not None:
            self._follow(int(given))
        own = self.fingerprint.clone()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if given is not None and not own.is_meta and int(given) != int(own):
            errors.append(f"{prefix}weight belongs to other paths (sampler, seed, scramble, skip)")

    def _follow(self, fingerprint: int) -> None:
        """Switches to the order of the sequence that gives paths with this fingerprint, if any does."""
        if self._drawn_by is None or self.fingerprint.is_meta or int(self.fingerprint) == fingerprint:
            return
        for order in ORDERS:
            drawn = drawn_paths([self.inputs, self.outputs], **{**self._drawn_by, "order": order})
            if int(_fingerprint(drawn)) == fingerprint:
                self._drawn_by["order"] = order
                self.lead(drawn)

    @torch.no_grad()
    def lead(self, drawn: Tensor) -> None:
        """Makes the same weights connect other neurons, ``drawn (paths, 2)``."""
        self.fingerprint.copy_(_fingerprint(drawn))
        # new tensors, so that cached layouts of the old ones are recognized as outdated
        source, destination = drawn.to(self.source).T
        self.source, self.destination = source.contiguous(), destination.contiguous()

    @property
    def paths(self) -> int:
        """Number of paths, each with one weight (or kernel)."""
        return len(self.source)

    @property
    def indices(self) -> Tensor:
        """Source and destination of each path, ``(2, paths)`` int64."""
        return torch.stack([self.source, self.destination]).long()

    @property
    def coincident(self) -> int:
        """Number of paths whose connection an earlier path already has."""
        return self.paths - len(self._connections().unique())

    def signs(self, *, mixed: bool = False) -> Tensor:
        """+1 or -1 for each path, ``(paths,)``: the first path into a neuron is positive, then they alternate.

        So every neuron's weights add up to 0 or to one weight, whatever the number of paths, and a neuron with a single
        path is not dead after positive activations. If Sobol' paths connect every neuron to all inputs in the same
        order, alternating signs would make all neurons equal; ``mixed`` takes the paths in an order that is independent
        of the sequence, but the same for the same connections.
        """
        destination = self.destination.long()
        if not mixed:
            return 1 - 2 * (rank_among_equals(destination) % 2)
        with torch.device("cpu"):
            order = torch.randperm(self.paths, generator=torch.Generator().manual_seed(int(self.fingerprint)))
        order = order.to(destination.device)
        rank = torch.empty_like(destination)
        rank[order] = rank_among_equals(destination[order])
        return 1 - 2 * (rank % 2)

    def _connections(self) -> Tensor:
        return self.source.long() * self.outputs + self.destination.long()  # (paths,)

    def _start(self, weight: Tensor, init: str | float, taps: int = 1) -> None:
        """Initializes with ``+-sqrt(2 / fan_in)``, He's scale at constant magnitude, or one number, as in the talk."""
        fan_in = max(1.0, self.paths / self.outputs) * taps
        size = math.sqrt(2 / fan_in)
        if isinstance(init, str) and init not in INITS:
            raise ValueError(f"expected init to be {', '.join(INITS)} or a number, got {init!r}")
        if not isinstance(init, str):
            size = real("init", init, -math.inf)
        signs = torch.ones_like(self.source)
        if init in INITS[:2]:
            signs = self.signs(mixed=init == "mixed")
        with torch.no_grad():
            weight.copy_((signs * size).view(-1, *[1] * (weight.ndim - 1)).expand(weight.shape))

    def distinct(self) -> tuple[Tensor, Tensor]:
        """The distinct connections in the order of their first path, ``(n, 2)``, and the sums of their weights."""
        _, place = self._connections().unique(return_inverse=True)  # (paths,)
        count = int(place.max()) + 1 if len(place) else 0
        first = torch.full((count,), self.paths).scatter_reduce(0, place.cpu(), torch.arange(self.paths), "amin")
        first, order = first.sort()
        rank = torch.empty_like(order)
        rank[order] = torch.arange(count)
        weight = self.weight.detach()
        summed = weight.new_zeros(count, *weight.shape[1:]).index_add(0, rank.to(weight.device)[place], weight)
        return self.indices[:, first.to(self.source.device)].T, summed


class PathLinear(PathLayer):
    """``y = W x + b`` with a ``W`` that consists of paths: ``y[destination_i] += weight_i x[source_i]``.

    Example:
        >>> import prernn, torch
        >>> layer = prernn.PathLinear(64, 32, paths=128)
        >>> layer(torch.zeros(5, 64)).shape
        torch.Size([5, 32])
        >>> layer.indices.shape  # input and output of each path
        torch.Size([2, 128])

    Time and memory are linear in the number of paths, with the C kernels in float32 on the CPU; otherwise the products
    of all paths are stored, ``(N, paths)``. Above the share `DENSE` of all connections a dense product is faster and
    used. Without gradients the layer uses compressed rows, up to three times as fast, or a dense matrix
    (`prernn.sparsity.kept_product`), which are made once and cached until the weights change.
    Weights start with constant magnitude and alternating signs, so that two builds are bit-identical.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        paths: number of paths.
        bias: whether to add a bias, which starts at 0.
        relu: whether to apply ReLU to the inputs (the talk's implicit ReLU).
        init: "alternating" (``+-sqrt(2 / fan_in)``, the signs of a neuron's weights alternate), "mixed" (the same, but
            alternating in an order independent of the sequence), "constant" (``sqrt(2 / fan_in)``), or the number that
            all weights start from, ``InitialWeight`` in the talk.
        drawn: sources and destinations ``(paths, 2)`` to use instead of drawing them.
        sampling: how to draw paths: ``sampler`` ("sobol" or "random"), ``seed``, ``scramble``, ``skip`` and ``order``,
            as in `prernn.ops.sobol.network_paths`.

    Attributes:
        weight: ``(paths,)``.
        indices: ``(2, paths)``: input and output of each path.

    Raises:
        ValueError: arguments out of range, or neurons in ``drawn`` that are outside the layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        paths: int,
        *,
        bias: bool = True,
        relu: bool = False,
        init: str | float = "alternating",
        drawn: Tensor | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **sampling: Unpack[Sampling],
    ):
        super().__init__(in_features, out_features, paths, drawn, sampling)
        self.relu = relu
        self.weight = nn.Parameter(torch.empty(self.paths, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None
        self._start(self.weight, init)
        self._kept: KeptProduct | None = None
        self.to(device)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.inputs

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.outputs

    def matrix(self) -> Tensor:
        """Dense ``W``, ``(out_features, in_features)``."""
        return ops.dense(self.weight, self.source, self.destination, self.inputs, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``. ValueError for inputs of another width."""
        if x.shape[-1] != self.inputs:
            raise ValueError(f"expected inputs (..., {self.inputs}), got {tuple(x.shape)}")
        if can_keep(x, self.weight, self.bias):
            return self._kept_product(x.reshape(-1, self.inputs)).view(*x.shape[:-1], self.outputs)
        if self.paths > DENSE * self.inputs * self.outputs:
            return F.linear(x.relu() if self.relu else x, self.matrix(), self.bias)
        rows = x.reshape(-1, self.inputs)
        y = ops.product(rows, self.weight, self.source, self.destination, self.outputs, self.bias, relu=self.relu)
        return y.view(*x.shape[:-1], self.outputs)

    def _kept_product(self, rows: Tensor) -> Tensor:
        kept = self._kept
        if kept is None or not kept.follows(self.source, self.destination):
            kept = KeptProduct.of(self.source, self.destination, self.inputs, self.outputs, self.weight)
        elif not kept.has(self.weight):
            kept = kept.of_weights(self.weight)
        self._kept = kept  # a single assignment, which is safe with threads
        return kept.product(rows.relu() if self.relu else rows, self.bias)

    def merged(self) -> "PathLinear":
        """The same layer with one path for each connection: weights of coincident paths are added."""
        drawn, weight = self.distinct()
        layer = PathLinear(
            *(self.inputs, self.outputs, len(drawn)), bias=self.bias is not None, relu=self.relu, drawn=drawn.cpu()
        )
        return with_weights(layer, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}, paths={self.paths}, bias={self.bias is not None}, relu={self.relu}"


def whole_sampling(sampling: Sampling) -> Sampling:
    """The sampling options with defaults filled in. TypeError for an unknown name."""
    if unknown := sorted(set(sampling) - set(PLAIN)):
        raise TypeError(f"expected arguments of paths among {', '.join(PLAIN)}, got {unknown[0]!r}")
    return {**PLAIN, **sampling}


def drawn_paths(widths: Sequence[int], paths: int, **sampling: Unpack[Sampling]) -> Tensor:
    """`prernn.ops.sobol.network_paths` with checked arguments."""
    widths, paths = [whole("widths", width) for width in widths], whole("paths", paths, 0, MOST_POINTS)
    given = whole_sampling(sampling)
    given |= {"seed": whole("seed", given["seed"], *SEEDS), "skip": whole("skip", given["skip"], 0)}
    return network_paths(widths, paths, **given)


def _fingerprint(drawn: Tensor) -> Tensor:
    """A hash of the paths: a sum that depends on their order, modulo a prime below 2**31."""
    with torch.device("cpu"):
        place = torch.arange(1, len(drawn) + 1)
        return ((place * 31 + drawn[:, 0] * 1009 + drawn[:, 1]) % 65521 * (place % 32749)).sum() % 2147483647


def _check(drawn: Tensor, inputs: int, outputs: int) -> None:
    """Checks indices once, because the kernels read memory at these positions."""
    if drawn.ndim != 2 or drawn.shape[1] != 2 or drawn.is_floating_point():
        raise ValueError(f"expected sources and destinations (paths, 2) of integers, got {tuple(drawn.shape)}")
    for name, column, size in zip(("sources", "destinations"), drawn.T, (inputs, outputs), strict=True):
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < size:
            raise ValueError(f"expected {name} from 0 to {size - 1}, got {int(column.min())} to {int(column.max())}")


def rank_among_equals(values: Tensor) -> Tensor:
    """For each value, how many equal values come before it, ``(n,)``."""
    order = values.argsort(stable=True)
    ordered = values[order]
    rank = torch.empty_like(values)
    rank[order] = torch.arange(len(values), device=values.device) - torch.searchsorted(ordered, ordered)
    return rank


def with_weights(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """The layer with these weights, converted to their type and device."""
    layer = layer.to(weight.device, weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer
