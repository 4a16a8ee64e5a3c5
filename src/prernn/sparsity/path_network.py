"""Networks whose layers are all made of the same paths, from the inputs to the outputs."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.types import Device

from prernn.layers.arguments import whole
from prernn.reports.tables import text_table
from prernn.sparsity.paths import PathLinear, drawn_paths


class PathNetwork(nn.Module):
    """A feedforward network represented by paths through all of its layers, with ReLU between them.

    Example:
        >>> import prernn, torch
        >>> net = prernn.PathNetwork([784, 300, 10], paths=4096)  # 4096 of 238,200 weights in each layer at most
        >>> net(torch.zeros(2, 784)).shape
        torch.Size([2, 10])

    ``paths`` weights between any two layers, in place of the product of their widths. The outputs are linear, so that
    it serves as classifier (logits) and, with a narrow layer in the middle, as autoencoder. The talk's algorithm
    applies its ReLU to the inputs too; here they pass as they are, which is the same for pictures.

    A network with more paths contains one with fewer (`grown`).

    Args:
        widths: neurons of each layer, inputs and outputs among them.
        paths: number of paths.
        sampler: "sobol" or "random".
        seed, scramble, skip: as in `prernn.ops.sobol.network_paths`.
        bias: of all layers, 0 at the start.

    Attributes:
        layers: `PathLinear`, one between any two layers of neurons.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        widths: Sequence[int],
        paths: int,
        *,
        sampler: str = "sobol",
        seed: int = 0,
        scramble: bool = False,
        skip: int = 0,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.sampling: dict[str, Any] | None = {"sampler": sampler, "seed": seed, "scramble": scramble, "skip": skip}
        self.widths, self.paths, self.bias = list(widths), paths, bias
        neurons = drawn_paths(widths, paths, **self.sampling)  # (paths, L)
        self.layers = nn.ModuleList(
            PathLinear(
                *(inputs, outputs, paths),
                bias=bias,
                relu=number > 0,
                drawn=neurons[:, number : number + 2],
                device=device,
                dtype=dtype,
            )
            for number, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        )

    @property
    def _path_layers(self) -> list[PathLinear]:
        return [layer for layer in self.layers if isinstance(layer, PathLinear)]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., widths[0])`` to ``(..., widths[-1])``."""
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def grown(self, paths: int) -> "PathNetwork":
        """A network of more paths that contains this one, weights kept; the new weights are 0.

        So it computes the same until it is trained.

        Raises:
            ValueError: fewer paths than there are.
            NotImplementedError: a network whose coincident paths were merged.
        """
        if self.sampling is None:
            raise NotImplementedError("a network of merged paths has lost its paths: expected one as it was built")
        paths = whole("paths", paths, self.paths)
        first = self._path_layers[0].weight
        larger = PathNetwork(
            self.widths, paths, bias=self.bias, device=first.device, dtype=first.dtype, **self.sampling
        )
        for layer, own in zip(larger._path_layers, self._path_layers, strict=True):
            layer.weight.zero_()
            layer.weight[: self.paths] = own.weight
            if own.bias is not None and layer.bias is not None:
                layer.bias.copy_(own.bias)
        return larger.train(self.training)

    def merged(self) -> "PathNetwork":
        """The same network with one weight for each connection."""
        network = copy.deepcopy(self)
        network.layers, network.sampling = nn.ModuleList(layer.merged() for layer in self._path_layers), None
        return network

    def report(self) -> str:
        """A text table of the layers: paths, coincident ones, distinct connections and their share of all."""
        rows = []
        for layer in self._path_layers:
            full, distinct = layer.inputs * layer.outputs, layer.paths - layer.coincident
            texts = (f"{layer.paths:,}", f"{layer.coincident:,}", f"{distinct:,}", f"{distinct / full:.2%}")
            rows.append((f"{layer.inputs} to {layer.outputs}", *texts))
        return text_table([("layer", "paths", "coincident", "connections", "of all"), *rows])
