"""Which neuron or input feeds which neuron, as lists of entries, for products with compressed rows.

They are pure functions of the numbers of neurons and inputs and one parameter, so checkpoints need not store them.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from prernn.ops.sobol import path_sources


def random_entries(size: int, inputs: int, density: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders ``(E,)`` of ``max(1, round(density*D*I))`` random connections, by receiver, then sender.

    They are the positions with the smallest keys of an integer hash, so no release of torch can change them.
    """
    keys = _hash(torch.arange(size * inputs))
    positions = keys.argsort()[: random_count(size, inputs, density)].sort().values
    return positions // inputs, positions % inputs


def random_count(size: int, inputs: int, density: float) -> int:
    """Number of random connections, at least 1."""
    return max(1, round(density * size * inputs))


def path_entries(size: int, inputs: int, paths: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders ``(E,)`` of ``paths`` Sobol' connections to each neuron (`prernn.ops.sobol`)."""
    sources = path_sources(size, int(paths), inputs)  # (D, paths)
    return torch.arange(size).repeat_interleave(int(paths)), sources.flatten()


def band_entries(size: int, inputs: int, columns: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders ``(D*C,)`` of a band of C columns; entries outside the matrix are moved to its border."""
    middle = (2 * torch.arange(size) + 1) * inputs // (2 * size)
    sender = middle[:, None] + torch.arange(int(columns)) - int(columns) // 2  # (D, C)
    return torch.arange(size).repeat_interleave(int(columns)), sender.clamp(0, inputs - 1).flatten()


ENTRIES: dict[str, Callable[[int, int, float], tuple[Tensor, Tensor]]] = {
    "sparse": random_entries,
    "paths": path_entries,
}


@functools.lru_cache(maxsize=64)
def own_and_entries(kind: str, size: int, inputs: int, amount: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders of the connections of ``kind`` and those of every neuron to itself, without duplicates."""
    receiver, sender = ENTRIES[kind](size, inputs, amount)
    positions = torch.cat([receiver * inputs + sender, torch.arange(size) * (inputs + 1)]).unique()  # sorted
    return positions // inputs, positions % inputs


ENTRIES |= {f"{kind}+self": functools.partial(own_and_entries, kind) for kind in list(ENTRIES)}
ENTRIES["band"] = band_entries


def _hash(values: Tensor) -> Tensor:
    """Scrambles int64 positions (multiply and xor-shift rounds); it is bijective, so there are no ties."""
    for factor in (-7046029254386353131, -4658895280553007687):
        values = values * factor  # odd factor, wraps modulo 2**64
        values = values ^ ((values >> 31) & ((1 << 33) - 1))
    return values
