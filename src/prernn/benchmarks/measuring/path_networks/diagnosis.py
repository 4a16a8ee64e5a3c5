"""Why paths learn as they do: what they connect before any training, and what happens to the code of an autoencoder.

A path network is as good as what meets in it. Masks say which connections exist; their product, through all layers,
says on which inputs an output can depend at all. Every component of a Sobol' sequence, however it is scrambled, puts
one of the first N points into each N-th of the unit interval: while there are no more paths than neurons, hardly two of
them share one. The autoencoder's code is analyzed over test digits: how much outputs depend on the picture, how many
units of the code ever respond, and how many dimensions it has, the exponential of the entropy of its principal
components' shares of variance.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import RenderableType
from torch import Tensor, nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.path_networks import digits
from prernn.benchmarks.measuring.path_networks.jobs import DENSE, Job, options_of
from prernn.ops.sobol import unit_points
from prernn.reports.files import write_table
from prernn.sparsity.path_network import network_neurons
from prernn.sparsity.paths import PathLinear

BITS = 30
"""Number of binary digits of a point's components."""
PICTURES = 2000
"""Number of digits over which a code is analyzed."""


def shifted(points: Tensor, seed: int) -> Tensor:
    """Points with a digital shift in each dimension: the binary digits drawn for it are added modulo 2."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(2**BITS, (points.shape[1],), generator=generator)
    return ((points * 2**BITS).long() ^ shift).double() / 2**BITS


def owen(points: Tensor, seed: int) -> Tensor:
    """Owen's nested scrambling: whether a binary digit is flipped is drawn for each value of the digits before it."""
    whole = (points * 2**BITS).long()
    dimension = torch.arange(points.shape[1])
    out = torch.zeros_like(whole)
    for digit in range(BITS):
        before = whole >> (BITS - digit)
        mixed = (before * 0x9E3779B1 + (dimension * 64 + digit) * 0x85EBCA6B + seed * 0xC2B2AE35 + 1) & 0x7FFFFFFF
        for _ in range(3):
            mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0x7FFFFFFF
        flip = mixed >> 17 & 1
        out |= ((whole >> (BITS - 1 - digit) & 1) ^ flip) << (BITS - 1 - digit)
    return out.double() / 2**BITS


SCRAMBLED: dict[str, Callable[[Tensor, int], Tensor]] = {"digital shift": shifted, "Owen's scrambling": owen}
OTHERS = ("sobol+skip=5", "sobol+skip=20", "sobol+least=4", "sobol+least=5", "random", "random+least=4")
DRAWN = ("sobol", "sobol+scramble", *SCRAMBLED, *OTHERS)


def drawn(name: str, widths: Sequence[int], paths: int, seed: int) -> Tensor:
    """Neurons of each path, ``(paths, L)``."""
    if name in SCRAMBLED:
        points = SCRAMBLED[name](unit_points(paths, len(widths)), seed)
        return (points * torch.tensor(widths)).long()
    sampler, options = options_of(name)
    return network_neurons(widths, paths, options.pop("least", 0), sampler=sampler, seed=seed, **options)


def joined(neurons: Tensor, widths: Sequence[int]) -> dict[str, float]:
    """What these paths connect: means over neurons that have a path at all."""
    masks = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        mask = torch.zeros(outputs, inputs, dtype=torch.float64)
        mask[neurons[:, layer + 1], neurons[:, layer]] = 1
        masks.append(mask)
    through = masks[0]
    for mask in masks[1:]:
        through = (mask @ through > 0).double()
    reached = through.sum(0)
    middle = max(masks[1:-1], key=torch.Tensor.numel, default=masks[0])
    weights = middle * torch.randn(middle.shape, generator=torch.Generator().manual_seed(0), dtype=middle.dtype)
    each = torch.bincount(neurons[:, 1])
    alone = (each == 1).sum() / (each > 0).sum()
    pairs = torch.corrcoef(neurons.double().T).nan_to_num().abs()
    return {
        "outputs that an input reaches": float(reached[reached > 0].mean()),
        "hidden neurons with one path, %": 100 * float(alone),
        "rank of the middle layer": float(torch.linalg.matrix_rank(weights)),
        "coincident, %": 100 * (1 - sum(float(mask.sum()) for mask in masks) / (len(masks) * len(neurons))),
        "correlation of neighbors": float(pairs.diagonal(1).mean()),
    }


def tables(options: argparse.Namespace, widths: Sequence[int], out: Path) -> Iterator[RenderableType]:
    """What paths connect, over their number; and the autoencoder's code. Writes ``diagnosis.csv``."""
    lines = []
    for paths in options.paths:
        for name in DRAWN:
            found = [joined(drawn(name, widths, paths, seed), widths) for seed in options.seeds]
            means = {key: f"{statistics.fmean(one[key] for one in found):.3g}" for key in found[0]}
            lines.append({"paths": f"{paths:,}", "drawn": name, **means})
    write_table(out / "diagnosis.csv", lines)
    yield report.table(f"what paths join, {'/'.join(map(str, widths))}", lines, ("drawn",))
    if options.code_paths:
        codes = [_code(name, options) for name in options.samplers]
        yield report.table(f"the code of the autoencoder {'/'.join(map(str, options.code))}", codes, ("network",))


def _code(name: str, options: argparse.Namespace) -> dict:
    """The narrowest layer of an autoencoder, before and after training."""
    paths = 0 if name.startswith(DENSE) else options.code_paths
    shared = {"data": options.data, "epochs": options.epochs, "rate": options.rate, "pictures": options.pictures}
    job = Job(widths=tuple(options.code), sampler=name, paths=paths, seed=0, autoencoder=True, **shared)
    torch.manual_seed(job.seed)
    test = digits.read(job.data)[2][:PICTURES]
    before, spread, *_ = looked_at(digits.build(job), test, job)
    net = digits.trained(job)
    dimensions, _, alive, error = looked_at(net, test, job)
    texts = {"new: outputs' spread over pictures": f"{spread:.3f}", "new: dimensions": f"{before:.1f}"}
    trained = {"trained: dimensions": f"{dimensions:.1f}", "units that answer": f"{alive}", "error": f"{error:.4f}"}
    return {"network": name, **texts, **trained}


@torch.no_grad()
def looked_at(net: nn.Module, pictures: Tensor, job: Job) -> tuple[float, float, int, float]:
    """Dimensions of the code, spread of outputs over pictures, code units that ever respond, and the error."""
    layers = [layer for layer in net.modules() if isinstance(layer, PathLinear | nn.Linear)]
    code = pictures
    for layer in layers[: min(range(1, len(job.widths) - 1), key=job.widths.__getitem__)]:
        relu = not isinstance(layer, PathLinear) and layer is not layers[0]
        code = layer(code.relu() if relu else code)
    code, made = code.relu(), net(pictures)
    return dimensions(code), float(made.std(0).mean()), int((code.amax(0) > 0).sum()), float(F.mse_loss(made, pictures))


def dimensions(code: Tensor) -> float:
    """In how many directions the rows of ``(N, D)`` vary, 0 if they are all equal."""
    variances = torch.linalg.svdvals((code - code.mean(0)).double()).square()
    if float(variances.sum()) < 1e-12 * max(1.0, float(code.double().square().sum())):
        return 0.0
    shares = variances / variances.sum()
    return float(torch.special.entr(shares).sum().exp())
