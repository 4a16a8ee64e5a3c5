"""Connections and paths drawn from the Sobol' low-discrepancy sequence.

Component ``l`` of point ``i``, times the number of neurons, is the neuron of layer ``l`` that path ``i`` passes (the
talk "Structural Sparsity", networks represented by paths). Every component is a (0,1)-sequence in base 2: an aligned
block of ``2**m`` points, those from ``k 2**m`` on, has one point in each of the ``2**m`` equal parts of the unit
interval. So for layers of ``2**m`` neurons a block is a permutation: every neuron gets the same number of connections
and none is left out. For other widths ``n`` an aligned block of the plain sequence is a regular grid, so that the
neurons get ``floor(2**m / n)`` or ``ceil(2**m / n)`` connections of a block each; again none is left out once
``2**m >= n``. Of a number of paths that is no power of two, the same holds for each of the aligned blocks it is made
of, the binary digits of the number: a neuron's count is off by less than the number of these blocks. Scrambling keeps
the first statement, and in the second a neuron's count may be off by one more.

The direction numbers are torch's. The points come in the talk's order: point ``i`` is the sum, in the field of two
elements, of the direction numbers of the binary digits of ``i`` (``order="natural"``). torch has the same sequence in
the order of a Gray code, its point ``i`` is ours ``i ^ (i >> 1)`` (``order="gray"``): an aligned block of a power of
two has the same points in either order; any other number of paths is another network.
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
    """The neuron of each layer that each path passes, ``(paths, len(widths))`` int64.

    The first ``n`` paths are the same whatever the number of paths, so that a network with more of them contains the
    smaller one.

    Args:
        widths: neurons of each layer.
        paths: number of paths.
        sampler: "sobol", or "random" for independent uniform neurons (``drand48`` in the talk).
        seed: of "random" and of scrambling; the plain sequence takes no chance.
        scramble: scramble the sequence (linear matrix scrambling and a digital shift).
        skip: dimensions of the sequence that are left out before the first layer's.
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
    # a product that is rounded up would lie behind the layer
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

    Arguments and errors as `network_paths` has them.
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
    """Points of the sequence by their number (``x ^= C[k]`` for each digit k of i, in the talk), ``(N, L)`` float64."""
    state: Tensor = engine.shift[skip:].expand(len(index), -1).clone()  # (N, L), the scrambled sequence's digital shift
    for digit in range(int(index.max()).bit_length()):
        state ^= (index >> digit & 1).unsqueeze(1) * engine.sobolstate[skip:, digit]
    return state.double() / float(2**engine.MAXBIT)  # float64 holds every point exactly


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
    # of a width that is no power of two another order has other points, and recurrences are trained with these
    points = unit_points(size, 2, first=block * size if power_of_two else 0, order="gray")  # (D, 2)
    source, destination = points.argsort(dim=0, stable=True).argsort(dim=0, stable=True).unbind(1)
    if not power_of_two:
        destination = (destination + destination[block] - destination[0]) % size
    permutation = torch.empty(size, dtype=torch.int64)
    permutation[destination] = source
    return permutation


def path_sources(size: int, paths: int, inputs: int | None = None) -> Tensor:
    """Sources of ``paths`` Sobol' connections into each of ``size`` neurons, ``(size, paths)`` int64.

    The sources are the neurons themselves, or as many ``inputs``; of another number see `input_sources`.

    Raises:
        ValueError: when there are fewer sources than ``paths``, or less than one.
    """
    if not 1 <= paths <= (inputs or size):
        raise ValueError(f"expected 1 to {inputs or size} paths for {size} neurons, got {paths}")
    if inputs not in (None, size):
        return input_sources(size, paths, inputs)
    return torch.stack([block_permutation(size, block) for block in range(paths)], dim=1)


def input_sources(size: int, paths: int, inputs: int) -> Tensor:
    """Inputs that each neuron hears, ``(size, paths)`` int64, where there are more or fewer of them than neurons.

    Of each ``size`` points of the sequence that follow each other, the second component, ranked, names a neuron each
    and the first, times ``inputs``, what it hears. A neuron that hears an input already takes the next that it lacks.
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
