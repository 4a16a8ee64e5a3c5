"""Integer counts of samples drawn from weights, and the scale to multiply them by."""

from collections.abc import Callable

import torch
from torch import Tensor

from prernn.ops.sobol import MOST_POINTS, unit_points
from prernn.sparsity.paths import rank_among_equals

SCALES = ("layer", "neuron")


ORDERS = ("sign", "natural")

MOST_SAMPLES = 2**53
"""Most samples of a layer: float64 can't count any further."""


def signed_counts(
    values: Tensor,
    neuron: Tensor,
    samples: float,
    *,
    sampler: str = "systematic",
    scale: str = "layer",
    order: str = "sign",
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Signed counts of the samples of one layer's weights, and their scale.

    Args:
        values: the weights, of any shape.
        neuron: in the same shape, the neuron that each weight feeds; -1 for entries that are no weight, such as those
            outside a band.
        samples: samples of the layer. It is rounded, to at least 1 unless it is 0; with a scale for each neuron, all
            neurons get the same number.
        sampler, scale, order: as in `quantize`.
        generator: source of random numbers.

    Returns:
        Counts int64 in the shape of ``values``, and the scale in float64: ``()``, or ``(neurons,)``. If all weights are
        0, or there are no samples, counts and scale are 0.
    """
    flat = values.detach().flatten().to("cpu", torch.float64)
    flat = torch.where(neuron.flatten().cpu() >= 0, flat, 0.0)  # entries that are no weight may hold anything
    if not bool(flat.isfinite().all()):
        raise ValueError("expected finite weights, got some that are infinite or not a number")
    places = _in_rows(flat, neuron.flatten().cpu(), scale, order)  # (R, k), -1 where a row is shorter
    edges = torch.where(places >= 0, flat.abs()[places], 0.0).cumsum(1)  # (R, k)
    norm = edges[:, -1:].clone()
    most = MOST_SAMPLES if sampler == "systematic" else MOST_POINTS  # the others store all samples
    if not samples <= most:
        raise ValueError(f"expected at most {most:,} samples of a layer, got {samples:.3g}")
    each = _rounded(samples / len(places), samples)
    # the samples of a row without weights are discarded
    edges = torch.where(norm > 0, edges / norm, 1.0)
    hits = SAMPLERS[sampler](edges, each, generator).diff(
        dim=1, prepend=torch.zeros(len(places), 1, dtype=torch.float64)
    )
    hits = torch.where((norm > 0) & (places >= 0), hits, 0.0).long()
    counts = torch.zeros(len(flat) + 1, dtype=torch.int64)  # the last one collects entries without a place
    counts[places.flatten()] = hits.flatten()
    signed = counts[:-1] * flat.sign().long()
    factor = norm.squeeze(1) / each if each else torch.zeros(len(places), dtype=torch.float64)
    return signed.view(values.shape), factor if scale == "neuron" else factor.squeeze(0)


def _rounded(samples: float, total: float) -> int:
    return max(1, round(samples)) if total > 0 else 0


def _in_rows(flat: Tensor, neuron: Tensor, scale: str, order: str) -> Tensor:
    """Indices of the weights in order along the unit interval, one row per scale, ``(R, k)``; short rows end in -1."""
    # every second neuron begins with its negative weights, so that equal signs are adjacent across neurons
    key = 2 * neuron + ((flat < 0) ^ (neuron % 2 == 1)) if order == "sign" else neuron
    along = key.argsort(stable=True)
    along = along[neuron[along] >= 0]
    if scale == "layer":
        return along.unsqueeze(0)
    owner = neuron[along]
    rows = int(neuron.max()) + 1
    rank = rank_among_equals(owner)
    table = torch.full((rows, int(rank.max()) + 1), -1)
    table[owner, rank] = along
    return table


def _systematic(edges: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """``x_j = (j + u) / N`` with one ``u`` per row: ``ceil(N e - u)`` of them are below ``e``."""
    offset = torch.rand(len(edges), 1, dtype=torch.float64, generator=generator)
    return (edges * samples - offset).ceil()


def _jittered(edges: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """``x_j = (j + u_j) / N``: below ``e`` are the samples of all earlier strata, and perhaps that of its own."""
    within = torch.rand(len(edges), samples + 1, dtype=torch.float64, generator=generator)
    stratum = (edges * samples).floor()
    own = within.gather(1, stratum.long())
    return stratum + (own < edges * samples - stratum)


def _sobol(edges: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """The first component of the sequence, shifted cyclically in the unit interval by an offset for each row."""
    points = unit_points(samples, 1).T  # (1, N)
    offset = torch.rand(len(edges), 1, dtype=torch.float64, generator=generator)
    return _below(edges, (points + offset) % 1)


def _random(edges: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    return _below(edges, torch.rand(len(edges), samples, dtype=torch.float64, generator=generator))


def _below(edges: Tensor, points: Tensor) -> Tensor:
    return torch.searchsorted(points.sort(dim=1).values, edges).double()


SAMPLERS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "systematic": _systematic,
    "jittered": _jittered,
    "sobol": _sobol,
    "random": _random,
}
"""How many of ``N`` samples in each row's unit interval are below each of its edges ``(R, k)``."""


def smallest_integers(counts: Tensor) -> torch.dtype:
    """The smallest signed type that holds all of ``counts``."""
    most = int(counts.abs().max()) if counts.numel() else 0
    return next(
        dtype for dtype in (torch.int8, torch.int16, torch.int32, torch.int64) if most <= torch.iinfo(dtype).max
    )


def bits_of(counts: Tensor) -> int:
    """Number of bits to represent every integer from the smallest to the largest count."""
    low, high = (int(edge) for edge in counts.aminmax())
    return (high - low).bit_length()
