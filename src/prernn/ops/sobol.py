"""Connections and paths drawn from the Sobol' low-discrepancy sequence.

Component ``l`` of point ``i``, times the number of neurons, is the neuron of layer ``l`` that path ``i`` passes through
(the talk "Structural Sparsity", networks represented by paths). Every component is a (0,1)-sequence in base 2: an
aligned block of ``2**m`` points, starting at point ``k 2**m``, has one point in each of the ``2**m`` equal parts of the
unit interval. So for layers of ``2**m`` neurons a block is a permutation: every neuron gets the same number of
connections and none is left out. For other widths ``n`` an aligned block of the plain sequence is a regular grid, so
each neuron gets ``floor(2**m / n)`` or ``ceil(2**m / n)`` connections from a block; again none is left out once
``2**m >= n``. If the number of paths is not a power of two, the same holds for each of the aligned blocks given by its
binary digits: a neuron's count is off by less than the number of these blocks. With scrambling the first statement
still holds; in the second a neuron's count may be off by one more.

The direction numbers are torch's. By default the points are in the talk's order: point ``i`` is the sum, in the field
of two elements, of the direction numbers of the binary digits of ``i`` (``order="natural"``). torch has the same
sequence in Gray code order: its point ``i`` is our point ``i ^ (i >> 1)`` (``order="gray"``). An aligned block of a
power of two has the same points in either order; any other number of paths gives a different network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

SAMPLERS = ("sobol", "random")
ORDERS = ("natural", "gray")
MOST_POINTS = 2**30
"""Length of torch's sequence."""


def network_paths(
    widths: Sequence[int],
    paths: int,
    *,
    sampler: str = "sobol",
    seed: int = 0,
    scramble: bool = False,
    skip: int = 0,
    order: str = "natural",
) -> Tensor:
    """The neuron in each layer that each path passes through, ``(paths, len(widths))`` int64.

    The first ``n`` paths do not depend on the number of paths, so a network with more paths contains the smaller one.

    Args:
        widths: neurons of each layer.
        paths: number of paths.
        sampler: "sobol", or "random" for independent uniform neurons (``drand48`` in the talk).
        seed: for "random" and for scrambling; the plain sequence is not random.
        scramble: scramble the sequence (linear matrix scrambling and a digital shift).
        skip: number of the sequence's dimensions to skip before the first layer's.
        order: of the sequence's points, "natural" as in the talk or "gray" as in torch.

    Raises:
        ValueError: a width below 1, fewer than two layers, a number of paths below 0 or above `MOST_POINTS`, an unknown
            sampler or order, dimensions that the sequence does not have.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"expected at least two layers of at least one neuron, got widths {list(widths)}")
    points = unit_points(
        paths, len(widths), sampler=sampler, seed=seed, scramble=scramble, skip=skip, order=order
    )  # (P, L)
    neurons = (points * torch.tensor(widths, dtype=torch.float64, device="cpu")).long()
    # a product that is rounded up would be past the last neuron
    return neurons.minimum(torch.tensor(widths, device="cpu") - 1)


def unit_points(
    count: int,
    dimensions: int,
    *,
    sampler: str = "sobol",
    seed: int = 0,
    scramble: bool = False,
    skip: int = 0,
    first: int = 0,
    order: str = "natural",
) -> Tensor:
    """Points ``first .. first+count-1`` of a sequence in the unit cube, ``(count, dimensions)`` float64.

    Arguments and errors are as in `network_paths`.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"expected sampler to be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if order not in ORDERS:
        raise ValueError(f"expected order to be one of {', '.join(ORDERS)}, got {order!r}")
    if not isinstance(count, int) or count < 0 or first < 0 or first + count > MOST_POINTS:
        raise ValueError(f"expected 0 to {MOST_POINTS:,} paths, got {first + count}")
    if skip < 0 or skip + dimensions > SobolEngine.MAXDIM:
        raise ValueError(f"expected skip from 0 to {SobolEngine.MAXDIM - dimensions}, got {skip}")
    if not count:
        return torch.empty(0, dimensions, dtype=torch.float64, device="cpu")
    with torch.device("cpu"):  # whatever device a module is built on
        if sampler == "random":
            generator = torch.Generator().manual_seed(seed)
            return torch.rand(first + count, dimensions, dtype=torch.float64, generator=generator)[first:]
        engine = SobolEngine(skip + dimensions, scramble=scramble, seed=seed if scramble else None)
        index = torch.arange(first, first + count)
        return _sobol(engine, index if order == "natural" else index ^ (index >> 1), skip)


