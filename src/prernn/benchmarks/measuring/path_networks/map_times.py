"""Convolutions of 3x3 whose paths choose pairs of channels: along the paths, and dense, by their share of all pairs.

"dense" is torch's convolution with existing kernels, in the better of its two layouts; the gradients that training adds
are those of inputs and weights. There are as many paths as a share says; coincident ones are computed separately.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.benchmarks.measuring.timing import Stopwatch
from prernn.ops import paths
from prernn.sparsity.path_convolution import PathConv2d

MAPS = ((64, 32), (64, 16), (128, 16), (256, 8), (512, 4), (512, 2))
"""Channels, in and out, and the side of their maps."""
MODES = {"forward": 1, "forward, 16 pictures": 16, "training, 64 pictures": 64}
DENSE = "dense"


def lines(shares: Sequence[float], stopwatch: Stopwatch) -> Iterator[dict]:
    """Milliseconds of each layer and mode: dense, and along the paths at each share, with the speedup."""
    for channels, side in MAPS:
        for mode, pictures in MODES.items():
            x = torch.randn(pictures, channels, side, side)
            layers = {share: layer(channels, share) for share in shares}
            calls = {f"dense, {form}": call(dense, kernels, x, mode) for form, kernels in forms(channels)}
            for share, each in layers.items():
                calls[f"{share:g}"] = call(along(each), each.weight, x, mode)
            times = {name: 1e3 * taken.median for name, taken in stopwatch.interleaved(calls).items()}
            base = min(value for name, value in times.items() if name.startswith(DENSE))
            line = {"layer": f"{channels} channels, {side} x {side}", "mode": mode, DENSE: f"{base:.3g}"}
            for share, each in layers.items():
                taken, taken_by = times[f"{share:g}"], "" if each.pays(side, side, pictures=pictures) else " -"
                line[f"{share:g}"] = f"{taken:.3g} ({base / taken:.1f}){taken_by}"
            yield line


def layer(channels: int, share: float) -> PathConv2d:
    """A layer with this share of all pairs of channels."""
    return PathConv2d(channels, channels, 3, max(1, round(share * channels**2)), padding=1, bias=False)


def forms(channels: int) -> Iterator[tuple[str, Tensor]]:
    """Dense kernels in torch's layouts."""
    kernels = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)
    yield "channels first", kernels
    yield "channels last", kernels.contiguous(memory_format=torch.channels_last)


def dense(x: Tensor, kernels: Tensor) -> Tensor:
    """torch's convolution."""
    return F.conv2d(x, kernels, padding=1)


def along(own: PathConv2d) -> Callable[[Tensor, Tensor], Tensor]:
    """The product along the paths of a layer, whether it pays or not."""
    place = {"stride": own.stride, "padding": own.padding, "dilation": own.dilation}
    return lambda x, weight: paths.convolution(x, weight, own.source, own.destination, own.outputs, None, **place)


def call(product: Callable[[Tensor, Tensor], Tensor], weight: Tensor, x: Tensor, mode: str) -> Callable[[], None]:
    """Forward, or forward and the gradients of input and weight."""
    if product is dense and weight.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    if not mode.startswith("training"):

        def forward() -> None:
            with torch.inference_mode():
                product(x, weight)

        return forward
    x, weight = x.clone().requires_grad_(), nn.Parameter(weight.detach().clone())
    d_y = torch.randn_like(product(x, weight).detach())

    def training() -> None:
        torch.autograd.grad(product(x, weight), (x, weight), d_y)

    return training
