"""Paths sampled backwards from the outputs of a trained network, by importance of the weights.

From each output a path walks back, layer by layer (the talk "Structural Sparsity", sampling paths backwards from the
outputs by importance sampling the weights): at neuron j it takes input i with probability

    |w_ji| / ||w_j||_1,

and only weights on a path are kept. Paths that meet at a neuron are indistinguishable, so only their number at each
neuron is propagated; a layer distributes it over the weights.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prernn.conversion.graph.nodes import layer_at, name_of
from prernn.conversion.network import RecurrentNetwork
from prernn.layers.arguments import SEEDS, real, whole
from prernn.layers.computed_weights import copy_of, settle
from prernn.reports.tables import text_table
from prernn.sparsity.normalize import graph_of, readers_of
from prernn.sparsity.path_network import PathNetwork
from prernn.sparsity.paths import PathLinear

SAMPLERS = ("systematic", "random")
VALUES = ("keep", "counts")
MOST_PATHS = {"systematic": 2**40, "random": 2**22}
"""Most paths from a layer of outputs. Random paths are drawn one by one."""

Connected = nn.Linear | PathLinear
Chain = list[tuple[Connected, list[Connected]]]
"""The layers in order from the inputs, each with its readers."""
Counts = dict[Connected, Tensor]
"""How many paths pass through each weight, ``(outputs, inputs)`` for each layer."""


@torch.no_grad()
def sample_paths(
    network: nn.Module, share: float, *, sampler: str = "systematic", values: str = "keep", seed: int = 0
) -> nn.Module:
    """A copy of a trained network with only those fully connected weights that are on sampled paths; no retraining.

    Example:
        >>> import prernn, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        >>> small = prernn.sample_paths(net, 0.2)
        >>> weights = torch.cat([small[0].weight.flatten(), small[2].weight.flatten()])
        >>> 0.15 < float((weights != 0).double().mean()) <= 0.2
        True

    As many paths are drawn as the share allows, the same number from every output. They walk back through ``nn.Linear``
    layers that are connected through activations, pooling or dropout, according to the network's graph; at a layer
    whose outputs are read by anything else, new paths begin. All other weights, and the biases, stay the same. In a
    `PathNetwork`, unused paths are removed, so that it also gets faster.

    Args:
        network: any network that torch.fx can trace, a `RecurrentNetwork`, or a `PathNetwork`; it is not changed.
        share: the largest share of the fully connected weights to use, from 0 to 1. With 1 and ``values="keep"``, all
            are used.
        sampler: "systematic" (paths at a neuron are spread evenly over its weights, by one offset), or "random" (each
            chooses independently).
        values: "keep" (a weight on a path keeps its value), or "counts" (``sign(w_ji) c_ji ||w_j||_1 / m_j`` for
            ``c_ji`` of the ``m_j`` paths at neuron j, whose expectation is ``w_ji``).
        seed: seed of all samples.

    Raises:
        ValueError: a share outside 0 to 1, an unknown sampler or values, no fully connected layer, weights that are not
            finite.
        NotImplementedError: a network that can't be traced; a `PathNetwork` with residual layers.
    """
    share, seed = real("share", share, 0, 1), whole("seed", seed, *SEEDS)
    for name, value, known in (("sampler", sampler, SAMPLERS), ("values", values, VALUES)):
        if value not in known:
            raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")
    network = settle(copy_of(network))
    chain = _chain(network)
    rows = {layer: _rows(layer) for layer, _ in chain}
    if share == 1 and values == "keep":
        return network
    most = share * sum(layer.weight.numel() for layer, _ in chain)

    def drawn(paths: int) -> Counts:
        return _counts(chain, rows, paths, sampler, seed)

    counts = drawn(_most_paths(lambda paths: _used(drawn(paths)) <= most, MOST_PATHS[sampler]))
    for layer, _ in chain:
        _set(layer, rows[layer], counts[layer], values)
    if isinstance(network, PathNetwork):
        network.is_merged = True  # its layers no longer have the same paths
    return network


def used_weights(network: nn.Module) -> str:
    """A text table of the fully connected layers: numbers of weights, and of those that are not 0."""
    lines, total, kept = [], 0, 0
    for name, layer in network.named_modules():
        if isinstance(layer, Connected):
            all_of, used = layer.in_features * layer.out_features, int((layer.weight != 0).sum())
            total, kept = total + all_of, kept + used
            lines.append((name, f"{all_of:,}", f"{used:,}", f"{used / all_of:.2%}"))
    lines.append(("all", f"{total:,}", f"{kept:,}", f"{kept / max(1, total):.2%}"))
    return text_table([("layer", "weights", "used", "of all"), *lines])


def _chain(network: nn.Module) -> Chain:
    """The fully connected layers in order, each with the layers from which paths arrive."""
    if isinstance(network, PathNetwork):
        if network.step is not None:
            raise NotImplementedError("expected a PathNetwork without residual layers, got one with a step size")
        own: list[Connected] = [layer for layer in network.layers if isinstance(layer, PathLinear)]
        return [(layer, own[number + 1 : number + 2]) for number, layer in enumerate(own)]
    _, graph = graph_of(network)
    owner = network.cnn if isinstance(network, RecurrentNetwork) else network
    found = {
        node: readers for node, readers in readers_of(graph).items() if isinstance(layer_at(graph, node), nn.Linear)
    }
    if not found:
        raise ValueError(f"expected a network with fully connected layers, got {type(network).__name__} without")

    def layer(node: torch.fx.Node) -> Connected:
        own = owner.get_submodule(name_of(node))
        assert isinstance(own, nn.Linear)  # checked above
        return own

    return [(layer(node), [layer(reader) for reader in readers]) for node, readers in found.items()]


def _rows(layer: Connected) -> Tensor:
    """The weight matrix ``(outputs, inputs)`` in float64; for paths, weights of coincident ones are added."""
    weight = layer.weight.detach().double().cpu()
    if not bool(weight.isfinite().all()):
        raise ValueError("expected finite weights, got some that are infinite or not a number")
    if isinstance(layer, PathLinear):
        source, destination = layer.indices.cpu()
        return weight.new_zeros(layer.outputs, layer.inputs).index_put((destination, source), weight, accumulate=True)
    return weight


def _counts(chain: Chain, rows: Counts, paths: int, sampler: str, seed: int) -> Counts:
    generator = torch.Generator().manual_seed(seed)
    counts: Counts = {}
    for layer, readers in reversed(chain):
        weight = rows[layer]
        arriving = _spread(paths, len(weight))
        if readers:
            arriving = torch.stack([counts[reader].sum(0) for reader in readers]).sum(0)
        counts[layer] = _shared(weight, arriving, sampler, generator)
    return counts


def _spread(paths: int, neurons: int) -> Tensor:
    """``paths`` distributed over the neurons, with numbers that differ by at most 1, ``(neurons,)`` float64."""
    edges = torch.arange(neurons + 1, dtype=torch.float64) * (paths / neurons)
    return (edges + 0.5).floor().diff()


def _shared(weight: Tensor, arriving: Tensor, sampler: str, generator: torch.Generator) -> Tensor:
    """Each neuron's paths distributed over its inputs, ``(outputs, inputs)`` float64."""
    edges = weight.abs().cumsum(1)
    norm = edges[:, -1:]
    edges = torch.where(norm > 0, edges / norm.clamp_min(math.ulp(0.0)), 0.0)
    if sampler == "random":
        owner = torch.arange(len(weight)).repeat_interleave(arriving.long())
        at = torch.rand(len(owner), dtype=torch.float64, generator=generator) + owner
        # the rows end to end; a neuron without weights has an empty row, and its paths end here
        hits = torch.searchsorted((edges + torch.arange(len(weight)).unsqueeze(1)).flatten(), at, right=True)
        hits = hits.minimum((owner + 1) * weight.shape[1] - 1)  # in case a sum was rounded up
        inside = hits[norm[owner, 0] > 0]
        return torch.bincount(inside, minlength=weight.numel()).double().view(weight.shape)
    offset = torch.rand(len(weight), 1, dtype=torch.float64, generator=generator)
    below = (edges * arriving.unsqueeze(1) - offset).ceil()
    return below.clamp_min(0).diff(dim=1, prepend=torch.zeros(len(weight), 1, dtype=torch.float64))


def _used(counts: Counts) -> int:
    return sum(int((count > 0).sum()) for count in counts.values())


def _most_paths(fits: Callable[[int], bool], limit: int) -> int:
    """A number of paths that fits, while the next larger number tried does not; 0 if none fits."""
    low, high = 0, 1
    while high < limit and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low >> 7):  # to a percent
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _set(layer: Connected, rows: Tensor, counts: Tensor, values: str) -> None:
    kept = _kept(rows, counts, values)
    if not isinstance(layer, PathLinear):
        layer.weight.copy_(kept)
        return
    passed = counts.gt(0).nonzero().flip(1)  # source and destination
    layer.weight = nn.Parameter(kept[passed[:, 1], passed[:, 0]].to(layer.weight), layer.weight.requires_grad)
    layer.lead(passed)


def _kept(rows: Tensor, counts: Tensor, values: str) -> Tensor:
    if values == "keep":
        return torch.where(counts > 0, rows, 0.0)
    arrived = counts.sum(1, keepdim=True).clamp_min(1)
    return rows.sign() * counts * (rows.abs().sum(1, keepdim=True) / arrived)
