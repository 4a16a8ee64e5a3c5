"""Connections drawn from the Sobol' low-discrepancy sequence.

A path that point ``i`` of the sequence draws between two layers of ``D`` neurons joins neuron
``floor(D * x_i[0])`` to neuron ``floor(D * x_i[1])`` (the talk "Structural Sparsity", networks
represented by paths). For ``D`` a power of two, every aligned block of ``D`` points is a permutation in
each component, so ``n`` blocks give each neuron exactly ``n`` connections in and ``n`` out, and the first
``D`` blocks never repeat a pair.
"""

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine


def block_permutation(size: int, block: int = 0) -> Tensor:
    """Source neuron of each destination neuron along block ``block`` of Sobol' paths, ``(size,)`` int64.

    For a power of two this is the sequence itself. For any other width the first block is ranked, which is
    again a permutation, and block ``k`` shifts it cyclically by the ``k``-th of those ranks: each neuron
    still gets one connection in and one out a block, and blocks ``0 .. size-1`` never repeat a pair.

    Raises:
        ValueError: when ``size < 1`` or ``block`` lies outside ``0 .. size-1``.
    """
    if size < 1:
        raise ValueError(f"expected at least one neuron, got {size}")
    if not 0 <= block < size:
        raise ValueError(f"expected a block in 0..{size - 1} for {size} neurons, got {block}")
    power_of_two = size & (size - 1) == 0
    engine = SobolEngine(2)
    if power_of_two:
        engine.fast_forward(block * size)
    # float64 holds every point of the sequence exactly
    points = engine.draw(size, dtype=torch.float64)  # (D, 2)
    source, destination = points.argsort(dim=0, stable=True).argsort(dim=0, stable=True).unbind(1)
    if not power_of_two:
        destination = (destination + destination[block] - destination[0]) % size
    permutation = torch.empty(size, dtype=torch.int64)
    permutation[destination] = source
    return permutation


def path_sources(size: int, paths: int) -> Tensor:
    """Sources of ``paths`` Sobol' connections into each of ``size`` neurons, ``(size, paths)`` int64.

    Raises:
        ValueError: when ``paths`` lies outside ``1 .. size``.
    """
    if not 1 <= paths <= size:
        raise ValueError(f"expected 1 to {size} paths for {size} neurons, got {paths}")
    return torch.stack([block_permutation(size, block) for block in range(paths)], dim=1)
