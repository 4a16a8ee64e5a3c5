"""Single layers, dense against sampled: which are faster, at which share of their activations.

Inputs come after ReLU, so that half of them are zeros, and differ from call to call: the weights needed are not those
left in the caches by the previous call. The time of a sampled layer includes its sampling. Dense convolutions use the
better of torch's two memory layouts.
"""

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prernn.benchmarks.measuring.timing import Stopwatch
from prernn.conversion.lighter import skipping
from prernn.sparsity.online import online_sparsity

SIZES, ROWS = (512, 1024, 2048, 4096), (1, 4, 16)
MAPS = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2))
"""Channels and side of VGG16's maps for pictures of 32 pixels."""
INPUTS = 16
"""Number of inputs that take turns."""


def lines(shares: list[float], stopwatch: Stopwatch) -> list[dict]:
    """Milliseconds of each layer: dense, sampled at each share, and with exact zeros left out."""
    found = []
    for size, rows in itertools.product(SIZES, ROWS):
        layer = nn.Linear(size, size)
        found.append(_line(f"fully connected, {size}, rows: {rows}", layer, (rows, size), shares, stopwatch))
    for side, (channels, places) in itertools.product((3, 1), MAPS):
        conv, shape = nn.Conv2d(channels, channels, side, padding=side // 2), (1, channels, places, places)
        found.append(_line(f"{side}x{side}, {channels} channels, {places} x {places}", conv, shape, shares, stopwatch))
    return found


def _line(name: str, layer: nn.Module, shape: tuple[int, ...], shares: list[float], stopwatch: Stopwatch) -> dict:
    inputs = [torch.randn(shape).relu() for _ in range(INPUTS)]
    calls = {"dense": _turns(layer, inputs)}
    if len(shape) == 4:
        last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        calls["channels last"] = _turns(_channels_last(layer), last)
    else:
        calls["zeros left out"] = _turns(_skipping(layer), inputs)
    for share in shares:
        if share < 1:
            calls[f"{share:g}"] = _turns(sampled_always(layer, share), inputs)
    with torch.inference_mode():
        times = {key: value.median for key, value in stopwatch.interleaved(calls).items()}
    dense = min(times["dense"], times.get("channels last", times["dense"]))
    line = {"layer": name, "dense, ms": f"{1e3 * dense:.3g}"}
    skipped = times.get("zeros left out")
    line["zeros left out"] = f"{1e3 * skipped:.3g} ({dense / skipped:.2g})" if skipped else ""
    sampled = {key: value for key, value in times.items() if key not in ("dense", "channels last", "zeros left out")}
    return line | {key: f"{1e3 * value:.3g} ({dense / value:.2g})" for key, value in sampled.items()}


def sampled_always(layer: nn.Module, share: float) -> nn.Module:
    """A sampled layer that uses the kernel at every share, so that the table shows where it is faster."""
    limits, skipping.SHARES = skipping.SHARES, {0: 1.0}
    try:
        made = online_sparsity(layer, share, share, start=0)
    finally:
        skipping.SHARES = limits
    if isinstance(made, skipping.SkippingConv2d):
        made.share = 0.0
    return made


def _skipping(layer: nn.Module) -> nn.Module:
    made = copy.deepcopy(layer)
    skipping.skip(made)
    return made


def _channels_last(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).to(memory_format=torch.channels_last)


def _turns(layer: nn.Module, inputs: list[Tensor]) -> Callable[[], Tensor]:
    turns = itertools.cycle(inputs)
    return lambda: layer(next(turns))
