"""Networks in which the same paths lead through all layers, from the inputs to the outputs."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.types import Device

from prernn.layers.arguments import real, whole
from prernn.ops.sobol import ORDERS
from prernn.reports.tables import text_table
from prernn.sparsity.paths import PathLinear, Sampling, drawn_paths, whole_sampling


class PathNetwork(nn.Module):
    """A feedforward network represented by paths through all of its layers, with ReLU between them.

    Example:
        >>> import prernn, torch
        >>> net = prernn.PathNetwork([784, 300, 10], paths=4096)  # at most 2 x 4096 of 238,200 weights
        >>> net(torch.zeros(2, 784)).shape
        torch.Size([2, 10])

    There are ``paths`` weights between any two layers, instead of the product of their widths. The outputs are linear,
    so that the network can be a classifier (logits) or, with a narrow layer in the middle, an autoencoder. The talk's
    algorithm also applies ReLU to the inputs; here it does not, which makes no difference for pictures.

    A network with more paths contains one with fewer (`grown`).

    With ``step`` h, the layers between the first and the last form residual layers, two in each, which are steps of
    Euler's method (the talk, relations to mathematical objects):

        a_l = a_{l-1} + h W_l^(2) max{0, W_l^(1) a_{l-1}}

    where ``a_0`` is the output of the first layer, and the outputs read the last ``a_l``, both without ReLU. The widths
    are those of the inputs, of ``a_0``, then inside and after each residual layer, and of the outputs:

        >>> net = prernn.PathNetwork([784, 64, 128, 64, 128, 64, 10], paths=1024, step=0.5)  # two residual layers

    Args:
        widths: neurons of each layer, including inputs and outputs.
        paths: number of paths.
        init: initialization of the weights, as in `PathLinear`.
        step: step size h of residual layers; None for a network without them.
        least: use only as many neurons of each hidden layer as get this number of paths each. With fewer Sobol' paths
            than neurons, paths have separate neurons and never meet; with 4 per neuron they do (docs/sparsity.md). 0
            uses all neurons.
        bias: whether layers have biases, which start at 0.
        sampling: how paths are drawn, as in `PathLinear`.

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
        init: str | float = "alternating",
        step: float | None = None,
        least: int = 0,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **sampling: Unpack[Sampling],
    ):
        super().__init__()
        self.sampling = whole_sampling(sampling)
        self.widths, self.paths, self.bias, self.is_merged = list(widths), paths, bias, False
        self.init, self.step = init, None if step is None else _step(step, self.widths)
        self.least = whole("least", least, 0)
        neurons = network_neurons(widths, paths, self.least, **self.sampling)  # (paths, L)
        self.layers = nn.ModuleList(
            PathLinear(
                *(inputs, outputs, paths),
                bias=bias,
                relu=self._reads_relu(number),
                init=init,
                drawn=neurons[:, number : number + 2],
                device=device,
                dtype=dtype,
            )
            for number, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        )

    @property
    def _path_layers(self) -> list[PathLinear]:
        return [layer for layer in self.layers if isinstance(layer, PathLinear)]

    def _reads_relu(self, number: int) -> bool:
        """Whether there is a ReLU between a layer and the one before it."""
        inside = 0 < number < len(self.widths) - 2 and number % 2 == 0  # W^(2) of a residual layer
        return number > 0 if self.step is None else inside

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., widths[0])`` to ``(..., widths[-1])``."""
        if self.step is None:
            for layer in self.layers:
                x = layer(x)
            return x
        first, *inner, last = self.layers
        x = first(x)
        for one, two in zip(inner[::2], inner[1::2], strict=True):
            x = x + self.step * two(one(x))
        out: Tensor = last(x)
        return out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        given = state_dict.get(f"{prefix}layers.0.fingerprint")
        own = self._path_layers[0].fingerprint
        if given is not None and not own.is_meta and int(given) != int(own):
            self._follow(int(given))
        super()._load_from_state_dict(state_dict, prefix, *others)

    @torch.no_grad()
    def _follow(self, fingerprint: int) -> None:
        """Switches to the order of the sequence that gives the paths of a checkpoint (`PathLayer`), if any does."""
        for order in ORDERS:
            other = self._built(self.paths, order=order)
            other = other.merged() if self.is_merged else other
            if int(other._path_layers[0].fingerprint) != fingerprint:
                continue
            self.sampling = other.sampling
            for own, layer in zip(self._path_layers, other._path_layers, strict=True):
                own.lead(torch.stack([layer.source, layer.destination], dim=1))
                if own.weight.shape != layer.weight.shape:  # after merging; optimizers don't know the new one
                    own.weight = nn.Parameter(layer.weight.detach(), own.weight.requires_grad)

    def _built(self, paths: int, **changes: Any) -> "PathNetwork":
        """A network with ``paths`` paths, drawn and initialized like this one."""
        first = self._path_layers[0].weight
        place = {"device": first.device, "dtype": first.dtype}
        built = {"init": self.init, "step": self.step, "least": self.least, "bias": self.bias}
        options = {**self.sampling, **built, **place, **changes}
        return PathNetwork(self.widths, paths, **options)

    @torch.no_grad()
    def grown(self, paths: int) -> "PathNetwork":
        """A network with more paths that contains this one with its weights; the new weights are 0.

        So it computes the same until it is trained.

        Raises:
            ValueError: fewer paths than this network has.
            NotImplementedError: a network whose coincident paths were merged, or one with a ``least`` number of paths,
                which would use other neurons with more paths.
        """
        if self.least:
            raise NotImplementedError("expected a network with least=0: others use different neurons with more paths")
        if self.is_merged:
            raise NotImplementedError("expected a network whose paths were not merged: merging loses paths")
        larger = self._built(whole("paths", paths, self.paths))
        for layer, own in zip(larger._path_layers, self._path_layers, strict=True):
            layer.weight.zero_()
            layer.weight[: self.paths] = own.weight
            if own.bias is not None and layer.bias is not None:
                layer.bias.copy_(own.bias)
        return larger.train(self.training)

    def merged(self) -> "PathNetwork":
        """The same network with one weight for each connection."""
        network = copy.deepcopy(self)
        network.layers, network.is_merged = nn.ModuleList(layer.merged() for layer in self._path_layers), True
        return network

    def report(self) -> str:
        """A text table of the layers: paths, coincident ones, distinct connections and their share of all."""
        rows = []
        for layer in self._path_layers:
            full, distinct = layer.inputs * layer.outputs, layer.paths - layer.coincident
            texts = (f"{layer.paths:,}", f"{layer.coincident:,}", f"{distinct:,}", f"{distinct / full:.2%}")
            rows.append((f"{layer.inputs} to {layer.outputs}", *texts))
        return text_table([("layer", "paths", "coincident", "connections", "of all"), *rows])


def network_neurons(widths: Sequence[int], paths: int, least: int, **sampling: Unpack[Sampling]) -> Tensor:
    """Neurons of each path, ``(paths, L)``; in hidden layers only as many as get ``least`` paths each."""
    used = list(widths)
    for layer in range(1, len(widths) - 1) if least else ():
        used[layer] = min(widths[layer], max(1, paths // least))
    return drawn_paths(used, paths, **sampling)


def _step(step: float, widths: Sequence[int]) -> float:
    """A checked step size for residual layers of these widths."""
    if len(widths) < 5 or len(widths) % 2 == 0 or len(set(widths[1:-1:2])) != 1:
        expected = "[inputs, D, inside, D, .., D, outputs], two layers to each residual one"
        raise ValueError(f"expected widths {expected}, for a step size, got {list(widths)}")
    return real("step", step, -math.inf)
