"""Which neuron feeds which in the structures without a regular pattern, as lists of entries.

Pure functions of the number of neurons and one parameter, so that a checkpoint need not carry them.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from prernn.ops.sobol import path_sources


def random_entries(size: int, density: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders ``(E,)`` of ``max(1, round(density*D*D))`` random connections, by receiver, then sender.

    They are the smallest keys of an integer hash of the positions, so no release of torch can change them.
    """
    positions = _hash(torch.arange(size * size)).argsort()[: random_count(size, density)].sort().values
    return positions // size, positions % size


def random_count(size: int, density: float) -> int:
    """Number of random connections."""
    return max(1, round(density * size * size))


def path_entries(size: int, paths: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders ``(E,)`` of ``paths`` Sobol' connections to each neuron (`prernn.ops.sobol`)."""
    sources = path_sources(size, int(paths))  # (D, paths)
    return torch.arange(size).repeat_interleave(int(paths)), sources.flatten()


ENTRIES: dict[str, Callable[[int, float], tuple[Tensor, Tensor]]] = {"sparse": random_entries, "paths": path_entries}


@functools.lru_cache(maxsize=64)
def own_and_entries(kind: str, size: int, amount: float) -> tuple[Tensor, Tensor]:
    """Receivers and senders of the connections that ``kind`` names and of every neuron to itself, each once."""
    receiver, sender = ENTRIES[kind](size, amount)
    positions = torch.cat([receiver * size + sender, torch.arange(size) * (size + 1)]).unique()  # sorted
    return positions // size, positions % size


ENTRIES |= {f"{kind}+self": functools.partial(own_and_entries, kind) for kind in list(ENTRIES)}


def _hash(values: Tensor) -> Tensor:
    """Scrambles int64 positions (multiply and xor-shift rounds); bijective, hence without ties."""
    for factor in (-7046029254386353131, -4658895280553007687):
        values = values * factor  # odd factor, wraps modulo 2**64
        values = values ^ ((values >> 31) & ((1 << 33) - 1))
    return values