def _sobol(engine: SobolEngine, index: Tensor, skip: int) -> Tensor:
    """Points of the sequence by their index (``x ^= C[k]`` for each digit k of i, in the talk), ``(N, L)`` float64."""
    state: Tensor = engine.shift[skip:].expand(len(index), -1).clone()  # (N, L), the scrambled sequence's digital shift
    for digit in range(int(index.max()).bit_length()):
        state ^= (index >> digit & 1).unsqueeze(1) * engine.sobolstate[skip:, digit]
    return state.double() / float(2**engine.MAXBIT)  # float64 holds every point exactly


def block_permutation(size: int, block: int = 0) -> Tensor:
    """Source neuron of each destination neuron along block ``block`` of Sobol' paths, ``(size,)`` int64.

    For a power of two this is the sequence itself. For any other width the first block is ranked, which also gives a
    permutation, and block ``k`` shifts it cyclically by the ``k``-th of those ranks: each neuron still gets one
    incoming and one outgoing connection per block, and blocks ``0 .. size-1`` never repeat a pair.

    Raises:
        ValueError: ``size < 1``, or ``block`` is outside ``0 .. size-1``.
    """
    if size < 1:
        raise ValueError(f"expected at least one neuron, got {size}")
    if not 0 <= block < size:
        raise ValueError(f"expected a block in 0..{size - 1} for {size} neurons, got {block}")
    power_of_two = size & (size - 1) == 0
    # if the width is not a power of two, another order has other points, and trained networks depend on these
    points = unit_points(size, 2, first=block * size if power_of_two else 0, order="gray")  # (D, 2)
    source, destination = points.argsort(dim=0, stable=True).argsort(dim=0, stable=True).unbind(1)
    if not power_of_two:
        destination = (destination + destination[block] - destination[0]) % size
    permutation = torch.empty(size, dtype=torch.int64)
    permutation[destination] = source
    return permutation


def path_sources(size: int, paths: int, inputs: int | None = None) -> Tensor:
    """Sources of ``paths`` Sobol' connections into each of ``size`` neurons, ``(size, paths)`` int64.

    The sources are the neurons themselves, or equally many inputs; for a different number see `input_sources`.

    Raises:
        ValueError: there are fewer sources than ``paths``, or ``paths`` is below 1.
    """
    if not 1 <= paths <= (inputs or size):
        raise ValueError(f"expected 1 to {inputs or size} paths for {size} neurons, got {paths}")
    if inputs not in (None, size):
        return input_sources(size, paths, inputs)
    return torch.stack([block_permutation(size, block) for block in range(paths)], dim=1)


def input_sources(size: int, paths: int, inputs: int) -> Tensor:
    """Inputs that each neuron receives, ``(size, paths)`` int64, if there are more or fewer inputs than neurons.

    For each block of ``size`` consecutive points of the sequence, the ranks of the second component are the neurons,
    and the first component, times ``inputs``, is the input that each receives. A neuron that already has this input
    takes the next one that it does not have.
    """
    points = unit_points(size * paths, 2).unflatten(0, (paths, size))
    heard = torch.empty(size, 0, dtype=torch.int64)
    for block in points:
        source, destination = block.unbind(1)
        column = (source[destination.argsort(stable=True)] * inputs).long().unsqueeze(1)  # (size, 1)
        while bool((again := (heard == column).any(1, keepdim=True)).any()):
            column = torch.where(again, (column + 1) % inputs, column)
        heard = torch.cat([heard, column], dim=1)
    return heard
